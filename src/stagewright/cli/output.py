"""What commands write to standard output: aligned tables, JSON lines, sizes, ages and short digests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from stagewright.harmless import clean_name
from stagewright.progress.text import cell_width


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows below their headers, columns two spaces apart."""
    cells = [list(headers), *([clean_name(cell) for cell in row] for row in rows)]
    widths = [max(cell_width(row[column]) for row in cells) for column in range(len(headers))]
    for row in cells:
        padded = [cell + " " * (width - cell_width(cell)) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(padded).rstrip())


def print_json_lines(rows: Sequence[Any]) -> None:
    """Prints each row, made of plain data, as one line of JSON."""
    for row in rows:
        print(json.dumps(row))


def print_json(document: Any) -> None:
    """Prints plain data as one indented JSON document."""
    print(json.dumps(document, indent=2))


def short_digest(digest: str | None) -> str:
    """The first twelve digits of a digest, as Docker's tables show image IDs."""
    return (digest or "").partition(":")[2][:12]


def format_age(then: float | None, now: float) -> str:
    """How long ago a time (seconds since the epoch) was: `5 minutes ago`; "" for None."""
    if then is None:
        return ""
    seconds = int(max(0.0, now - then))
    for unit, length in (("year", 31_536_000), ("month", 2_592_000), ("week", 604_800), ("day", 86_400)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}s ago"
    for unit, length in (("hour", 3_600), ("minute", 60), ("second", 1)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"
