"""The solver's decisions: what runs, what is cached, what fails how."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_work import Build, Store, at, context, copy, named, run

from stagewright.errors import CanceledError, NotFoundError, StagewrightError, StoreError
from stagewright.graph.ops import MergeOp, SourceOp
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.ops.result import Result
from stagewright.progress.events import VertexEvent
from stagewright.progress.reporter import Reporter


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.db.close()


@pytest.fixture(autouse=True)
def _no_thread_outlives_its_build() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_a_second_build_runs_nothing(store: Store) -> None:
    target = run("c", run("b", run("a")))
    first, second = Build(store), Build(store)
    results = first.solve(target)
    assert first.ran == ["a", "b", "c"]
    assert second.solve(target) == results
    assert second.ran == []
    assert second.cached == {"a", "b", "c"}


def test_it_is_told_ahead_which_vertices_will_run(store: Store) -> None:
    one = run("one")
    Build(store).solve(run("two", one))
    build = Build(store)
    three = run("three", one)
    build.solve(run("four", three))
    assert build.foreseen == build.ran == ["three", "four"]


@pytest.mark.parametrize("ending", ["done", "failed"])
def test_why_something_runs_is_told_before_how_it_ended(store: Store, ending: str) -> None:
    def work(inputs: tuple[Result, ...], reporter: Reporter) -> None:
        if ending == "failed":
            raise StoreError("no")

    build = Build(store)
    build.why = lambda name: f"{name} is new"
    build.work["two"] = work
    if ending == "done":
        build.solve(run("two", run("one")))
    else:
        with pytest.raises(StoreError):
            build.solve(run("two", run("one")))
    vertices = [event for event in build.events if isinstance(event, VertexEvent) and event.missed]
    assert [(event.name, event.missed, event.started is not None) for event in vertices if not event.completed] == [
        ("one", "one is new", True),
        ("two", "two is new", True),
    ]
    assert [event.name for event in vertices if event.completed] == ["one", "two"]
    assert build.last("two").error == ("no" if ending == "failed" else "")


def test_a_reason_that_cannot_be_told_ends_the_build(store: Store) -> None:
    def why(name: str) -> str:
        raise StoreError("why")

    build = Build(store)
    build.why = why
    with pytest.raises(StoreError, match="why"):
        build.solve(run("two", run("one")))
    assert build.ran == ["one"]


def test_why_something_runs_is_found_out_while_it_runs(store: Store) -> None:
    asked = threading.Event()
    build = Build(store)
    build.why = lambda name: str(asked.set())
    build.work["one"] = lambda inputs, reporter: assert_soon(asked)
    build.solve(run("one"))


def assert_soon(event: threading.Event) -> None:
    assert event.wait(10)


def test_nothing_is_foreseen_of_a_dry_run(store: Store) -> None:
    build = Build(store)
    build.solve(run("one"), dry=True)
    assert (build.foreseen, build.ran) == ([], [])


def test_the_snapshots_of_all_vertices_are_known_whether_they_ran_or_not(store: Store) -> None:
    target = run("c", run("b", run("a")), context())
    first, second = Build(store), Build(store)
    first.solve(target)
    second.solve(target)
    for build in (first, second):
        found = build.solver.snapshots()
        assert [(vertex.meta.name, store.contents[snapshot]) for vertex, snapshot in found] == [
            ("a", "a"),
            ("b", "b"),
            ("c", "c"),
        ]


def test_inputs_of_a_cached_vertex_are_not_asked_for(store: Store) -> None:
    image = Vertex(SourceOp("docker-image://image@sha256:1"), meta=Metadata("image"))
    Build(store).solve(run("b", run("a", image)))
    (image_snapshot,) = [id for id, text in store.contents.items() if text == "image"]
    store.prune(image_snapshot)
    second = Build(store)
    second.solve(run("b", run("a", image)))
    assert second.ran == []
    changed = Build(store)
    changed.solve(run("c", run("a", image)))
    assert changed.ran == ["c"]


def test_a_pruned_result_is_made_again_and_what_was_built_on_it_stays(store: Store) -> None:
    a = run("a")
    Build(store).solve(run("b", a))
    (pruned,) = [id for id, text in store.contents.items() if text == "a"]
    store.prune(pruned)
    again = Build(store)
    again.solve(run("b", a), run("new", a))
    assert sorted(again.ran) == ["a", "new"]
    assert "b" in again.cached


def test_two_vertices_with_one_digest_are_one_piece_of_work(store: Store) -> None:
    build = Build(store)
    left, right = build.solve(run("left", run("a")), run("right", run("a")))
    assert build.ran.count("a") == 1
    assert left != right
    assert build.solve(run("left", run("a")), run("left", run("a"))) == [left, left]


def test_a_stage_rebuilt_to_the_same_files_leaves_its_readers_cached(store: Store) -> None:
    def target(argument: str) -> Vertex:
        return run("after", copy("copy", run("base"), run(f"stage {argument}")))

    first, second, third = Build(store), Build(store), Build(store)
    first.work["stage 1"] = second.work["stage 2"] = lambda inputs, reporter: "same files"
    first.solve(target("1"))
    second.solve(target("2"))
    assert second.ran == ["stage 2"]
    assert second.cached == {"base", "copy", "after"}
    # The definition is known by now, so the stage's files need not be looked at any more.
    third.solve(target("2"))
    assert (third.ran, third.digested) == ([], [])
    fourth = Build(store)
    fourth.solve(target("3"))
    assert sorted(fourth.ran) == ["after", "copy", "stage 3"]


def test_only_what_is_read_of_the_context_counts(store: Store) -> None:
    target = run("test", copy("copy b", run("install", copy("copy a", None, context(), "/a")), context(), "/b"))
    first = Build(store)
    first.context = {"/a": "1", "/b": "1"}
    first.solve(target)
    assert first.ran == ["copy a", "install", "copy b", "test"]
    second = Build(store)
    second.context = {"/a": "1", "/b": "2"}
    second.solve(target)
    assert second.ran == ["copy b", "test"]
    assert second.cached == {"copy a", "install"}
    third = Build(store)
    third.context = {"/a": "1", "/b": "1"}
    third.solve(target)
    assert third.ran == []


def test_the_context_runs_while_it_is_read(store: Store) -> None:
    build = Build(store)
    build.context = {"/a": "1"}
    build.solve(copy("copy", None, context()))
    event = build.last("context")
    assert event.started is not None and event.completed is not None
    assert (event.error, event.cached) == ("", False)
    missing = Build(store)
    missing.digest_errors["other"] = NotFoundError("missing")
    with pytest.raises(NotFoundError):
        missing.solve(copy("other", None, context()))
    assert missing.last("context").completed is not None
    canceled = Build(store)
    canceled.digest_errors["other"] = CanceledError()
    with pytest.raises(CanceledError):
        canceled.solve(copy("other", None, context()))
    assert canceled.last("context").error.endswith("canceled")


@pytest.mark.parametrize("ignored", ["step", "copy"])
def test_a_vertex_that_ignores_the_cache_runs_again(store: Store, ignored: str) -> None:
    def target(ignore: bool) -> Vertex:
        step = run("step", run("base"), ignore_cache=ignore and ignored == "step")
        return run("after", copy("copy", step, run("stage"), ignore_cache=ignore and ignored == "copy"))

    first = Build(store)
    first.solve(target(False))
    second = Build(store)
    second.solve(target(True))
    # A copy of the same files gives the same files; a process may do something else each time.
    assert second.ran == (["copy"] if ignored == "copy" else ["step", "copy", "after"])
    third = Build(store)
    assert third.solve(target(False)) == second.solve(target(False))
    assert third.ran == []


def test_a_step_that_ran_without_the_cache_is_the_one_that_is_found_later(store: Store) -> None:
    Build(store).solve(run("step"))
    second = Build(store)
    (fresh,) = second.solve(run("step", ignore_cache=True))
    assert Build(store).solve(run("step")) == [fresh]


def test_equal_files_from_a_step_without_cache_leave_copies_cached(store: Store) -> None:
    Build(store).solve(copy("copy", None, run("stage")))
    second = Build(store)
    second.solve(copy("copy", None, run("stage", ignore_cache=True)))
    assert second.ran == ["stage"]
    assert "copy" in second.cached


def test_a_context_that_changed_is_good_for_this_build_only(store: Store) -> None:
    target = run("after", copy("copy", None, context()))
    changed = Build(store)
    changed.context = {"/a": "1"}
    changed.work["copy"] = lambda inputs, reporter: Result(store.snapshot("newer"), exact=False)
    (result,) = changed.solve(target)
    assert result.snapshot is not None
    again = Build(store)
    again.context = {"/a": "1"}
    again.solve(target)
    assert again.ran == ["copy", "after"]


def test_the_first_failure_is_raised_where_it_happened(store: Store) -> None:
    build = Build(store)

    def fail(inputs: object, reporter: object) -> None:
        raise StagewrightError("it broke")

    build.work["b"] = fail
    with pytest.raises(StagewrightError, match="it broke") as caught:
        build.solve(run("c", run("b", run("a"), line=3)))
    assert caught.value.location == at(3)
    assert build.last("b").error == "it broke"
    assert build.last("c").started is None


@pytest.mark.parametrize("source", ["context", "stage"])
def test_a_key_that_cannot_be_made_names_its_line(store: Store, source: str) -> None:
    build = Build(store)
    build.digest_errors["copy"] = NotFoundError('"/missing": not found')
    origin = context() if source == "context" else run("stage")
    with pytest.raises(NotFoundError, match="missing") as caught:
        build.solve(copy("copy", run("base"), origin, "/missing", line=2))
    assert caught.value.location == at(2)
    event = build.last("copy")
    assert event.error == '"/missing": not found' and event.completed is not None


def test_a_refusal_of_the_system_is_told_in_words(store: Store) -> None:
    build = Build(store)

    def fail(inputs: object, reporter: object) -> None:
        raise OSError(28, "No space left on device", "/x")

    build.work["a"] = fail
    with pytest.raises(StagewrightError, match="/x: No space left on device") as caught:
        build.solve(run("a", line=2))
    assert caught.value.location == at(2)


def test_an_error_keeps_the_place_that_it_came_with(store: Store) -> None:
    build = Build(store)
    build.digest_errors["copy"] = StagewrightError("bad pattern", location=at(1))
    with pytest.raises(StagewrightError) as caught:
        build.solve(copy("copy", None, context(), line=3))
    assert caught.value.location == at(1)


def test_a_failure_cancels_what_runs(store: Store) -> None:
    build = Build(store, jobs=4)
    started = threading.Event()

    def wait(inputs: object, reporter: object) -> None:
        started.set()
        assert build.cancel.wait(30)
        raise CanceledError

    def fail(inputs: object, reporter: object) -> None:
        assert started.wait(30)
        raise StagewrightError("first")

    build.work = {"waits": wait, "fails": fail}
    with pytest.raises(StagewrightError, match="first"):
        build.solve(run("top", run("waits"), run("fails")))
    assert build.last("waits").error.endswith("canceled")
    assert build.last("fails").error == "first"
    assert build.last("top").started is None


def test_a_build_that_is_canceled_ends_with_all_that_runs(store: Store) -> None:
    build = Build(store, jobs=1)

    def wait(inputs: object, reporter: object) -> None:
        build.cancel.set()
        raise CanceledError

    build.work["a"] = wait
    with pytest.raises(CanceledError):
        build.solve(*[run(name) for name in "abcdef"])
    assert build.ran == ["a"]
    assert build.last("a").error.endswith("canceled")


def test_a_signal_that_comes_just_before_a_wait_is_answered(store: Store) -> None:
    """Python has noted it by then, and nothing ends a wait that begins afterwards."""
    build = Build(store)

    def wait(inputs: object, reporter: object) -> None:
        time.sleep(0.1)
        # Notes a signal and ends no wait.
        _thread.interrupt_main(signal.SIGUSR1)
        assert build.cancel.wait(30)
        raise CanceledError

    build.work["a"] = wait
    before = signal.signal(signal.SIGUSR1, lambda *_: build.cancel.set())
    try:
        with pytest.raises(CanceledError):
            build.solve(run("a"))
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_build_canceled_before_it_began_runs_nothing(store: Store) -> None:
    build = Build(store)
    build.cancel.set()
    with pytest.raises(CanceledError):
        build.solve(run("a"))
    assert build.ran == []


def test_a_store_that_fails_in_the_middle_ends_the_build(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build(store)

    started = threading.Event()

    def wait(inputs: object, reporter: object) -> None:
        started.set()
        assert build.cancel.wait(30)
        raise CanceledError

    def break_store(inputs: object, reporter: object) -> None:
        assert started.wait(30)
        monkeypatch.setattr(store.keys, "lookup", broken)

    def broken(key: str) -> None:
        raise StoreError("the metadata file cannot be read")

    build.work = {"slow": wait, "stage": break_store}
    with pytest.raises(StoreError):
        build.solve(run("slow"), copy("copy", None, run("stage")))
    assert build.last("slow").error.endswith("canceled")


def test_two_builds_at_once_run_a_shared_step_once(tmp_path: Path, store: Store) -> None:
    other = Store(tmp_path)
    other.contents = store.contents
    builds = [Build(store), Build(other)]
    both = threading.Barrier(2)
    runs: list[str] = []

    def work(inputs: object, reporter: object) -> str:
        runs.append("shared")
        return "shared"

    def meet(inputs: object, reporter: object) -> None:
        # Both builds have looked for the shared step's key by now and have not found it.
        both.wait(30)

    results: list[list[Result]] = []

    def solve(build: Build, name: str) -> None:
        build.work = {"shared": work, name: meet}
        results.append(build.solve(run("shared", run("first")), run(name)))

    for build in builds:
        build.work["first"] = meet
    threads = [threading.Thread(target=solve, args=(build, f"own {n}")) for n, build in enumerate(builds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    other.db.close()
    assert runs == ["shared"]
    assert results[0][0] == results[1][0]


def test_ten_thousand_vertices(store: Store) -> None:
    chain = run("0")
    for number in range(1, 5000):
        chain = run(str(number), chain)
    many = [run(f"leaf {number}", chain) for number in range(5000)]
    target = Vertex(MergeOp(), tuple(many), meta=Metadata("merge"))
    build = Build(store)
    build.solve(target)
    assert len(build.ran) == 10_001
    again = Build(store)
    again.solve(target)
    assert again.ran == []


def test_a_vertex_used_as_two_inputs_of_one_user(store: Store) -> None:
    stage = run("stage")
    build = Build(store)
    build.solve(copy("copy", stage, stage), Vertex(MergeOp(), (stage, stage), meta=Metadata("merge")))
    assert build.ran.count("stage") == 1


# --- sources that are only named --------------------------------------------------------------------------------------

URL = "https://example.com/file"


def add(url: str = URL) -> Vertex:
    """What is built on a source that is only named."""
    return run("use", copy("add", None, named(url, line=2)))


def test_a_source_that_means_the_same_runs_nothing(store: Store) -> None:
    for ran in ([URL, "add", "use"], []):
        build = Build(store)
        build.means[URL] = "one"
        build.solve(add())
        assert (build.ran, build.resolved) == (ran, [URL])
    assert build.last(URL).cached and build.last("use").cached


def test_a_source_that_means_something_else_is_fetched(store: Store) -> None:
    for meaning in ("one", "two"):
        build = Build(store)
        build.means[URL] = meaning
        build.work[URL] = lambda inputs, reporter, meaning=meaning: meaning
        build.solve(add())
        assert build.ran == [URL, "add", "use"]


def test_a_source_is_keyed_by_what_it_means_and_not_by_its_name(store: Store) -> None:
    moved = "https://example.org/moved"
    for url, ran in ((URL, [URL, "add", "use"]), (moved, [])):
        build = Build(store)
        build.means = {URL: "one", moved: "one"}
        build.solve(add(url))
        assert build.ran == ran


def test_a_source_that_means_nothing_names_its_line(store: Store) -> None:
    build = Build(store)
    with pytest.raises(NotFoundError) as caught:
        build.solve(add())
    assert caught.value.message == f"{URL}: not found"
    assert caught.value.location == at(2)
    assert build.last(URL).error == f"{URL}: not found"
    assert build.ran == []
