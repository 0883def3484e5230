"""`stagewright build --call`: what is asked of a Dockerfile instead of a build, and the answers in buildx's forms.

The JSON is that of BuildKit's subrequests (frontend.lint, frontend.outline, frontend.targets), version 1.0.0.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stagewright.cli.values import csv_fields, parse_bool
from stagewright.errors import SourceRange, StagewrightError, UsageError
from stagewright.harmless import clean_block, clean_name
from stagewright.records import dataclass

if TYPE_CHECKING:
    from stagewright.api import CheckReport, Outline, TargetList
    from stagewright.reports import CheckWarning

_METHODS = {"build": "build", "check": "check", "lint": "check", "outline": "outline", "targets": "targets"}
_VERSION = "1.0.0"
_RULE = "-" * 20


@dataclass(frozen=True, slots=True)
class Call:
    """What `--call` asks for: a method ("build" for none), whether as JSON, and whether the status counts."""

    method: str
    as_json: bool = False
    ignore_status: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call answers: text and JSON for standard output, text for standard error, and the exit status."""

    text: str
    data: dict[str, Any]
    complaint: str = ""
    status: int = 0

    def metadata(self) -> dict[str, Any]:
        """What buildx writes to the file of --metadata-file."""
        return {
            "result.json": self.data,
            "result.statuscode": str(self.status),
            "result.txt": self.text,
            "version": _VERSION,
        }


def parse_call(text: str) -> Call:
    """A call from `METHOD[,format=json][,ignorestatus=true]`. Raises UsageError."""
    method, as_json, ignore_status = "", False, False
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if not equals:
            if method:
                raise UsageError(f"{text!r} names two methods")
            method = field
        elif key == "format":
            as_json = value == "json"
        elif key == "ignorestatus":
            ignore_status = parse_bool(value)
        else:
            raise UsageError(f"unknown key {key!r} in {text!r}", hint="METHOD[,format=json][,ignorestatus=true]")
    if method not in _METHODS:
        raise UsageError(f"unknown method {method!r}", hint="one of build, check, outline, targets")
    return Call(_METHODS[method], as_json, ignore_status)


def parse_check(text: str) -> Call:
    """The call that `--check` stands for."""
    return Call("check" if parse_bool(text) else "build")


# --- answers ----------------------------------------------------------------------------------------------------------


def answer_check(report: CheckReport, shown: str) -> Answer:
    """What the checks found; the Dockerfile is called `shown` in the text."""
    count = len(report.warnings)
    parts = []
    if count:
        found = "1 warning has" if count == 1 else f"{count} warnings have"
        parts.append(f"Check complete, {found} been found!\n")
    parts += [_warning_text(warning, shown) for warning in sorted(report.warnings, key=_line)]
    complaint = ""
    if report.error is not None:
        complaint = _error_text(report.error, report.source.filename, shown)
        parts += ["\n"] if count else []
    elif not count:
        parts.append("Check complete, no warnings found.\n")
    data: dict[str, Any] = {"warnings": [_warning_json(warning) for warning in report.warnings] or None}
    name = os.path.basename(report.source.filename)
    source = {"filename": name, "data": _encoded(report.source.text), "language": "Dockerfile"}
    data["sources"] = [{key: value for key, value in source.items() if value}]
    if report.error is not None:
        location = _location(report.error.location) if report.error.location is not None else {}
        data["buildError"] = {"message": report.error.message, "location": location}
    return Answer("".join(parts), data, complaint, 1 if count or report.error is not None else 0)


