import io
import subprocess
import sys

import pytest
from fake_terminal import FakeTerminal

from stagewright.errors import SourceRange, SourceText, StagewrightError, StepFailedError, UsageError
from stagewright.progress.display import SilentDisplay, open_display
from stagewright.progress.failure import render_failure
from stagewright.progress.plain import PlainDisplay
from stagewright.progress.rawjson import RawJsonDisplay
from stagewright.progress.tty import TtyDisplay


@pytest.mark.parametrize(
    ("mode", "environ", "kind"),
    [
        ("auto", {"TERM": "xterm"}, TtyDisplay),
        (None, {"TERM": "xterm"}, TtyDisplay),
        ("auto", {"TERM": "dumb"}, PlainDisplay),
        ("auto", {}, PlainDisplay),
        (None, {"TERM": "xterm", "BUILDKIT_PROGRESS": "plain"}, PlainDisplay),
        ("tty", {"BUILDKIT_PROGRESS": "plain"}, TtyDisplay),
        ("rawjson", {}, RawJsonDisplay),
        ("quiet", {}, SilentDisplay),
        ("none", {}, SilentDisplay),
    ],
)
def test_modes_on_a_terminal(mode: str | None, environ: dict[str, str], kind: type) -> None:
    assert type(open_display(mode, FakeTerminal(), environ=environ)) is kind


def test_auto_in_a_pipe_is_plain() -> None:
    assert type(open_display("auto", io.StringIO(), environ={"TERM": "xterm"})) is PlainDisplay


def test_unknown_mode_and_missing_terminal_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="'fancy'"):
        open_display("fancy", io.StringIO(), environ={})
    with pytest.raises(UsageError, match="terminal"):
        open_display("tty", io.StringIO(), environ={})


def test_plain_display_imports_nothing_heavy() -> None:
    code = (
        "import sys; from stagewright.progress.display import open_display; open_display('plain', sys.stderr);"
        "print(*{'rich', 'json', 'base64', 'unicodedata', 'stagewright.progress.tty'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


SOURCE = SourceText("Dockerfile", "FROM a\nRUN one\nRUN two\n")


def test_failure_of_a_step() -> None:
    error = StepFailedError(
        'process "/bin/sh -c two" did not complete successfully: exit code: 1',
        exit_code=1,
        step="RUN two",
        stage="build 2/2",
        log_tail="E: no\x1b[2J\r\nE: never\n",
        location=SourceRange(SOURCE, 3, 3),
        hint="try again",
    )
    assert render_failure(error, doing="failed to build") == (
        "------\n > [build 2/2] RUN two:\nE: no\nE: never\n------\nDockerfile:3\n--------------------\n"
        "1 |     FROM a\n2 |     RUN one\n3 | >>> RUN two\n--------------------\n"
        'ERROR: failed to build: process "/bin/sh -c two" did not complete successfully: exit code: 1\n'
        "hint: try again\n"
    )
    assert render_failure(error, with_log=False).startswith("Dockerfile:3\n")


def test_failure_without_place_or_log() -> None:
    assert render_failure(StagewrightError("no \x1b]0;x\x07way")) == "ERROR: no way\n"
    assert render_failure(StagewrightError("no"), colour=True) == "\x1b[31mERROR:\x1b[0m no\n"
    error = StepFailedError("x", exit_code=1, step="[a 1/1] RUN x", stage="a")
    assert render_failure(error) == "------\n > [a 1/1] RUN x:\n------\nERROR: x\n"
