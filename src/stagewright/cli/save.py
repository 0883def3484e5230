"""`stagewright save`: writes images to an archive that `docker load` or OCI tools read."""

from __future__ import annotations

import argparse
import sys

from stagewright.cli.flags import CommandParser
from stagewright.cli.values import one_of
from stagewright.errors import UsageError


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("save", "Write images to an archive.", arguments="IMAGE [IMAGE...]", least=1, most=None)
    parser.single("-o", "--output", metavar="FILE", help="the archive (default standard output)")
    parser.single(
        "--format", metavar="FORMAT", type=one_of("docker", "oci"), default="docker", help="docker (the default) or oci"
    )
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Writes the archive."""
    from stagewright.api import Store

    store = Store(root=options.root, config=options.config)
    if options.output and options.output != "-":
        from stagewright.exporters.destination import whole_file

        with whole_file(options.output) as file:
            store.save(options.arguments, file, format=options.format)
        return 0
    if sys.stdout.isatty():
        raise UsageError("an archive does not belong on a terminal", hint="use -o FILE, or send it on with > or |")
    store.save(options.arguments, sys.stdout.buffer, format=options.format)
    return 0
