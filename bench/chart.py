"""The results as a bar chart in SVG: a panel for each case, with a scale of its own."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from race import Row

_COLOURS = {"stagewright": "#2563eb", "docker": "#f59e0b", "buildkit": "#10b981", "buildah": "#a855f7"}
_FLOOR_COLOUR = "#111827"
_WIDTH = 880
_LEFT = 110
_RIGHT = 90
_TITLE_HEIGHT = 26
_BAR_HEIGHT = 16
_BAR_STEP = 20
_GAP = 12
_TOP = 74


def draw(rows: Sequence[Row], title: str, where: str) -> str:
    """An SVG document: for each case a bar a builder, and a black line where the floor is.

    `title` says what was raced and `where` on which machine, and when.
    """
    parts: list[str] = []
    top = _TOP
    for row in rows:
        panel, height = _panel(row, top)
        parts += panel
        top += height + _GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" viewBox="0 0 {_WIDTH} {top}" '
        'font-family="sans-serif" font-size="13">'
    )
    background = f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>'
    heading = _text(16, 24, title, size=16, weight="bold")
    machine = _text(16, 44, where)
    legend = _text(16, 62, "Seconds, median. Shorter is better. The black line is the floor: plain system commands.")
    return "\n".join([head, background, heading, machine, legend, *parts, "</svg>"]) + "\n"


def _panel(row: Row, top: int) -> tuple[list[str], int]:
    """The shapes of one case that begins at `top`, and their height."""
    medians = {name: times.median_s for name, times in row.builders.items()}
    floor_s = row.floor.median_s
    longest_s = max([seconds for seconds in [*medians.values(), floor_s] if seconds is not None], default=1.0) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / longest_s
    shapes = [_text(16, top + 16, f"{row.case.name}: {row.case.what}", weight="bold")]
    first = top + _TITLE_HEIGHT
    for number, (name, seconds) in enumerate(medians.items()):
        y = first + number * _BAR_STEP
        shapes.append(_text(_LEFT - 8, y + 12, name, anchor="end"))
        if seconds is None:
            shapes.append(_text(_LEFT + 6, y + 12, "failed"))
            continue
        width = max(seconds * scale, 1.0)
        colour = _COLOURS.get(name, "#6b7280")
        shapes.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR_HEIGHT}" fill="{colour}"/>')
        shapes.append(_text(_LEFT + width + 6, y + 12, f"{seconds:.2f} s"))
    height = _TITLE_HEIGHT + _BAR_STEP * len(medians)
    if floor_s is not None:
        x = _LEFT + floor_s * scale
        shapes.append(
            f'<line x1="{x:.1f}" y1="{first - 3}" x2="{x:.1f}" y2="{top + height}" '
            f'stroke="{_FLOOR_COLOUR}" stroke-width="2"/>'
        )
    return shapes, height


def _text(x: float, y: float, text: str, *, size: int = 13, weight: str = "normal", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
