"""`stagewright du`: what the space of the store is used for."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from stagewright.cli.flags import CommandParser
from stagewright.cli.output import format_age, print_json_lines, print_table
from stagewright.cli.values import one_of
from stagewright.harmless import clean_name
from stagewright.policy import TYPES
from stagewright.progress.text import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stagewright.api import UsageRow

HELP_FILTER = (
    "only what this holds for: until=24h (not used since), type=regular, exec.cachemount or source.git.checkout, id=ID,"
    " description~=TEXT, inuse, shared"
)


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("du", "Show what the store's space is used for, and what a prune would free.")
    parser.repeatable("--filter", metavar="FILTER", help=HELP_FILTER)
    parser.switch("--verbose", help="show all that is known of each record")
    parser.single(
        "--format",
        metavar="FORMAT",
        type=one_of("table", "json"),
        default="table",
        help="table, or json: one object a line",
    )
    parser.switch("--json", help="short for --format=json")
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Prints the records, largest first, and their sums."""
    from stagewright.api import Store

    usage = Store(root=options.root, config=options.config).disk_usage(options.filter)
    usage = sorted(usage, key=lambda row: row.size, reverse=True)
    if options.json or options.format == "json":
        print_json_lines([_as_json(row) for row in usage])
    else:
        print_usage(usage, verbose=options.verbose)
        print()
        _print_sums(usage)
    return 0


def print_usage(usage: Sequence[UsageRow], *, verbose: bool) -> None:
    """Prints records: a table or, where `verbose`, all that is known of each."""
    if verbose:
        print(
            "\n\n".join(
                "\n".join(f"{name + ':':<13} {clean_name(value)}" for name, value in _facts(row)) for row in usage
            )
        )
        return
    now = time.time()
    rows = [
        (
            row.id,
            row.kind,
            _yes(row.reclaimable),
            _yes(row.shared),
            format_bytes(row.size),
            format_age(row.last_used if row.last_used is not None else row.created, now),
            row.description,
        )
        for row in usage
    ]
    print_table(("ID", "KIND", "RECLAIMABLE", "SHARED", "SIZE", "LAST USED", "DESCRIPTION"), rows)


def _print_sums(usage: Sequence[UsageRow]) -> None:
    """Prints the bytes of each kind, and of all."""
    for kind in dict.fromkeys(row.kind for row in usage):
        print(f"{kind.capitalize()}: {format_bytes(sum(row.size for row in usage if row.kind == kind))}")
    shared = sum(row.size for row in usage if row.shared)
    total = sum(row.size for row in usage)
    if shared:
        print(f"Shared: {format_bytes(shared)}\nPrivate: {format_bytes(total - shared)}")
    print(f"Reclaimable: {format_bytes(sum(row.size for row in usage if row.reclaimable))}")
    print(f"Total: {format_bytes(total)}")


def _facts(row: UsageRow) -> list[tuple[str, str]]:
    now = time.time()
    facts = [
        ("ID", row.id),
        ("Parent", row.parent or ""),
        ("Created", format_age(row.created, now)),
        ("In use", _yes(row.in_use)),
        ("Reclaimable", _yes(row.reclaimable)),
        ("Shared", _yes(row.shared)),
        ("Size", format_bytes(row.size)),
        ("Description", row.description),
        ("Last used", format_age(row.last_used, now)),
        ("Kind", row.kind),
        ("Type", TYPES[row.kind]),
    ]
    return [(name, value) for name, value in facts if value]


def _yes(value: bool) -> str:
    return "true" if value else "false"


def _as_json(row: UsageRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "type": TYPES.get(row.kind, row.kind),
        "size": row.size,
        "created": row.created,
        "last_used": row.last_used,
        "in_use": row.in_use,
        "reclaimable": row.reclaimable,
        "shared": row.shared,
        "parent": row.parent,
        "description": row.description,
    }
