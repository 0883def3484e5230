"""Contexts and images that were made to harm a copy: they change meanwhile, lead outside, claim exabytes."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from op_worker import Bench, write

from stagewright.content.blobs import BlobStore
from stagewright.errors import StagewrightError, StoreError
from stagewright.exporters.files import copy_files
from stagewright.graph.ops import CopyAction
from stagewright.snapshots.compress import Compression
from stagewright.snapshots.pack import pack
from stagewright.snapshots.tree import remove_tree, tree_size

SECRET = "of the host"
HUGE = 4 << 40


@pytest.fixture
def outside(bench: Bench) -> Path:
    write(bench.folder, {"outside/f": SECRET, "outside/d/f": SECRET})
    return bench.folder / "outside"


@pytest.fixture
def swapping(bench: Bench) -> Iterator[Callable[[str, Callable[[Path], None]], None]]:
    """Exchange, over and over in a thread, what lies at a path of the context and what a function puts there."""
    done = threading.Event()
    threads: list[threading.Thread] = []

    def start(path: str, make_other: Callable[[Path], None]) -> None:
        place = bench.context_folder / path
        mine, other = bench.folder / "mine", bench.folder / "other"
        make_other(other)

        def swap() -> None:
            while not done.is_set():
                place.rename(mine)
                other.rename(place)
                place.rename(other)
                mine.rename(place)

        threads.append(threading.Thread(target=swap))
        threads[-1].start()

    yield start
    done.set()
    for thread in threads:
        thread.join()


SWAPS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "a folder and a link to a folder": ("a/d", lambda other, outside: other.symlink_to(outside)),
    "the folder above and a link": ("a", lambda other, outside: other.symlink_to(outside)),
    "a file and a link to a file": ("a/d/f", lambda other, outside: other.symlink_to(outside / "f")),
    "a file and a climbing link": ("a/d/f", lambda other, outside: other.symlink_to("../../../outside/f")),
    "a file and a pipe": ("a/d/f", lambda other, outside: os.mkfifo(other)),
    "a file and a folder": ("a/d/f", lambda other, outside: other.mkdir()),
    "a folder and a file": ("a/d", lambda other, outside: other.touch()),
}


@pytest.mark.parametrize("case", SWAPS)
def test_a_context_that_changes_while_it_is_copied(
    bench: Bench, outside: Path, swapping: Callable[[str, Callable[[Path], None]], None], case: str
) -> None:
    """What is copied is the context's own, or the copy ends with an error."""
    write(bench.context_folder, {"a/d/f": "own", "a/g": "own", "b": "own"})
    path, make_other = SWAPS[case]
    swapping(path, lambda other: make_other(other, outside))
    for number in range(60):
        source = ("a", ".", "a/d", "a/d/f", "a*", "[^x]*/d")[number % 6]
        bench.next_build()
        try:
            copied = bench.tree(bench.copy(source, "/x/"))
        except StagewrightError as error:
            assert SECRET not in error.render()
        else:
            assert not any(content == SECRET for content in copied.values())


def test_pipes_and_devices_of_a_context_are_not_read(bench: Bench) -> None:
    write(bench.context_folder, {"d/f": "x", "d/pipe": os.mkfifo})
    made = bench.copy("d", "/x/")
    assert stat.S_ISFIFO(bench.stat(made, "x/pipe").st_mode)
    assert stat.S_ISFIFO(bench.stat(bench.copy("d/pipe", "/x/"), "x/pipe").st_mode)
    with pytest.raises(StagewrightError, match="d/pipe: it is no longer an ordinary file"):
        bench.context().tree.open("d/pipe")


def sparse(path: str) -> None:
    with open(path, "wb") as file:
        file.truncate(HUGE)
        file.seek(5 << 30)
        file.write(b"data")


@pytest.mark.parametrize("where", ["context", "image"])
def test_a_file_of_terabytes_that_are_holes(bench: Bench, where: str) -> None:
    stage = None
    if where == "image":
        stage = bench.snapshot({"d/sparse": sparse})
    else:
        write(bench.context_folder, {"d/sparse": sparse})
    made = bench.copy("d", "/x/", stage=stage)
    info = bench.stat(made, "x/sparse")
    assert (info.st_size, info.st_blocks * 512 < 8 << 20) == (HUGE, True)
    with bench.snapshots.view(made) as root, open(f"/proc/self/fd/{root}/x/sparse", "rb") as file:
        file.seek((5 << 30) - 2)
        assert file.read(8) == b"\0\0data\0\0"


def test_a_layer_does_not_hold_terabytes_of_zeros(bench: Bench) -> None:
    folder = bench.snapshots.folder(bench.snapshot({"d/sparse": sparse}))
    blobs = BlobStore(bench.folder / "content")
    with pytest.raises(StoreError, match=rf"/d/sparse claims {HUGE} bytes, most of them holes"):
        pack(folder, blobs, Compression())
    assert not list(blobs.digests())


def test_files_of_terabytes_go_into_a_folder(bench: Bench, tmp_path: Path) -> None:
    folder = bench.snapshots.folder(bench.snapshot({"sparse": sparse}))
    copy_files(folder, str(tmp_path / "out"))
    info = os.stat(tmp_path / "out" / "sparse")
    assert (info.st_size, info.st_blocks * 512 < 8 << 20) == (HUGE, True)


def nest(folder: str | Path, depth: int, name: str = "folder") -> None:
    """Folders in folders, deeper than Python's stack; with longer names than a letter, deeper than a path can name."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        above, here = here, os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(above)
    os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)


@pytest.fixture
def nested(bench: Bench) -> Iterator[Path]:
    nest(bench.context_folder, 700)
    yield bench.context_folder
    remove_tree(str(bench.context_folder))


@pytest.mark.parametrize("source", [".", "folder", "[^x]*y", "fold*"])
def test_folders_deeper_than_a_path_can_name(bench: Bench, nested: Path, source: str) -> None:
    with pytest.raises(StagewrightError, match="File name too long"):
        bench.copy(source, "/x/")


def test_folders_that_a_step_nested(bench: Bench, nested: Path) -> None:
    assert tree_size(str(nested)) < 100 << 20
    draft = bench.snapshots.prepare(None)
    nest(draft.fs, 700)
    with pytest.raises(StoreError, match="File name too long"):
        bench.snapshots.commit(draft)
    bench.snapshots.discard(draft)
    assert os.listdir(os.path.dirname(draft.path)) == []


def test_as_deep_as_a_path_can_name(bench: Bench) -> None:
    nest(bench.context_folder, 1500, "d")
    try:
        made = bench.copy("[^x]*", "/")
        assert bench.stat(made, "d/" * 1499 + "f").st_size == 0
        assert bench.key(CopyAction(0, "[^x]*y", "/", optional=True))
    finally:
        # The test framework removes folders by recursion.
        remove_tree(str(bench.context_folder))
        remove_tree(str(bench.folder / "state" / "snapshots"))
