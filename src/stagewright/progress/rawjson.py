"""`--progress=rawjson`: BuildKit's SolveStatus stream, one JSON object a line.

The keys, their order and which of them are left out when empty are those of BuildKit's `client/graph.go`.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any, TextIO

from stagewright.errors import SourceRange
from stagewright.progress.events import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent
from stagewright.progress.text import is_canceled
from stagewright.redaction import redact_text


class RawJsonDisplay:
    """Writes each event as one line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        match event:
            case VertexEvent():
                status = {"vertexes": [_vertex(event)]}
            case StatusEvent():
                status = {"statuses": [_status(event)]}
            case LogEvent():
                status = {"logs": [_log(event)]}
            case WarningEvent():
                status = {"warnings": [_warning(event)]}
        self._stream.write(json.dumps(status, separators=(",", ":")) + "\n")
        self._stream.flush()

    def close(self, error: BaseException | None) -> None:
        """Nothing is left to say: the failed vertex carries its error."""

    def abandon(self) -> None:
        """Does nothing: the terminal was never changed."""


def rfc3339(seconds: float) -> str:
    """A time since the epoch as Go prints it in JSON: UTC, the fraction without trailing zeros."""
    micros = round(seconds * 1_000_000)
    whole, fraction = divmod(micros, 1_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{text}.{fraction:06d}".rstrip("0") + "Z" if fraction else text + "Z"


def _vertex(event: VertexEvent) -> dict[str, Any]:
    # Readers tell a stopped vertex from a failed one by Go's name for it.
    error = "context canceled" if is_canceled(event.error) else event.error
    return _without_empty(
        digest=event.digest,
        inputs=list(event.inputs),
        name=_text(event.name),
        started=None if event.started is None else rfc3339(event.started),
        completed=None if event.completed is None else rfc3339(event.completed),
        cached=event.cached,
        error=_text(error),
        # BuildKit has no such key, and its readers pass over it.
        missed=_text(event.missed),
    )


def _status(event: StatusEvent) -> dict[str, Any]:
    return {
        "id": _text(event.id),
        **_without_empty(vertex=event.vertex, total=event.total),
        "current": event.current,
        "timestamp": rfc3339(event.timestamp),
        **_without_empty(
            started=None if event.started is None else rfc3339(event.started),
            completed=None if event.completed is None else rfc3339(event.completed),
        ),
    }


def _log(event: LogEvent) -> dict[str, Any]:
    return {
        **_without_empty(vertex=event.vertex, stream=event.stream),
        "data": _base64(event.data),
        "timestamp": rfc3339(event.timestamp),
    }


def _warning(event: WarningEvent) -> dict[str, Any]:
    return _without_empty(
        vertex=event.vertex,
        level=event.level,
        short=_base64(event.short.encode("utf-8", "replace")),
        detail=[_base64(detail.encode("utf-8", "replace")) for detail in event.detail],
        url=_text(event.url),
        sourceInfo=None if event.location is None else _source_info(event.location),
        range=None if event.location is None else [_range(event.location)],
    )


def _source_info(location: SourceRange) -> dict[str, Any]:
    source = location.source
    data = redact_text(source.text).encode("utf-8", "replace")
    return _without_empty(filename=_text(source.filename), data=_base64(data))


def _range(location: SourceRange) -> dict[str, Any]:
    return {"start": {"line": location.start}, "end": {"line": location.end}}


def _without_empty(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _text(text: str) -> str:
    # A name that is no UTF-8 on disk arrives with lone surrogates, which JSON readers refuse.
    return text.encode("utf-8", "replace").decode("utf-8")
