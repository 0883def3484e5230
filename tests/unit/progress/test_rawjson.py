import base64
import io
import json
from typing import Any

from stagewright.errors import SourceRange, SourceText
from stagewright.progress.events import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent
from stagewright.progress.rawjson import RawJsonDisplay, rfc3339


def written(event: Event) -> Any:
    stream = io.StringIO()
    display = RawJsonDisplay(stream)
    display(event)
    display.close(None)
    assert stream.getvalue().count("\n") == 1
    return json.loads(stream.getvalue())


def test_vertex_without_anything() -> None:
    assert written(VertexEvent("sha256:a", "FROM\x1b[2J x")) == {
        "vertexes": [{"digest": "sha256:a", "name": "FROM\x1b[2J x"}]
    }


def test_vertex_with_everything() -> None:
    event = VertexEvent("sha256:a", "n", ("sha256:b",), 0.5, 2.0, True, "exit code: 1", missed="a changed")
    assert written(event)["vertexes"] == [
        {
            "digest": "sha256:a",
            "inputs": ["sha256:b"],
            "name": "n",
            "started": "1970-01-01T00:00:00.5Z",
            "completed": "1970-01-01T00:00:02Z",
            "cached": True,
            "error": "exit code: 1",
            "missed": "a changed",
        }
    ]


def test_a_stopped_vertex_has_the_error_that_readers_know() -> None:
    assert written(VertexEvent("sha256:a", "n", error="build canceled"))["vertexes"][0]["error"] == "context canceled"


def test_status_always_has_current_and_timestamp() -> None:
    assert written(StatusEvent("sha256:a", "layer", timestamp=1.0))["statuses"] == [
        {"id": "layer", "vertex": "sha256:a", "current": 0, "timestamp": "1970-01-01T00:00:01Z"}
    ]
    assert written(StatusEvent("sha256:a", "layer", 1, 2, 3.0, 1.0, 3.0))["statuses"] == [
        {
            "id": "layer",
            "vertex": "sha256:a",
            "total": 2,
            "current": 1,
            "timestamp": "1970-01-01T00:00:03Z",
            "started": "1970-01-01T00:00:01Z",
            "completed": "1970-01-01T00:00:03Z",
        }
    ]


def test_log_data_is_base64() -> None:
    log = written(LogEvent("sha256:a", 2, b"\xff\x00\n", 1.25))["logs"][0]
    assert base64.b64decode(log["data"]) == b"\xff\x00\n"
    assert log["stream"] == 2
    assert log["timestamp"] == "1970-01-01T00:00:01.25Z"


def test_warning_with_its_source() -> None:
    location = SourceRange(SourceText("Dockerfile", "FROM a\n"), 1, 1)
    event = WarningEvent("sha256:a", "short", detail=("more",), url="https://example.com", location=location)
    warning = written(event)["warnings"][0]
    assert base64.b64decode(warning["short"]) == b"short"
    assert [base64.b64decode(line) for line in warning["detail"]] == [b"more"]
    assert warning["url"] == "https://example.com"
    assert warning["sourceInfo"] == {"filename": "Dockerfile", "data": base64.b64encode(b"FROM a\n").decode()}
    assert warning["range"] == [{"start": {"line": 1}, "end": {"line": 1}}]


def test_names_that_are_no_utf8_are_still_json() -> None:
    assert written(VertexEvent("sha256:a", "COPY \udcff"))["vertexes"][0]["name"] == "COPY ?"


def test_times_are_as_go_prints_them() -> None:
    assert rfc3339(1700000000.0) == "2023-11-14T22:13:20Z"
    assert rfc3339(1700000000.120000) == "2023-11-14T22:13:20.12Z"
