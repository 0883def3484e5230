"""`stagewright inspect`: everything that is known about images, as JSON."""

from __future__ import annotations

import argparse
import sys

from stagewright.cli.flags import CommandParser
from stagewright.cli.output import print_json
from stagewright.harmless import clean_block


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser(
        "inspect", "Show everything about images, as a JSON array.", arguments="IMAGE [IMAGE...]", least=1, most=None
    )
    parser.switch("--layers", help="show what each layer brings and wastes, and the largest folders")
    parser.switch("--json", help="with --layers: as a JSON array")
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Prints one JSON array with an object for each image, or what their layers hold."""
    from stagewright.api import Store

    store = Store(root=options.root, config=options.config)
    if options.layers:
        from stagewright.anatomy.report import layers_text

        layers = [store.layers(name) for name in options.arguments]
        if options.json:
            print_json(layers)
        else:
            sys.stdout.write(clean_block("\n".join(map(layers_text, layers))))
        return 0
    print_json([store.inspect(name) for name in options.arguments])
    return 0
