"""`stagewright du`: what the space of the store is used for."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from stagewright.cli.flags import CommandParser
from stagewright.cli.output import format_age, print_json_lines, print_table
from stagewright.cli.values import one_of
from stagewright.progress.text import format_bytes

if TYPE_CHECKING:
    from stagewright.api import UsageRow


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("du", "Show what the store's space is used for.")
    parser.single(
        "--format",
        metavar="FORMAT",
        type=one_of("table", "json"),
        default="table",
        help="table, or json: one object a line",
    )
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Prints the records, largest first, and their sums."""
    from stagewright.api import Store

    usage = Store(root=options.root, config=options.config).disk_usage()
    usage = sorted(usage, key=lambda row: row.size, reverse=True)
    if options.format == "json":
        print_json_lines([_as_json(row) for row in usage])
        return 0
    now = time.time()
    rows = [
        (
            row.id,
            row.kind,
            format_bytes(row.size),
            format_age(row.created, now),
            format_age(row.last_used, now),
            "yes" if row.in_use else "no",
            row.description,
        )
        for row in usage
    ]
    print_table(("ID", "KIND", "SIZE", "CREATED", "LAST USED", "IN USE", "DESCRIPTION"), rows)
    reclaimable = sum(row.size for row in usage if not row.in_use)
    print(f"\nReclaimable: {format_bytes(reclaimable)}\nTotal: {format_bytes(sum(row.size for row in usage))}")
    return 0


def _as_json(row: UsageRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "size": row.size,
        "created": row.created,
        "last_used": row.last_used,
        "in_use": row.in_use,
        "description": row.description,
    }
