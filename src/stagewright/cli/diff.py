"""`stagewright diff`: how two images differ."""

from __future__ import annotations

import argparse
import sys

from stagewright.cli.flags import CommandParser
from stagewright.cli.output import print_json
from stagewright.harmless import clean_block


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser(
        "diff", "Show how the second image differs from the first.", arguments="IMAGE IMAGE", least=2, most=2
    )
    parser.switch("--json", help="as one JSON document, with all files")
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Prints the differences in config, packages and files."""
    from stagewright.anatomy.report import diff_text
    from stagewright.api import Store

    difference = Store(root=options.root, config=options.config).diff(*options.arguments)
    if options.json:
        print_json(difference)
    else:
        sys.stdout.write(clean_block(diff_text(difference)))
    return 0
