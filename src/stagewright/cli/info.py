"""`stagewright info`: what this machine supports, and the settings in force."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from stagewright.cli.flags import CommandParser
from stagewright.cli.output import print_json
from stagewright.cli.values import one_of
from stagewright.harmless import clean_name


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("info", "Show what this machine supports, and the settings in force.")
    parser.single("--format", metavar="FORMAT", type=one_of("text", "json"), default="text", help="text or json")
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Prints the facts."""
    from stagewright.api import Store

    facts = Store(root=options.root, config=options.config).info()
    if options.format == "json":
        print_json(facts)
    else:
        for line in _lines(facts, ""):
            print(line)
    return 0


def _lines(facts: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{clean_name(key)}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{clean_name(key)}: {_word(value)}"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_word, value)) or "none"
    return "none" if value is None or value == {} else clean_name(str(value))
