"""Events and errors without the values of secrets."""

from __future__ import annotations

from typing import TypeVar

from stagewright.errors import SourceRange, SourceText, StagewrightError, StepFailedError
from stagewright.progress.events import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent
from stagewright.records import replace
from stagewright.secrecy.masks import Masks

E = TypeVar("E", bound=Event)


def masked_event(event: E, masks: Masks) -> E:
    """The event with all its texts masked; a log's bytes are masked as a stream, by whoever sends them."""
    shown: Event = event
    match event:
        case VertexEvent():
            location = _masked_range(event.location, masks)
            name, error, missed = masks.text(event.name), masks.text(event.error), masks.text(event.missed)
            shown = replace(event, name=name, error=error, missed=missed, location=location)
        case StatusEvent():
            shown = replace(event, id=masks.text(event.id))
        case WarningEvent():
            detail = tuple(masks.text(line) for line in event.detail)
            location = _masked_range(event.location, masks)
            shown = replace(event, short=masks.text(event.short), detail=detail, location=location)
        case LogEvent():
            pass
    return shown  # type: ignore[return-value]


def mask_error(error: BaseException, masks: Masks) -> None:
    """Take the values out of an error and of those that led to it, as far as their texts go."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        current.args = tuple(masks.text(value) if isinstance(value, str) else value for value in current.args)
        if isinstance(current, OSError) and isinstance(current.filename, str):
            current.filename = masks.text(current.filename)
        if isinstance(current, StagewrightError):
            _mask_own(current, masks)
        current = current.__cause__ or current.__context__


def _mask_own(error: StagewrightError, masks: Masks) -> None:
    error.message = masks.text(error.message)
    error.hint = None if error.hint is None else masks.text(error.hint)
    error.location = _masked_range(error.location, masks)
    if isinstance(error, StepFailedError):
        error.step = masks.text(error.step)
        error.log_tail = masks.text(error.log_tail)


def _masked_range(location: SourceRange | None, masks: Masks) -> SourceRange | None:
    if location is None:
        return None
    text = masks.text(location.source.text, keep_lines=True)
    if text == location.source.text:
        return location
    return replace(location, source=SourceText(location.source.filename, text))
