"""The warnings of a build, as the text displays show them at the end."""

from __future__ import annotations

from collections.abc import Sequence

from stagewright.harmless import clean_block, clean_name
from stagewright.progress.events import WarningEvent


def render_warnings(warnings: Sequence[WarningEvent], *, expand: bool) -> str:
    """All warnings as text that begins and ends with a line feed; "" for none.

    One line each; with `expand`, each with its explanation, its link and the lines that it is about.
    """
    if not warnings:
        return ""
    count = f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''} found"
    if expand:
        return f"\n {count}:\n" + "".join(_expanded(warning) for warning in warnings)
    rows = "".join(f" - {_summary(warning)}\n" for warning in warnings)
    return f"\n {count} (use --debug to expand):\n{rows}"


def _summary(warning: WarningEvent) -> str:
    text = clean_name(warning.short)
    if warning.location is None:
        return text
    place = f"(line {warning.location.start})"
    return text if text.endswith(place) else f"{text} {place}"


def _expanded(warning: WarningEvent) -> str:
    parts = [f" - {_summary(warning)}"]
    parts.extend(clean_block(detail) for detail in warning.detail)
    if warning.url:
        parts.append(f"More info: {clean_name(warning.url)}")
    if warning.location is not None:
        rule = "-" * 20
        parts.append(f"{clean_name(warning.location.source.filename)}:{warning.location.start}")
        parts.extend((rule, clean_block(warning.location.excerpt()), rule))
    return "\n".join(parts) + "\n\n"
