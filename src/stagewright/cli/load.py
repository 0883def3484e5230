"""`stagewright load`: reads images from an archive into the store."""

from __future__ import annotations

import argparse
import sys

from stagewright.cli.flags import CommandParser
from stagewright.errors import IntegrityError, NotFoundError, UsageError
from stagewright.harmless import clean_name


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("load", "Read images from an OCI or Docker archive.")
    parser.single("-i", "--input", metavar="FILE", help="the archive (default standard input)")
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Reads the archive and prints the names of what was in it."""
    from stagewright.api import Store

    store = Store(root=options.root, config=options.config)
    if options.input and options.input != "-":
        try:
            with open(options.input, "rb") as file:
                names = store.load(file)
        except OSError as error:
            raise NotFoundError(f"cannot read {options.input}: {error.strerror}") from error
        except IntegrityError as error:
            raise IntegrityError(f"cannot load {options.input}: {error.message}", hint=error.hint) from error
    else:
        if sys.stdin.isatty():
            raise UsageError("no archive on standard input", hint="use -i FILE, or send one with < or |")
        names = store.load(sys.stdin.buffer)
    for name in names:
        print(f"Loaded image: {clean_name(name)}")
    return 0
