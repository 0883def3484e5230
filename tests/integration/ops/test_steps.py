"""RUN's mounts: what a step sees of caches, secrets, agents and other stages, and what of them counts for its key."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import threading
from pathlib import Path

import pytest
from drafts import drafts
from op_worker import Bench

from stagewright.errors import CanceledError, NotFoundError, SandboxError, StagewrightError, StepFailedError
from stagewright.graph.ops import ExecOp, Mount, SourceOp
from stagewright.graph.vertex import Vertex
from stagewright.ops.result import Result
from stagewright.progress.events import LogEvent
from stagewright.sandbox.native import NativeRuntime
from stagewright.sandbox.spec import BindMount, Cancellation, Outcome, OutputSink, Step
from stagewright.snapshots.store import SnapshotStore

ROOT = Mount("bind", "/", 0)
SECRET = b"top-secret-bytes-0123"


@pytest.fixture
def root(bench: Bench) -> Result:
    """A root file system with busybox, and the native runtime to run steps in it."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs a static busybox")
    bench.runtime = NativeRuntime()
    base = bench.snapshot({"bin/busybox": Path(busybox).read_bytes(), "bin/sh": "-> busybox"})
    draft = bench.snapshots.prepare(base)
    with bench.snapshots.mount(draft) as folder:
        os.chmod("bin/busybox", 0o755, dir_fd=folder)
    return Result(bench.snapshots.commit(draft))


def step(command: str, *mounts: Mount, env: tuple[str, ...] = ()) -> ExecOp:
    return ExecOp(("/bin/busybox", "sh", "-c", command), ("PATH=/bin", *env), "/", (ROOT, *mounts))


def output(bench: Bench, op: ExecOp, *inputs: Result) -> str:
    bench.events.clear()
    bench.run(op, *inputs)
    return b"".join(event.data for event in bench.events if isinstance(event, LogEvent)).decode()


def test_a_step_changes_its_layer_only(bench: Bench, root: Result) -> None:
    made = bench.run(step("echo text > /file; busybox rm /bin/sh"), root)
    tree = bench.tree(made.snapshot)
    assert tree["file"] == "text\n" and "bin/sh" not in tree
    assert "file" not in bench.tree(root.snapshot)


def test_a_failing_step_says_how_and_leaves_nothing(bench: Bench, root: Result) -> None:
    with pytest.raises(StepFailedError) as caught:
        bench.run(step("echo told; echo why >&2; exit 7"), root)
    assert caught.value.exit_code == 7
    assert caught.value.log_tail.splitlines() == ["told", "why"]
    assert "did not complete successfully: exit code: 7" in caught.value.message
    assert drafts(bench.folder / "state" / "snapshots") == []


def test_what_is_mounted_upon_stays_in_no_layer(bench: Bench, root: Result) -> None:
    look = "cat /etc/hosts /etc/resolv.conf > /dev/null && ls /etc"
    assert output(bench, step(look), root).split() == ["hosts", "resolv.conf"]
    made = bench.run(step(f"{look} > /list"), root)
    layer = bench.snapshots.folder(made.snapshot)
    assert sorted(os.listdir(layer)) == ["dev", "list", "proc", "sys"]


def test_a_step_that_changes_the_folder_of_what_is_mounted_upon(bench: Bench, root: Result) -> None:
    assert root.snapshot is not None
    base = bench.snapshot({"etc/passwd": "root:x:0:0::/:/bin/sh\n", "etc/hosts": "of the image\n"}, root.snapshot)
    os.utime(os.path.join(bench.snapshots.folder(base), "etc"), (1, 1))
    made = bench.run(step("echo x > /etc/new; rm /etc/passwd; rm /etc/hosts; rm /etc/resolv.conf; true"), Result(base))
    tree = bench.tree(made.snapshot)
    # What is mounted cannot be removed.
    assert {name for name in tree if name.startswith("etc/")} == {"etc/hosts", "etc/new"}
    assert tree["etc/hosts"] == "of the image\n"
    unchanged = bench.run(step("true"), Result(base))
    assert "etc" not in os.listdir(bench.snapshots.folder(unchanged.snapshot))
    # A second store object finds what the first has made.
    folder = bench.snapshots.mountpoints(("/etc/hosts", "/etc/resolv.conf"))
    assert SnapshotStore(bench.folder / "state" / "snapshots", bench.db).mountpoints(
        ("/etc/hosts", "/etc/resolv.conf")
    ) == folder


