"""`stagewright rm`: removes names of images, and with its last name the image."""

from __future__ import annotations

import argparse

from stagewright.cli.flags import CommandParser
from stagewright.harmless import clean_name


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("rm", "Remove images from the store.", arguments="IMAGE [IMAGE...]", least=1, most=None)
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Removes the images and prints what is gone."""
    from stagewright.api import Store

    store = Store(root=options.root, config=options.config)
    for name in options.arguments:
        for removed in store.remove(name):
            print(clean_name(removed))
    return 0