def answer_outline(outline: Outline) -> Answer:
    """What the target can be given."""
    parts = []
    if outline.name or outline.description:
        rows = [("TARGET:", outline.name or "(default)")]
        rows += [("DESCRIPTION:", outline.description)] if outline.description else []
        parts.append(_table(rows, 1))
    if outline.args:
        rows3 = [(arg.name, arg.value, arg.description) for arg in outline.args]
        parts.append(_table([("BUILD ARG", "VALUE", "DESCRIPTION"), *rows3], 3))
    data: dict[str, Any] = {"name": outline.name, "description": outline.description}
    data["args"] = [
        _filled(name=arg.name, description=arg.description, value=arg.value, location=_location(arg.location))
        for arg in outline.args
    ]
    for key, title, mounts in (("secrets", "SECRET", outline.secrets), ("ssh", "SSH", outline.ssh)):
        if mounts:
            rows = [(mount.name, "true" if mount.required else "") for mount in mounts]
            parts.append(_table([(title, "REQUIRED"), *rows], 3))
        data[key] = [_filled(name=m.name, required=m.required, location=_location(m.location)) for m in mounts]
    data["sources"] = [_encoded(outline.source.text)]
    return Answer("".join(f"{part}\n" for part in parts), _filled(**data))


def answer_targets(report: TargetList) -> Answer:
    """Which stages there are."""
    rows = [("TARGET", "DESCRIPTION")]
    found = []
    for target in report.targets:
        name = f"{target.name} (default)" if target.default and target.name else target.name
        rows.append((name or ("(default)" if target.default else ""), target.description))
        found.append(
            _filled(
                name=target.name,
                default=target.default,
                description=target.description,
                base=target.base,
                platform=target.platform,
                location=_location(target.location),
            )
        )
    return Answer(_table(rows, 1), {"targets": found, "sources": [_encoded(report.source.text)]})


def _line(warning: CheckWarning) -> int:
    return warning.location.start


def _warning_text(warning: CheckWarning, shown: str) -> str:
    link = f" - {warning.url}" if warning.url else ""
    detail = clean_block(warning.detail)
    return f"\nWARNING: {warning.rule}{link}\n{detail}\n{_source_text(warning.location, shown)}"


def _error_text(error: StagewrightError, filename: str, shown: str) -> str:
    text = f"ERROR: {clean_block(error.message)}\n"
    if error.location is not None:
        own = error.location.source.filename
        text += _source_text(error.location, shown if own == filename else own)
    return text + (f"hint: {clean_block(error.hint)}\n" if error.hint else "")


def _source_text(location: SourceRange, shown: str) -> str:
    """The lines of a place and some around it, as BuildKit's clients print them."""
    lines = location.source.text.split("\n")
    start, end = location.start, min(location.end, len(lines))
    if start > len(lines):
        return ""
    first, last = start, end
    added, wanted = 0, 4 if start == end else 2
    while added < wanted:
        before, after = first > 1, last != len(lines)
        first -= before
        last += after
        added += before + after + 1
    rows = [f"{clean_name(shown)}:{start}", _RULE]
    for number in range(first, last + 1):
        mark = ">>>" if start <= number <= end else "   "
        rows.append(f" {number:>3} | {mark} {clean_block(lines[number - 1])}")
    return "\n".join([*rows, _RULE, ""])


def _table(rows: Sequence[tuple[str, ...]], padding: int) -> str:
    """Rows in columns, as Go's text/tabwriter aligns them: the last column is not filled up."""
    cleaned = [[clean_name(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in cleaned) + padding for at in range(len(cleaned[0]) - 1)]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1] + "\n" for row in cleaned
    )


def _filled(**fields: Any) -> dict[str, Any]:
    """The fields that are not empty: as Go's `omitempty` leaves out the others."""
    return {key: value for key, value in fields.items() if value}


def _warning_json(warning: CheckWarning) -> dict[str, Any]:
    return _filled(
        ruleName=warning.rule,
        description=warning.description,
        url=warning.url,
        detail=warning.detail,
        location=_location(warning.location),
    )


def _location(location: SourceRange) -> dict[str, Any]:
    return {"ranges": [{"start": {"line": location.start}, "end": {"line": location.end}}]}


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode(errors="surrogateescape")).decode()
