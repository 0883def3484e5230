"""Vertices and their digests."""

from __future__ import annotations

import pytest

from stagewright.graph.ops import CopyAction, ExecOp, FileOp, MergeOp, MkdirAction, MkfileAction, Mount, Op, SourceOp
from stagewright.graph.vertex import Metadata, Vertex, walk

EXEC = ExecOp(("true",), ("A=1",), "/", (Mount("bind", "/", 0),))


def exec_op(**changes: object) -> ExecOp:
    fields: dict[str, object] = {"args": ("true",), "env": ("A=1",), "cwd": "/", "mounts": (Mount("bind", "/", 0),)}
    return ExecOp(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        exec_op(args=("true", "")),
        exec_op(env=("A=2",)),
        exec_op(cwd="/x"),
        exec_op(user="1"),
        exec_op(network="none"),
        exec_op(extra_hosts=(("a", "1.2.3.4"),)),
        exec_op(mounts=(Mount("bind", "/", 0), Mount("tmpfs", "/t"))),
        exec_op(mounts=(Mount("bind", "/", 0, readonly=True),)),
        SourceOp("local://context"),
        MergeOp(),
        FileOp(()),
        FileOp((), base=None),
    ],
)
def test_every_part_of_an_op_counts(other: Op) -> None:
    assert Vertex(EXEC).digest != Vertex(other).digest


def test_what_people_see_and_proxies_do_not_count() -> None:
    assert Vertex(EXEC).digest == Vertex(EXEC, meta=Metadata("name", ignore_cache=True)).digest
    assert Vertex(EXEC).digest == Vertex(exec_op(proxy_env=("HTTP_PROXY=x",))).digest
    assert Vertex(EXEC).digest == Vertex(exec_op()).digest


def test_inputs_and_platform_count() -> None:
    source = Vertex(SourceOp("docker-image://a"))
    digests = {
        Vertex(EXEC).digest,
        Vertex(EXEC, (source,)).digest,
        Vertex(EXEC, (source, source)).digest,
        Vertex(EXEC, (Vertex(SourceOp("docker-image://b")),)).digest,
        Vertex(EXEC, (source,), platform="linux/arm64").digest,
    }
    assert len(digests) == 5


def test_file_actions_count_with_names_that_are_not_text() -> None:
    ops = [
        FileOp((CopyAction(0, "a\udcff", "/"),)),
        FileOp((CopyAction(0, "a\udcfe", "/"),)),
        FileOp((CopyAction(0, "a", "/", mode="755"),)),
        FileOp((CopyAction(0, "a", "/", owner="1:1"),)),
        FileOp((MkdirAction("/a"),)),
        FileOp((MkfileAction("/a", b"\xff"),)),
        FileOp((MkfileAction("/a", b"\xfe"),)),
    ]
    assert len({Vertex(op).digest for op in ops}) == len(ops)


def test_walk_gives_each_digest_once_and_inputs_first() -> None:
    base = Vertex(SourceOp("docker-image://a"))
    left, right = Vertex(exec_op(args=("l",)), (base,)), Vertex(exec_op(args=("r",)), (base,))
    twin = Vertex(exec_op(args=("l",)), (Vertex(SourceOp("docker-image://a")),))
    top = Vertex(MergeOp(), (left, right, twin))
    order = [vertex.digest for vertex in walk([top, left])]
    assert order == [base.digest, left.digest, right.digest, top.digest]


def test_walk_is_not_recursive() -> None:
    vertex = Vertex(SourceOp("docker-image://a"))
    for _ in range(5000):
        vertex = Vertex(EXEC, (vertex, vertex))
    assert len(walk([vertex])) == 5001