def test_only_the_end_of_a_long_log_is_kept(bench: Bench, root: Result) -> None:
    with pytest.raises(StepFailedError) as caught:
        bench.run(step("i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; exit 1"), root)
    assert caught.value.log_tail.splitlines() == [f"line {number}" for number in range(4980, 5000)]


def test_a_canceled_step(bench: Bench, root: Result) -> None:
    timer = threading.Timer(0.2, bench.cancel.set)
    timer.start()
    with pytest.raises(CanceledError):
        bench.run(step("busybox sleep 600"), root)
    timer.join()


def test_a_cache_mount_outlives_failed_steps(bench: Bench, root: Result) -> None:
    cache = Mount("cache", "/cache", id="c")
    with pytest.raises(StepFailedError):
        bench.run(step("echo kept > /cache/file; exit 1", cache), root)
    assert output(bench, step("busybox cat /cache/file", cache), root) == "kept\n"
    made = bench.run(step("true", cache), root)
    assert "cache/file" not in bench.tree(made.snapshot)


def test_what_a_cache_mount_is_known_by(bench: Bench, root: Result) -> None:
    def left_by(writer: Mount, reader: Mount) -> bool:
        bench.run(step("echo x > /c/file", writer), root)
        found = output(bench, step("busybox ls /c", reader), root)
        bench.run(step("busybox rm -f /c/*", writer), root)
        return found == "file\n"

    plain = Mount("cache", "/c", id="id")
    assert left_by(plain, Mount("cache", "/c", id="id", readonly=True))
    assert left_by(Mount("cache", "/c"), Mount("cache", "/c/../c"))
    assert not left_by(plain, Mount("cache", "/c", id="other"))
    assert not left_by(plain, Mount("cache", "/c", id="id", uid=5))
    assert not left_by(plain, Mount("cache", "/c", id="id", mode=0o700))


def test_owner_and_mode_of_a_new_cache_mount(bench: Bench, root: Result) -> None:
    plain, own = Mount("cache", "/a"), Mount("cache", "/b", mode=0o2750, uid=5, gid=6)
    assert output(bench, step("busybox stat -c '%a %u %g' /a /b", plain, own), root) == "755 0 0\n2750 5 6\n"


def test_a_cache_mount_that_starts_as_a_folder_of_a_stage(bench: Bench, root: Result) -> None:
    stage = bench.snapshot({"var/seed/file": "seed\n", "other": "", "link": "-> var/seed"})
    draft = bench.snapshots.prepare(stage)
    with bench.snapshots.mount(draft) as folder:
        os.chmod("var/seed", 0o711, dir_fd=folder)
        os.chown("var/seed", 7, 8, dir_fd=folder)
    origin = Result(bench.snapshots.commit(draft))
    cache = Mount("cache", "/c", 1, "/link")
    show = "busybox cat /c/file; busybox stat -c '%a %u %g' /c; echo more >> /c/file"
    assert output(bench, step(show, cache), root, origin) == "seed\n711 7 8\n"
    assert output(bench, step(show, cache), root, origin) == "seed\nmore\n711 7 8\n"
    for selector, message in (("/other", "not a folder"), ("/missing", '"/missing": not found')):
        with pytest.raises(StagewrightError, match=message):
            bench.run(step("true", Mount("cache", "/c", 1, selector)), root, origin)


@pytest.mark.parametrize("sharing", ["shared", "private", "locked"])
def test_one_cache_mounted_twice_in_a_step(bench: Bench, root: Result, sharing: str) -> None:
    mounts = [Mount("cache", target, id="c", sharing=kind) for target, kind in (("/a", sharing), ("/b", "shared"))]  # type: ignore[arg-type]
    assert output(bench, step("echo x > /a/file; busybox cat /b/file", *mounts), root) == "x\n"


