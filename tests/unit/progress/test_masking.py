"""That no event and no error holds a secret, whichever of its fields it is in."""

from __future__ import annotations

import os

import pytest

from stagewright.errors import SourceRange, SourceText, StagewrightError, StepFailedError
from stagewright.progress.events import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent
from stagewright.progress.masking import mask_error, masked_event
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.secrecy.masks import Masks

SECRET = "hunter2-hunter2\nhunter3"
MASKS = Masks([SECRET.encode()])
LOCATION = SourceRange(SourceText("Dockerfile", f"FROM a\nENV X={SECRET}\nRUN b"), 4, 4)


@pytest.mark.parametrize(
    "event",
    [
        VertexEvent("sha256:0", f"RUN {SECRET}", error=f"failed: {SECRET}", location=LOCATION),
        StatusEvent("sha256:0", f"copying {SECRET}"),
        WarningEvent("sha256:0", f"see {SECRET}", detail=("fine", SECRET), location=LOCATION),
    ],
)
def test_each_field_of_an_event(event: Event) -> None:
    shown = masked_event(event, MASKS)
    assert "hunter" not in repr(shown)
    location = getattr(shown, "location", None)
    if location is not None:
        # The lines keep their numbers.
        assert location.source.text == "FROM a\nENV X=***\n\nRUN b"
        assert ">>> RUN b" in location.excerpt()


def test_an_event_without_a_secret_stays_as_it_is() -> None:
    location = SourceRange(SourceText("Dockerfile", "RUN a"), 1, 1)
    event = VertexEvent("sha256:0", "RUN a", location=location)
    assert masked_event(event, MASKS) == event
    assert masked_event(event, MASKS).location is location


def test_an_error_and_what_led_to_it() -> None:
    try:
        try:
            os.stat(f"/nowhere/{SECRET}")
        except OSError as cause:
            raise StepFailedError(
                f"ran {SECRET}",
                exit_code=1,
                step=f"RUN {SECRET}",
                log_tail=f"it was {SECRET}",
                location=LOCATION,
                hint=f"not {SECRET}",
            ) from cause
    except StagewrightError as error:
        mask_error(error, MASKS)
        failed = error
    assert isinstance(failed, StepFailedError)
    texts = [str(failed), failed.render(), failed.log_tail, failed.step, str(failed.__cause__), repr(failed)]
    assert [text for text in texts if "hunter" in text] == []
    assert failed.message == str(failed) == "ran ***"


def test_errors_in_a_circle_are_masked_once() -> None:
    first, second = ValueError(SECRET), ValueError(SECRET)
    first.__context__, second.__context__ = second, first
    mask_error(first, MASKS)
    assert (str(first), str(second)) == ("***", "***")


def test_logs_are_masked_across_events_and_what_is_held_back_comes_with_the_end() -> None:
    events: list[Event] = []
    reporter = Reporter(Emitter(events.append, MASKS), VertexEvent("sha256:0", "step"))
    shown = [reporter.log(1, b"value: hunter2-hun"), reporter.log(2, b"ter2\nhunter3")]
    shown += [reporter.log(1, b"ter2\nhun"), reporter.log(1, b"ter3\nhunter2")]
    assert shown == [b"value: ", b"ter2\nhunter3", b"", b"***\n"]
    reporter.end()
    logs = [event for event in events if isinstance(event, LogEvent)]
    assert [(event.stream, event.data) for event in logs] == [
        (1, b"value: "),
        (2, b"ter2\nhunter3"),
        (1, b"***\n"),
        (1, b"hunter2"),
    ]
    assert isinstance(events[-1], VertexEvent)


def test_warnings_are_kept_masked() -> None:
    emitter = Emitter(None, MASKS)
    emitter(WarningEvent("", SECRET))
    assert [warning.short for warning in emitter.warnings] == ["***"]
    assert emitter.masked(f"x{SECRET}") == "x***"
    assert Emitter(None).masked(SECRET) == SECRET
