"""How results are shown: a table of text, and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cases import CLAIMS, Claim, Growth
from race import Row, Times

OURS = "stagewright"


def header(builders: Sequence[str]) -> str:
    """The table's first line."""
    cells = [f"{'case':<16}", f"{'floor':>9}", *(f"{name:>11}" for name in builders)]
    cells += [f"{'/ ' + name:>11}" for name in builders if name != OURS]
    return " ".join([*cells, f"{'/ floor':>9}"])


def line(row: Row, builders: Sequence[str]) -> str:
    """One case: seconds of the floor and of each builder, then Stagewright's as a multiple of theirs."""
    ours = row.builders.get(OURS)
    cells = [f"{row.case.name:<16}", f"{_seconds(row.floor):>9}"]
    cells += [f"{_seconds(row.builders.get(name)):>11}" for name in builders]
    cells += [f"{_ratio(ours, row.builders.get(name)):>11}" for name in builders if name != OURS]
    return " ".join([*cells, f"{_ratio(ours, row.floor):>9}"])


def memory_lines(rows: Sequence[Row], builders: Sequence[str]) -> list[str]:
    """The most memory of each builder at each case, in MiB."""
    lines = [" ".join([f"{'peak MiB':<16}", *(f"{name:>11}" for name in builders)])]
    for row in rows:
        peaks = [row.builders[name].peak_mib if name in row.builders else None for name in builders]
        shown = ["-" if peak is None else f"{peak:.0f}" for peak in peaks]
        lines.append(" ".join([f"{row.case.name:<16}", *(f"{cell:>11}" for cell in shown)]))
    return lines


def growth_line(growth: Growth, small: Row, large: Row, unchanged: Row | None = None) -> str:
    """How many times longer ten times as much takes: the floor, and each builder; and beyond what no change takes."""
    pairs = [("floor", small.floor, large.floor)]
    pairs += [(name, small.builders[name], large.builders[name]) for name in small.builders if name in large.builders]
    cells = [f"{name} {_ratio(more, less)} ({_seconds(less)} -> {_seconds(more)})" for name, less, more in pairs]
    line = f"{growth.name:<16} ten times as much takes, times longer: {', '.join(cells)}"
    beyond = [_beyond(name, small, large, unchanged.builders[name]) for name in unchanged.builders] if unchanged else []
    return "; beyond a build of which nothing changed: ".join([line, ", ".join(beyond)]) if beyond else line


def _beyond(name: str, small: Row, large: Row, unchanged: Times) -> str:
    """How many times longer the large case takes than the small one, without what both take anyway."""
    less, more = (row.builders[name].median_s if name in row.builders else None for row in (small, large))
    none = unchanged.median_s
    if less is None or more is None or none is None or less <= none:
        return f"{name} -"
    return f"{name} {(more - none) / (less - none):.2f} ({none:.3f} s)"


def claim_lines(rows: Sequence[Row]) -> list[str]:
    """Whether Stagewright does what it says, as far as the cases were run."""
    measured = {row.case.name: row for row in rows}
    return [_claim_line(claim, measured[claim.case]) for claim in CLAIMS if claim.case in measured]


def _claim_line(claim: Claim, row: Row) -> str:
    took_s = row.builders[OURS].median_s if OURS in row.builders else None
    if took_s is not None and claim.above_floor:
        took_s = took_s - row.floor.median_s if row.floor.median_s is not None else None
    verdict = "not measured"
    if took_s is not None:
        verdict = f"{took_s:.3f} s, {'below' if took_s < claim.limit_s else 'NOT below'} {claim.limit_s:g} s"
    return f"{claim.text}: {verdict}"


def errors(rows: Sequence[Row]) -> list[str]:
    """What went wrong, a paragraph each."""
    return [
        f"{row.case.name}, {name}: {times.error}"
        for row in rows
        for name, times in [("floor", row.floor), *row.builders.items()]
        if times.error is not None
    ]


def as_json(row: Row) -> dict[str, Any]:
    """One case as plain data."""
    return {
        "case": row.case.name,
        "what": row.case.what,
        "floor": {"what": row.case.floor_name, **_times_json(row.floor)},
        "builders": {name: _times_json(times) for name, times in row.builders.items()},
    }


def _times_json(times: Times) -> Mapping[str, Any]:
    if times.error is not None:
        return {"error": times.error}
    data: dict[str, Any] = {"median_s": _rounded(times.median_s), "runs_s": [_rounded(run) for run in times.runs_s]}
    if times.peak_mib is not None:
        data["peak_mib"] = round(times.peak_mib, 1)
    return data


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _seconds(times: Times | None) -> str:
    if times is None:
        return "-"
    return "failed" if times.median_s is None else f"{times.median_s:.3f} s"


def _ratio(times: Times | None, other: Times | None) -> str:
    if times is None or other is None or times.median_s is None or not other.median_s:
        return "-"
    return f"{times.median_s / other.median_s:.2f}"
