"""What the linter finds, and the edits by which a finding is mended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from stagewright.errors import SourceRange
from stagewright.records import dataclass

Level = Literal["warning", "note"]


@dataclass(frozen=True, slots=True)
class LintRule:
    """One kind of advice: its name, what it asks for in one line, why, and how much it matters."""

    name: str
    summary: str
    reason: str
    level: Level = "warning"


@dataclass(frozen=True, slots=True)
class Edit:
    """Characters `start` to `end` (exclusive) of the Dockerfile's text are replaced by `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One piece of advice: the rule, what is wrong here, where, and the edits that mend it, if any do."""

    rule: LintRule
    message: str
    location: SourceRange
    edits: tuple[Edit, ...] = ()


def apply(text: str, findings: Iterable[LintFinding]) -> tuple[str, int]:
    """The text with as many findings mended as have edits that do not meet, and how many those are."""
    taken: list[Edit] = []
    mended = 0
    for finding in findings:
        if not finding.edits:
            continue
        new = [edit for edit in finding.edits if edit not in taken]
        if any(_meet(edit, other) for edit in new for other in taken):
            continue
        taken += new
        mended += 1
    for edit in sorted(taken, key=lambda edit: (edit.start, edit.end), reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text, mended


def diff(text: str, finding: LintFinding, filename: str) -> str:
    """The rewrite of one finding as a unified diff; "" where there is none."""
    import difflib

    if not finding.edits:
        return ""
    changed, _ = apply(text, [finding])
    return "".join(_lines(difflib.unified_diff(_kept(text), _kept(changed), filename, filename, n=1)))


def _kept(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _lines(rows: Iterable[str]) -> Iterable[str]:
    for row in rows:
        yield row if row.endswith("\n") else f"{row}\n"


def _meet(one: Edit, other: Edit) -> bool:
    if one.start == one.end == other.start == other.end:
        return True  # Two insertions at one place have no order.
    return one.start < other.end and other.start < one.end


def located(findings: Sequence[LintFinding]) -> list[LintFinding]:
    """The findings in the order of their lines."""
    return sorted(findings, key=lambda finding: (finding.location.start, finding.rule.name))
