"""`stagewright.build()`: the same power from Python, with events and exceptions."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from harness import PROJECT, Files
from workbench import Workbench, wait_for_children

import stagewright
from stagewright.api import Output, SecretSource, Store
from stagewright.errors import (
    CanceledError,
    DockerfileError,
    NotFoundError,
    StagewrightError,
    StepFailedError,
    UsageError,
)
from stagewright.progress.events import Event, LogEvent, VertexEvent


@pytest.fixture
def common(bench: Workbench) -> dict[str, Any]:
    """The arguments that all builds share."""
    return {"context": bench.context, "root": bench.stagewright.root, "config": bench.stagewright.config}


def test_an_image_with_everything(bench: Workbench, common: dict[str, Any], tmp_path: Path) -> None:
    bench.dockerfile("""
        FROM busybox AS wanted
        ARG NAME
        RUN --mount=type=secret,id=word,required echo "$NAME $(cat /run/secrets/word | wc -c)" > /result
        FROM wanted
        RUN exit 1
    """)
    events: list[Event] = []
    result = stagewright.build(
        **common,
        tags=["app:1"],
        target="wanted",
        build_args={"NAME": "library"},
        secrets=[SecretSource("word", data=b"12345")],
        labels={"made": "by hand"},
        outputs=[Output("image"), Output("tar", str(tmp_path / "files.tar"))],
        on_event=events.append,
    )
    assert result.names == ("docker.io/library/app:1",)
    assert Files.read((tmp_path / "files.tar").read_bytes()).text("/result") == "library 5\n"
    assert result.metadata()["containerimage.digest"] == result.digest
    assert any(isinstance(event, VertexEvent) and event.completed for event in events)
    (image,) = Store(bench.stagewright.root).images()
    assert (image.name, image.digest, image.config_digest) == ("app:1", result.digest, result.config_digest)


def test_a_dockerfile_as_text_and_a_cached_build(common: dict[str, Any]) -> None:
    text = b"FROM busybox\nRUN echo hello\n"
    logs: list[bytes] = []

    def keep(event: Event) -> None:
        if isinstance(event, LogEvent):
            logs.append(event.data)

    first = stagewright.build(**common, dockerfile=text, on_event=keep)
    assert b"".join(logs) == b"hello\n"
    cached: dict[str, bool] = {}
    second = stagewright.build(
        **common,
        dockerfile=text,
        on_event=lambda event: cached.update({event.name: event.cached}) if isinstance(event, VertexEvent) else None,
    )
    assert first.digest == second.digest
    assert cached["[2/2] RUN echo hello"]


def test_errors_are_exceptions(common: dict[str, Any]) -> None:
    with pytest.raises(StepFailedError) as failed:
        stagewright.build(**common, dockerfile=b"FROM busybox AS here\n\nRUN echo why; exit 9\nFROM here\n")
    assert (failed.value.exit_code, failed.value.stage, failed.value.log_tail) == (9, "here", "why")
    assert failed.value.location is not None
    assert (failed.value.location.start, failed.value.location.end) == (3, 3)
    with pytest.raises(DockerfileError):
        stagewright.build(**common, dockerfile=b"FORM busybox\n")
    with pytest.raises(DockerfileError):
        stagewright.build(**common, dockerfile=b"FROM busybox\n", target="missing")
    with pytest.raises(UsageError):
        stagewright.build(**common, dockerfile=b"FROM busybox\n", outputs=[Output("mystery")])
    with pytest.raises(NotFoundError):
        stagewright.build(**{**common, "context": "/does/not/exist"})
    with pytest.raises(StagewrightError):
        stagewright.build(**common, dockerfile=b"FROM busybox:never-pushed\n")


def test_cancel_from_another_thread(common: dict[str, Any]) -> None:
    cancel = threading.Event()

    def stop(event: Event) -> None:
        if isinstance(event, LogEvent) and b"I am" in event.data:
            cancel.set()

    with pytest.raises(CanceledError):
        stagewright.build(
            **common, dockerfile=b"FROM busybox\nRUN echo I am; sleep 1000\n", on_event=stop, cancel=cancel
        )
    stagewright.build(**common, dockerfile=b"FROM busybox\nRUN echo after\n")


def test_an_error_of_the_callback_comes_out(common: dict[str, Any]) -> None:
    def refuse(event: Event) -> None:
        if isinstance(event, LogEvent):
            raise ValueError("of the caller")

    with pytest.raises(ValueError, match="of the caller"):
        stagewright.build(**common, dockerfile=b"FROM busybox\nRUN echo x; sleep 1000\n", on_event=refuse)


def test_builds_in_threads_share_a_store(common: dict[str, Any], tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def one(number: int) -> None:
        try:
            stagewright.build(
                **common,
                dockerfile=f"FROM busybox\nRUN echo shared > /shared\nRUN echo {number} > /own\n".encode(),
                outputs=[Output("tar", str(tmp_path / f"{number}.tar"))],
            )
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for number in range(4):
        assert Files.read((tmp_path / f"{number}.tar").read_bytes()).text("/own") == f"{number}\n"


def test_a_build_leaves_nothing_in_the_process(common: dict[str, Any]) -> None:
    def facts() -> tuple[int, int, str, str]:
        # What syncs the disk afterwards ends by itself.
        wait_for_children()
        children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()
        mounts = Path("/proc/self/mountinfo").read_text()
        return len(os.listdir("/proc/self/fd")), threading.active_count(), mounts, children

    stagewright.build(**common, dockerfile=b"FROM busybox\nRUN true\n", outputs=[Output("cacheonly")])
    before = facts()
    stagewright.build(**common, dockerfile=b"FROM busybox\nRUN echo again\n", outputs=[Output("cacheonly")])
    assert facts() == before


def test_the_readmes_example(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (PROJECT / "README.md").read_text()
    blocks = [block.partition("```")[0] for block in readme.split("```python\n")[1:]]
    (example,) = [block for block in blocks if "stagewright.build(" in block]
    bench.dockerfile("""
        FROM busybox AS production
        ARG PYTHON
        RUN --mount=type=secret,id=npmrc,required [ "$PYTHON" = 3.13 ]
        FROM missing.invalid/image
    """)
    monkeypatch.chdir(bench.context)
    monkeypatch.setenv("STAGEWRIGHT_ROOT", str(bench.stagewright.root))
    monkeypatch.setenv("STAGEWRIGHT_CONFIG", str(bench.stagewright.config))
    secret = bench.write("npmrc", "token")
    exec(compile(example.replace("/root/.npmrc", str(secret)), "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1].startswith("sha256:")
    assert (bench.context / "app.tar").exists()
