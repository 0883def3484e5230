"""`stagewright inspect`: everything that is known about images, as JSON."""

from __future__ import annotations

import argparse

from stagewright.cli.flags import CommandParser
from stagewright.cli.output import print_json


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser(
        "inspect", "Show everything about images, as a JSON array.", arguments="IMAGE [IMAGE...]", least=1, most=None
    )
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Prints one JSON array with an object for each image."""
    from stagewright.api import Store

    store = Store(root=options.root, config=options.config)
    print_json([store.inspect(name) for name in options.arguments])
    return 0
