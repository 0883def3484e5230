"""COPY, file by file: where things land, and with which owners, modes, times and attributes, as BuildKit has it."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from drafts import drafts
from op_worker import Bench, write

from stagewright.errors import CanceledError, NotFoundError, StagewrightError
from stagewright.graph.ops import CopyAction, FileOp, MkdirAction, MkfileAction
from stagewright.ops.copy import Copier
from stagewright.ops.result import Result
from stagewright.ops.target import Target
from stagewright.records import replace
from stagewright.snapshots import overlay

MERGED_USR = {"usr/lib": None, "lib": "-> usr/lib", "run": None, "var/run": "-> /run"}


@pytest.mark.parametrize(
    ("source", "dest", "expected"),
    [
        ("a", "/x", {"x": "A"}),
        ("a", "/x/", {"x": "/", "x/a": "A"}),
        ("a", "/", {"a": "A"}),
        ("a", "/new/deep/x", {"new": "/", "new/deep": "/", "new/deep/x": "A"}),
        ("a", "/dir", {"dir": "/", "dir/old": "old", "dir/a": "A"}),
        ("a", "/dir/", {"dir": "/", "dir/old": "old", "dir/a": "A"}),
        ("a", "/dir/old", {"dir": "/", "dir/old": "A"}),
        ("a", "/dir/../up", {"up": "A"}),
        ("d", "/x", {"x": "/", "x/b": "B", "x/s": "/", "x/s/c": "C"}),
        ("d", "/x/", {"x": "/", "x/b": "B", "x/s": "/", "x/s/c": "C"}),
        ("d/", "/dir", {"dir": "/", "dir/old": "old", "dir/b": "B", "dir/s": "/", "dir/s/c": "C"}),
        ("d/s/../b", "/x", {"x": "B"}),
        ("../../a", "/x", {"x": "A"}),
        ("/", "/x/", {"x": "/", "x/a": "A", "x/d": "/", "x/d/b": "B", "x/d/s": "/", "x/d/s/c": "C"}),
        (".", "/x", {"x": "/", "x/a": "A", "x/d": "/", "x/d/b": "B", "x/d/s": "/", "x/d/s/c": "C"}),
        # A link to a folder in the base is walked through, and what it leads to is filled.
        ("a", "/lib/x", {"usr/lib": "/", "usr/lib/x": "A", "lib": "-> usr/lib"}),
        ("a", "/lib/", {"usr/lib": "/", "usr/lib/a": "A", "lib": "-> usr/lib"}),
        ("a", "/lib", {"usr/lib": "/", "usr/lib/a": "A", "lib": "-> usr/lib"}),
        ("a", "/var/run/new/x", {"run": "/", "run/new": "/", "run/new/x": "A", "var/run": "-> /run"}),
        ("d", "/var/run", {"run": "/", "run/b": "B", "run/s": "/", "run/s/c": "C", "var/run": "-> /run"}),
        ("a", "/dangling", {"dangling": "-> gone/file", "gone": "/", "gone/file": "A"}),
        ("a", "/escape/x", {"escape": "-> ../../../top", "top": "/", "top/x": "A"}),
        ("a", "/tofile", {"tofile": "-> dir/old", "dir": "/", "dir/old": "A"}),
    ],
)
def test_where_files_land(bench: Bench, source: str, dest: str, expected: dict[str, str]) -> None:
    write(bench.context_folder, {"a": "A", "d/b": "B", "d/s/c": "C"})
    links = {"dangling": "-> gone/file", "escape": "-> ../../../top", "tofile": "-> dir/old"}
    base = bench.snapshot({"dir/old": "old", **MERGED_USR, **links})
    before = bench.tree(base)
    after = bench.tree(bench.copy(source, dest, base=base))
    assert {path: text for path, text in after.items() if path in expected or path not in before} == expected
    assert set(before) <= set(after)


@pytest.mark.parametrize(
    ("source", "dest", "message"),
    [
        ("missing", "/x", '"/missing": not found'),
        ("missing/*", "/x", '"/missing": not found'),
        ("dangl*", "/x", '"/nowhere": not found'),
        ("d/missing/deep", "/x", '"/d/missing/deep": not found'),
        ("a/b", "/x", '"/a/b": not found'),
        ("d", "/file", "non-directory: /file"),
        ("nested", "/", "non-directory: /d"),
        ("over", "/", "directory /dir with file"),
        ("a", "/file/", "/file is not a folder"),
        ("a", "/file/x", "/file is not a folder"),
        ("loop", "/x", "too many links on the way to /loop$"),
    ],
)
def test_what_cannot_be_copied(bench: Bench, source: str, dest: str, message: str) -> None:
    write(bench.context_folder, {"a": "A", "d/b": "B", "nested/d/x": "", "over/dir": "file", "loop": "-> loop"})
    write(bench.context_folder, {"dangling": "-> nowhere"})
    base = bench.snapshot({"file": "", "d": "a file", "dir/x": ""})
    with pytest.raises(StagewrightError, match=message):
        bench.copy(source, dest, base=base)
    assert drafts(bench.folder / "state" / "snapshots") == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", {"a.txt", "b.txt"}),
        ("?.txt", {"a.txt", "b.txt"}),
        ("[a].txt", {"a.txt"}),
        ("[^a].txt", {"b.txt"}),
        ("*/*.txt", {"c.txt", "e.txt"}),
        ("d*/c.txt", {"c.txt"}),
        ("d?r/*", {"c.txt", "deep"}),
        ("*/*/*.txt", {"deep.txt"}),
        ("**/c.txt", {"c.txt"}),
        ("nothing*", set()),
        ("a.txt/*", set()),
        # Links to folders are followed before the first wildcard, and not below it.
        ("link/*.txt", {"c.txt"}),
        ("lin*/c.txt", set()),
    ],
)
def test_wildcards_match_as_gos_do(bench: Bench, pattern: str, expected: set[str]) -> None:
    files = ["a.txt", "b.txt", "c.md", "dir/c.txt", "dir/deep/deep.txt", "other/e.txt"]
    write(bench.context_folder, {**dict.fromkeys(files, "x"), "link": "-> dir"})
    tree = bench.tree(bench.copy(pattern, "/out/"))
    names = {path.split("/")[1] for path in tree if path.startswith("out/")}
    # The contents of a matched folder are copied, not the folder itself.
    assert names == {"deep.txt" if name == "deep" else name for name in expected}


def test_a_wildcard_without_a_match_makes_nothing(bench: Bench) -> None:
    assert bench.tree(bench.copy("nothing*", "/out/x/")) == {}


def test_a_wildcard_that_must_match(bench: Bench) -> None:
    action = CopyAction(0, "nothing*", "/")
    with pytest.raises(NotFoundError, match=r'"/nothing\*": not found'):
        bench.run(FileOp((action,), base=None), Result(context="context"))


def test_links_among_sources(bench: Bench) -> None:
    outside = {"outside": "-> /../../dir", "abs": "-> /dir/f", "broken": "-> nowhere"}
    write(bench.context_folder, {"dir/f": "F", "dir/in": "-> f", "to": "-> dir", "file": "-> to/in", **outside})
    assert bench.tree(bench.copy("file", "/x")) == {"x": "F"}
    assert bench.tree(bench.copy("file", "/x/")) == {"x": "/", "x/file": "F"}
    assert bench.tree(bench.copy("abs", "/x")) == {"x": "F"}
    assert bench.tree(bench.copy("to", "/x")) == {"x": "/", "x/f": "F", "x/in": "-> f"}
    assert bench.tree(bench.copy("outside/f", "/x")) == {"x": "F"}
    assert bench.tree(bench.copy("t*", "/x/")) == {"x": "/", "x/f": "F", "x/in": "-> f"}
    with pytest.raises(NotFoundError):
        bench.copy("broken", "/x")
    whole = bench.tree(bench.copy(".", "/x"))
    assert (whole["x/broken"], whole["x/abs"], whole["x/to"]) == ("-> nowhere", "-> /dir/f", "-> dir")


def test_what_is_hidden_is_not_there(bench: Bench) -> None:
    files = ["keep", "drop", "node_modules/a/b", "logs/x.log", "logs/keep.log", "deep/a/b/c", "deep/a/x"]
    write(bench.context_folder, {**dict.fromkeys(files, "x"), "link": "-> keep", "l/by": "-> ../drop"})
    bench.hide("drop\n**/node_modules\nlogs/*\n!logs/keep.log\ndeep\n!deep/a/b\nlink\n")
    tree = bench.tree(bench.copy(".", "/"))
    assert set(tree) == {"keep", "l", "l/by", "logs", "logs/keep.log", "deep", "deep/a", "deep/a/b", "deep/a/b/c"}
    for hidden in ("drop", "node_modules", "logs/x.log", "deep/a/x", "link", "l/by"):
        with pytest.raises(NotFoundError):
            bench.copy(hidden, "/x")
    assert "x" in bench.tree(bench.copy("logs/keep.log", "/x"))
    assert set(bench.tree(bench.copy("*", "/x/"))) == {"x", "x/keep", "x/by", "x/keep.log", "x/a", "x/a/b", "x/a/b/c"}


def test_context_files_belong_to_root_and_keep_modes_and_times(bench: Bench) -> None:
    write(bench.context_folder, {"d/f": "x", "d/l": "-> f", "d/p": lambda path: os.mkfifo(path)})
    for path in ("d", "d/f"):
        os.chown(bench.context_folder / path, 1000, 1001)
    os.chmod(bench.context_folder / "d/f", 0o6711)
    os.chmod(bench.context_folder / "d/p", 0o640)
    os.utime(bench.context_folder / "d/f", ns=(1, 1_234_567_890_123_456_789))
    os.utime(bench.context_folder / "d/l", ns=(1, 987_654_321), follow_symlinks=False)
    made = bench.copy("d", "/x")
    assert bench.mode(made, "x/f") == "6711"
    assert bench.mode(made, "x/p") == "640" and stat.S_ISFIFO(bench.stat(made, "x/p").st_mode)
    assert {bench.owner(made, path) for path in ("x", "x/f", "x/l", "x/p")} == {(0, 0)}
    assert bench.stat(made, "x/f").st_mtime_ns == 1_234_567_890_123_456_789
    assert bench.stat(made, "x/l").st_mtime_ns == 987_654_321


def test_stage_files_keep_their_owners(bench: Bench) -> None:
    stage = bench.snapshot({"d/f": "x", "d/l": "-> f", "d/sub": None})
    draft = bench.snapshots.prepare(stage)
    with bench.snapshots.mount(draft) as root:
        for number, path in enumerate(["d", "d/f", "d/l", "d/sub"]):
            os.chown(path, 10 + number, 20 + number, dir_fd=root, follow_symlinks=False)
        os.chmod("d/f", 0o4755, dir_fd=root)
    stage = bench.snapshots.commit(draft)
    made = bench.copy("/d", "/x", stage=stage)
    # The top folder is made new, what is in it is copied.
    assert [bench.owner(made, path) for path in ("x", "x/f", "x/l", "x/sub")] == [(0, 0), (11, 21), (12, 22), (13, 23)]
    assert bench.mode(made, "x/f") == "4755"


@pytest.mark.root("makes devices")
def test_devices_are_copied(bench: Bench) -> None:
    draft = bench.snapshots.prepare(None)
    with bench.snapshots.mount(draft) as root:
        os.mknod("dev", stat.S_IFCHR | 0o600, os.makedev(1, 3), dir_fd=root)
        os.chmod("dev", 0o620, dir_fd=root)
    made = bench.copy("/dev", "/x/", stage=bench.snapshots.commit(draft))
    assert bench.stat(made, "x/dev").st_rdev == os.makedev(1, 3) and bench.mode(made, "x/dev") == "620"


def test_metadata_of_folders(bench: Bench) -> None:
    write(bench.context_folder, {"d/sub/f": "x", "d/new/f": "x"})
    for path in ("d", "d/sub", "d/new"):
        os.chmod(bench.context_folder / path, 0o2750)
        os.utime(bench.context_folder / path, (5, 5))
    base = bench.snapshot({"top/sub/old": "x"})
    draft = bench.snapshots.prepare(base)
    with bench.snapshots.mount(draft) as root:
        for path in ("top", "top/sub"):
            os.chown(path, 7, 8, dir_fd=root)
            os.chmod(path, 0o711, dir_fd=root)
            os.utime(path, (9, 9), dir_fd=root)
    base = bench.snapshots.commit(draft)
    made = bench.copy("d", "/top", base=base)
    # One that exists keeps its metadata at the top, and takes those of the source below.
    assert (bench.mode(made, "top"), bench.owner(made, "top"), bench.stat(made, "top").st_mtime) == ("711", (7, 8), 9)
    assert (bench.mode(made, "top/sub"), bench.owner(made, "top/sub")) == ("2750", (0, 0))
    assert bench.stat(made, "top/sub").st_mtime == 5
    assert (bench.mode(made, "top/new"), bench.stat(made, "top/new").st_mtime) == ("2750", 5)
    assert bench.mode(bench.copy("d", "/fresh"), "fresh") == "755"


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ("7:8", (7, 8)),
        ("7", (7, 7)),
        ("app", (100, 200)),
        ("app:8", (100, 8)),
        ("app:team", (100, 300)),
        (":8", (0, 8)),
    ],
)
def test_chown(bench: Bench, owner: str, expected: tuple[int, int]) -> None:
    write(bench.context_folder, {"d/f": "x", "d/l": "-> f"})
    accounts = {"etc/real": "root:x:0:0:::\napp:x:100:200:::\n", "etc/passwd": "-> real", "etc/group": "team:x:300:\n"}
    made = bench.copy("d", "/a/b", base=bench.snapshot(accounts), owner=owner)
    assert {bench.owner(made, path) for path in ("a", "a/b", "a/b/f", "a/b/l")} == {expected}
    assert (bench.mode(made, "a"), bench.owner(made, "etc")) == ("755", (0, 0))


def test_chown_to_nobody_known_gives_to_root(bench: Bench) -> None:
    write(bench.context_folder, {"f": "x"})
    made = bench.copy("f", "/", base=bench.snapshot({}), owner="app")
    assert bench.owner(made, "f") == (0, 0)


def test_chown_by_name_where_there_are_no_files_yet(bench: Bench) -> None:
    write(bench.context_folder, {"f": "x"})
    copy = CopyAction(0, "f", "/", owner="5:app")
    unknown = "cannot tell who (5:)?app is: there is no passwd or group file to look in"
    for action, inputs in ((copy, (Result(context="context"),)), (MkdirAction("/w", owner="app"), ())):
        with pytest.raises(StagewrightError, match=unknown):
            bench.run(FileOp((action,), base=None), *inputs)
    made = bench.run(FileOp((replace(copy, owner="root:5"),), base=None), Result(context="context")).snapshot
    assert made is not None
    assert bench.owner(made, "f") == (0, 5)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/d", "cannot write the file /d: it is a folder"),
        ("/d/file/x/y", "cannot make the folder /d/file/x: /d/file is not a folder"),
    ],
)
def test_a_file_where_there_is_no_place_for_it(bench: Bench, path: str, message: str) -> None:
    base = bench.snapshot({"d/file": ""})
    with pytest.raises(StagewrightError) as caught:
        bench.files(MkfileAction(path, b""), base=base)
    assert caught.value.message == message


def test_chown_to_an_id_out_of_range(bench: Bench) -> None:
    write(bench.context_folder, {"f": "x"})
    with pytest.raises(StagewrightError, match="must be in range"):
        bench.copy("f", "/", owner="4294967296")


@pytest.mark.parametrize(
    ("mode", "file", "folder", "way"),
    [("640", "640", "640", "640"), ("4711", "4711", "4711", "711"), ("u=rwX,go=rX", "644", "755", "755")],
)
def test_chmod(bench: Bench, mode: str, file: str, folder: str, way: str) -> None:
    write(bench.context_folder, {"d/f": "x", "d/l": "-> f", "d/sub": None})
    os.chmod(bench.context_folder / "d/f", 0o600)
    made = bench.copy("d", "/w/x", mode=mode)
    assert [bench.mode(made, f"w/x/{name}") for name in ("f", "sub", "l")] == [file, folder, "777"]
    assert [bench.mode(made, path) for path in ("w", "w/x")] == [way, way]


def test_chmod_reaches_the_folders_that_are_made_on_the_way_to_a_file(bench: Bench) -> None:
    write(bench.context_folder, {"f": "x"})
    base = bench.snapshot({"old": None})
    for dest in ("/old/new/f", "/old/new/"):
        made = bench.copy("f", dest, base=base, mode="0700")
        assert [bench.mode(made, path) for path in ("old", "old/new")] == ["755", "700"]


def test_hard_links_stay_within_one_source(bench: Bench) -> None:
    write(bench.context_folder, {"d/a": "x", "d/sub": None})
    for name in ("d/b", "d/sub/c", "e"):
        os.link(bench.context_folder / "d/a", bench.context_folder / name)
    made = bench.copy("d", "/x")
    inodes = {bench.stat(made, path).st_ino for path in ("x/a", "x/b", "x/sub/c")}
    assert len(inodes) == 1 and bench.stat(made, "x/a").st_nlink == 3
    apart = bench.copy("*", "/y/")
    assert bench.stat(apart, "y/e").st_ino != bench.stat(apart, "y/a").st_ino


def test_extended_attributes(bench: Bench) -> None:
    write(bench.context_folder, {"d/f": "x", "d/sub": None})
    for path in ("d/f", "d/sub"):
        os.setxattr(bench.context_folder / path, "user.note", b"kept")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(bench.context_folder / "d/f", "security.capability", capability)
    made = bench.copy("d", "/x", owner="5:5")
    with bench.snapshots.view(made) as root:
        base = f"/proc/self/fd/{root}/x"
        assert os.getxattr(f"{base}/f", "user.note") == os.getxattr(f"{base}/sub", "user.note") == b"kept"
        assert os.getxattr(f"{base}/f", "security.capability") == capability


def test_a_marker_of_overlayfs_in_a_context_hides_nothing(bench: Bench) -> None:
    base = bench.snapshot({"d/old": "x", "gone": "x"})
    write(bench.context_folder, {"d/new": "x"})
    os.setxattr(bench.context_folder / "d", f"{overlay.xattr_prefix()}opaque", b"y")
    write(bench.context_folder, {"e/d/x": "", "w": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, 0)})
    os.setxattr(bench.context_folder / "e/d", f"{overlay.xattr_prefix()}opaque", b"y")
    assert set(bench.tree(bench.copy("e", "/", base=base))) == {"d", "d/old", "d/x", "gone"}
    with pytest.raises(StagewrightError, match="cannot copy /w: the device 0:0 would hide what is below it"):
        bench.copy("w", "/gone", base=base)


def test_large_files_and_holes(bench: Bench) -> None:
    def sparse(path: str) -> None:
        with open(path, "wb") as file:
            file.truncate(64 << 20)
            file.seek(5 << 20)
            file.write(b"data")

    write(bench.context_folder, {"sparse": sparse, "large": os.urandom(3_000_001), "empty": ""})
    made = bench.copy(".", "/")
    with bench.snapshots.view(made) as root:
        for name in ("sparse", "large", "empty"):
            copied = Path(f"/proc/self/fd/{root}/{name}").read_bytes()
            assert copied == (bench.context_folder / name).read_bytes()
    assert bench.stat(made, "sparse").st_blocks * 512 < 8 << 20


def test_names_that_are_not_text(bench: Bench) -> None:
    name = os.fsdecode(b"caf\xe9")
    write(bench.context_folder, {f"d/{name}/{name}": "x", f"d/l{name}": f"-> {name}"})
    made = bench.copy("d", "/x")
    assert bench.tree(made) == {"x": "/", f"x/{name}": "/", f"x/{name}/{name}": "x", f"x/l{name}": f"-> {name}"}
    assert bench.tree(bench.copy(f"d/{name}/*", "/")) == {name: "x"}


def test_a_socket_of_the_context_is_left_out(bench: Bench) -> None:
    write(bench.context_folder, {"d/f": "x"})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bench.context_folder / "d/s"))
        assert bench.tree(bench.copy("d", "/x")) == {"x": "/", "x/f": "x"}


def test_a_socket_of_a_stage_becomes_an_empty_file(bench: Bench) -> None:
    stage = bench.snapshot({"d/s": lambda path: os.mknod(path, stat.S_IFSOCK | 0o640)})
    made = bench.copy("d", "/x", stage=stage)
    assert (bench.tree(made)["x/s"], bench.mode(made, "x/s")) == ("", "640")


def test_what_changes_between_key_and_copy_is_not_kept(bench: Bench) -> None:
    write(bench.context_folder, {"f": "old"})
    action = CopyAction(0, "f", "/")
    stale = Result(context="context")
    assert bench.run(FileOp((action,), base=None), stale).exact
    bench.next_build()
    from op_worker import CONTEXT

    from stagewright.graph.vertex import Vertex

    vertex = Vertex(FileOp((action,), base=None), (CONTEXT,))
    runner = bench.runner_of(vertex)
    runner.content_digest(vertex, 0, stale)
    write(bench.context_folder, {"f": "new and longer"})
    result = runner.run(vertex, (stale,), bench.reporter())
    assert not result.exact
    assert bench.tree(result.snapshot) == {"f": "new and longer"}


def test_a_copy_can_be_canceled(bench: Bench) -> None:
    write(bench.context_folder, {f"d/{number}": "" for number in range(10)})
    bench.cancel.set()
    with pytest.raises(CanceledError):
        bench.copy("d", "/x")


def test_copies_leave_folders_of_the_base_as_they_are(bench: Bench) -> None:
    base = bench.snapshot({"etc/passwd": "", "usr/share/x": ""})
    before = {path: bench.stat(base, path).st_mtime_ns for path in ("etc", "usr", "usr/share")}
    write(bench.context_folder, {"f": "x"})
    made = bench.copy("f", "/usr/share/", base=base)
    assert {path: bench.stat(made, path).st_mtime_ns for path in before} == before
    # Only what is on the way is in the layer.
    assert sorted(os.listdir(bench.snapshots.folder(made))) == ["usr"]


def test_a_layer_holds_only_what_is_new(bench: Bench) -> None:
    base = bench.snapshot({"work": None, **MERGED_USR})
    write(bench.context_folder, {"d/f": "x"})
    assert os.listdir(bench.snapshots.folder(bench.files(MkdirAction("/work"), base=base))) == []
    assert os.listdir(bench.snapshots.folder(bench.copy("d", "/var/run", base=base))) == ["run"]


def test_several_actions_in_one_op(bench: Bench) -> None:
    write(bench.context_folder, {"a": "A", "b": "B"})
    op = FileOp((CopyAction(1, "a", "/x/"), CopyAction(1, "b", "/x/"), CopyAction(2, "c", "/x/")), base=0)
    stage = Result(bench.snapshot({"c": "C"}))
    result = bench.run(op, Result(None), Result(context="context"), stage)
    assert bench.tree(result.snapshot) == {"x": "/", "x/a": "A", "x/b": "B", "x/c": "C"}


def test_folders_and_files_from_text(bench: Bench) -> None:
    base = bench.snapshot({"etc/passwd": "app:x:5:6:::\n", "old": "-> target", "app": None})
    os_mode = MkfileAction("/bin/script", b"#!/bin/sh\n", mode=0o4755, owner="app", mtime=3)
    made = bench.files(MkdirAction("/app/work", owner="app"), os_mode, MkfileAction("/old", b"x"), base=base)
    assert bench.owner(made, "app/work") == bench.owner(made, "bin/script") == (5, 6)
    assert bench.owner(made, "app") == (0, 0)
    assert (bench.mode(made, "bin/script"), bench.stat(made, "bin/script").st_mtime) == ("4755", 3)
    tree = bench.tree(made)
    assert (tree["old"], tree["target"], tree["bin/script"]) == ("-> target", "x", "#!/bin/sh\n")
    again = bench.files(MkfileAction("/bin/script", b"new"), MkdirAction("/app/work", 0o700), base=made)
    assert (bench.tree(again)["bin/script"], bench.mode(again, "app/work")) == ("new", "755")
    for action in (MkdirAction("/bin/script"), MkfileAction("/app", b""), MkdirAction("/bin/script/x")):
        with pytest.raises(StagewrightError):
            bench.files(action, base=again)


def test_many_files_in_many_folders(bench: Bench) -> None:
    """So many that several threads copy them."""
    files = {f"d{number % 7}/s{number % 3}/f{number:04}": f"text {number}" for number in range(900)}
    write(bench.context_folder, {**files, "d0/twin": lambda path: os.link(bench.context_folder / "d0/s0/f0000", path)})
    for folder in ("d1", "d1/s1"):
        (bench.context_folder / folder).chmod(0o750)
        os.utime(bench.context_folder / folder, (5, 5))
    copy = bench.copy(".", "/x")
    tree = bench.tree(copy)
    assert {path: text for path, text in tree.items() if text != "/"} == {
        "x/d0/twin": "text 0",
        **{f"x/{path}": text for path, text in files.items()},
    }
    assert bench.stat(copy, "x/d0/twin").st_ino == bench.stat(copy, "x/d0/s0/f0000").st_ino
    for folder in ("x/d1", "x/d1/s1"):
        assert (bench.mode(copy, folder), bench.stat(copy, folder).st_mtime) == ("750", 5)


def test_a_copy_by_several_threads_ends_with_what_goes_wrong(bench: Bench) -> None:
    write(bench.context_folder, {f"d{number % 7}/f{number:04}": "x" for number in range(900)})
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks > 700:
            raise CanceledError

    handles = os.listdir("/proc/self/fd")
    draft = bench.snapshots.prepare(None)
    layer = os.open(draft.fs, os.O_RDONLY)
    with bench.context().tree.at_hand() as tree, pytest.raises(CanceledError):
        Copier(tree, Target(layer, None), check).copy_contents(tree.entry(""), "")
    os.close(layer)
    bench.snapshots.discard(draft)
    bench.snapshots.close()
    bench.next_build()
    assert os.listdir("/proc/self/fd") == handles