class HoldingRuntime:
    """Runs no process: a step lasts until `go` is set. `started` counts the steps, `folders` their bind sources."""

    shares_folders = True

    def __init__(self) -> None:
        self.go = threading.Event()
        self.started = threading.Semaphore(0)
        self.running = self.most = 0
        self.lock = threading.Lock()
        self.steps: list[Step] = []

    def run(self, step: Step, on_output: OutputSink, cancel: Cancellation) -> Outcome:
        with self.lock:
            self.steps.append(step)
            self.running += 1
            self.most = max(self.most, self.running)
        self.started.release()
        self.go.wait(30)
        with self.lock:
            self.running -= 1
        return Outcome(0)

    def close(self) -> None:
        self.go.set()


def run_at_once(bench: Bench, *ops: ExecOp) -> list[threading.Thread]:
    threads = [threading.Thread(target=bench.run, args=(op, Result(None))) for op in ops]
    for thread in threads:
        thread.start()
    return threads


def bind_sources(steps: list[Step]) -> list[object]:
    return [mount.source for step in steps for mount in step.mounts if isinstance(mount, BindMount)]


@pytest.mark.parametrize(("sharing", "at_once", "folders"), [("shared", 2, 1), ("private", 2, 2), ("locked", 1, 1)])
def test_sharing(bench: Bench, sharing: str, at_once: int, folders: int) -> None:
    bench.runtime = runtime = HoldingRuntime()
    mount = Mount("cache", "/c", id="c", sharing=sharing)  # type: ignore[arg-type]
    threads = run_at_once(bench, step("a", mount), step("b", mount))
    for _ in range(at_once):
        assert runtime.started.acquire(timeout=30)
    runtime.go.set()
    for thread in threads:
        thread.join(30)
    assert runtime.most == at_once
    assert len(set(bind_sources(runtime.steps))) == folders


def test_a_private_cache_is_used_again_when_it_is_free(bench: Bench) -> None:
    bench.runtime = runtime = HoldingRuntime()
    runtime.go.set()
    for command in ("a", "b"):
        bench.run(step(command, Mount("cache", "/c", sharing="private")), Result(None))
    assert len(set(bind_sources(runtime.steps))) == 1


def test_steps_that_lock_the_same_caches_never_wait_for_each_other_in_a_ring(bench: Bench) -> None:
    bench.runtime = runtime = HoldingRuntime()
    runtime.go.set()
    one, two = (Mount("cache", f"/{id}", id=id, sharing="locked") for id in ("one", "two"))
    for number in range(20):
        threads = run_at_once(bench, step(f"a{number}", one, two), step(f"b{number}", two, one))
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()


def test_secrets(bench: Bench, root: Result) -> None:
    bench.secrets["s"] = SECRET + b"\n\xff"
    mounts = (
        Mount("secret", "/run/secrets/s", id="s"),
        Mount("secret", "/etc/other", id="s", mode=0o444, uid=5, gid=6),
        Mount("secret", "", id="s", env="TOKEN"),
        Mount("secret", "/missing", id="missing"),
    )
    show = "busybox stat -c '%a %u %g' /run/secrets/s /etc/other; busybox sha256sum </run/secrets/s; ls /missing 2>&1"
    shown = output(bench, step(show + '; [ -n "$TOKEN" ] && echo set', *mounts), root)
    digest = hashlib.sha256(bench.secrets["s"]).hexdigest()
    assert shown.splitlines()[:3] == ["400 0 0", "444 5 6", f"{digest}  -"]
    assert shown.endswith("set\n")


def test_a_secret_is_nowhere_but_in_the_step(bench: Bench, root: Result) -> None:
    bench.secrets["s"] = SECRET
    mounts = (Mount("secret", "/run/secrets/s", id="s"), Mount("secret", "", id="s", env="TOKEN"))
    op = step("busybox cat /run/secrets/s >/dev/null; exit 1", *mounts)
    with pytest.raises(StepFailedError) as caught:
        bench.run(op, root)
    assert SECRET.decode() not in f"{caught.value.render()}{caught.value!r}{bench.events}{op.identity()}"
    bench.run(step("true", *mounts), root)
    for folder, _, names in os.walk(bench.folder / "state"):
        for name in names:
            path = Path(folder, name)
            assert not path.is_file() or SECRET not in path.read_bytes()


def test_what_is_required_and_missing(bench: Bench, root: Result) -> None:
    with pytest.raises(SandboxError, match="secret s: not found"):
        bench.run(step("true", Mount("secret", "/s", id="s", required=True)), root)
    with pytest.raises(SandboxError, match="no SSH agent or key was given for default"):
        bench.run(step("true", Mount("ssh", "/s", id="default", required=True)), root)
    bench.run(step("[ -z $SSH_AUTH_SOCK ]", Mount("ssh", "/s", id="default")), root)


def test_a_secret_that_no_variable_can_hold(bench: Bench, root: Result) -> None:
    bench.secrets["s"] = SECRET + b"\0"
    with pytest.raises(StagewrightError, match="secret s") as caught:
        bench.run(step("true", Mount("secret", "", id="s", env="TOKEN")), root)
    assert SECRET.decode() not in caught.value.render()


def test_an_agents_socket(bench: Bench, root: Result, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent"))
        listener.listen()
        bench.sockets["default"] = str(tmp_path / "agent")
        mount = Mount("ssh", "/run/agent.0", id="default", uid=5, gid=6)
        show = "echo $SSH_AUTH_SOCK; busybox stat -c '%a %u %g %F' $SSH_AUTH_SOCK"
        assert output(bench, step(show, mount), root) == "/run/agent.0\n600 5 6 socket\n"
        assert output(bench, step("echo $SSH_AUTH_SOCK", mount, env=("SSH_AUTH_SOCK=/own",)), root) == "/own\n"


def test_bind_mounts(bench: Bench, root: Result) -> None:
    stage = Result(bench.snapshot({"d/f": "F\n", "link": "-> d/f"}))
    folder = Mount("bind", "/m", 1, "/d", readonly=True)
    file = Mount("bind", "/x", 1, "/link", readonly=True)
    show = "busybox cat /m/f /x; exec 2>/dev/null; echo no > /m/f || echo refused"
    assert output(bench, step(show, folder, file), root, stage).endswith("F\nF\nrefused\n")
    writable = Mount("bind", "/m", 1, "/d")
    made = bench.run(step("echo gone > /m/f; busybox cat /m/f", writable), root, stage)
    assert bench.tree(stage.snapshot)["d/f"] == "F\n"
    assert "m/f" not in bench.tree(made.snapshot)
    assert output(bench, step("busybox ls -a /m", Mount("bind", "/m", None, "/", readonly=True)), root) == ".\n..\n"


def key(bench: Bench, stage: int, *selectors: str) -> str:
    mounts = tuple(Mount("bind", f"/m{number}", 1, selector) for number, selector in enumerate(selectors))
    vertex = Vertex(step("true", *mounts), (Vertex(SourceOp("a")), Vertex(SourceOp("b"))))
    assert bench.runner_of(vertex).content_inputs(vertex) == (1,)
    return bench.runner_of(vertex).content_digest(vertex, 1, Result(stage))


def test_what_counts_of_a_bind_mount(bench: Bench) -> None:
    one = bench.snapshot({"d/f": "F", "file": "1", "link": "-> file", "rest": "1"})
    same = bench.snapshot({"d/f": "F", "file": "1", "link": "-> file", "rest": "2"})
    other = bench.snapshot({"d/f": "F2", "file": "2", "link": "-> file", "rest": "1"})
    moded = bench.snapshots.prepare(one)
    with bench.snapshots.mount(moded) as folder:
        os.chmod("d", 0o700, dir_fd=folder)
    mode = bench.snapshots.commit(moded)
    for selector in ("/d", "/file", "/link"):
        assert key(bench, one, selector) == key(bench, same, selector) != key(bench, other, selector)
    assert key(bench, one, "/d") != key(bench, mode, "/d")
    assert key(bench, one, "/") != key(bench, same, "/")
    assert key(bench, one, "/d", "/file") != key(bench, one, "/d")
    for missing in ("/missing", "/file/below", "/d/missing"):
        with pytest.raises(NotFoundError, match=f'"{missing}": not found'):
            key(bench, one, missing)


def test_the_root_counts_as_a_whole(bench: Bench) -> None:
    vertex = Vertex(step("true", Mount("bind", "/m", 0, "/d")), (Vertex(SourceOp("a")),))
    assert bench.runner_of(vertex).content_inputs(vertex) == ()
