"""RUN: command lines, here-documents and mounts."""

from __future__ import annotations

import pytest
from frontend_world import build, execs, history, image, last_exec, names, vertices

from stagewright.errors import DockerfileError
from stagewright.graph.ops import CopyAction, FileOp, MkfileAction, Mount
from stagewright.graph.vertex import Vertex


def refused(text: str) -> str:
    with pytest.raises(DockerfileError) as caught:
        build(text)
    assert caught.value.location is not None
    assert caught.value.location.start == len(text.split("\n"))
    return caught.value.message


def mounts(line: str, before: str = "") -> list[Mount]:
    """The mounts of a RUN but for the root, on an image whose working folder is /w."""
    plan = build(f"FROM a\n{before}\nRUN {line} true", images={"a": image(working_dir="/w")})
    root, *others = last_exec(plan).mounts
    assert root == Mount("bind", "/", 0)
    return others


def run_vertex(text: str) -> Vertex:
    vertex = build(text).vertex
    assert vertex is not None
    return vertex


# --- command lines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "args"),
    [
        ("RUN a  && b", ("/bin/sh", "-c", "a  && b")),
        ("RUN a \\\n  b", ("/bin/sh", "-c", "a   b")),
        ('RUN ["a", "b c"]', ("a", "b c")),
        ("RUN ['a']", ("/bin/sh", "-c", "['a']")),
        ("RUN echo $X", ("/bin/sh", "-c", "echo $X")),
        ("RUN", ("/bin/sh", "-c", "")),
    ],
)
def test_command_line(line: str, args: tuple[str, ...]) -> None:
    plan = build(f"FROM a\nENV X=1\n{line}")
    assert last_exec(plan).args == args
    assert history(plan)[-1] == f"RUN {' '.join(args)} # buildkit"


def test_step_has_the_stages_environment_folder_and_user() -> None:
    op = last_exec(build("FROM a\nWORKDIR /w\nUSER me\nRUN true"))
    assert (op.cwd, op.user) == ("/w", "me")


def test_user_and_folder_of_the_image() -> None:
    op = last_exec(build("FROM a\nRUN true", images={"a": image(user="u:g", working_dir="/w/")}))
    assert (op.cwd, op.user) == ("/w/", "u:g")


def test_shell_of_the_image() -> None:
    plan = build("FROM a\nRUN x", images={"a": image(shell=("/bin/ash", "-c"))})
    assert last_exec(plan).args == ("/bin/ash", "-c", "x")


def test_step_on_nothing() -> None:
    plan = build('FROM scratch\nRUN ["x"]')
    assert last_exec(plan).mounts == (Mount("bind", "/", None),)
    assert plan.vertex is not None and plan.vertex.inputs == ()


def test_args_in_the_history_are_each_there_once_with_their_last_value() -> None:
    plan = build("FROM a\nARG A=1 B\nARG A=2\nENV B=3\nRUN x")
    assert history(plan)[-1] == "RUN |2 A=2 B=3 /bin/sh -c x # buildkit"


# --- here-documents -------------------------------------------------------------------------------------------------


def test_here_document_is_the_command() -> None:
    plan = build("FROM a\nRUN <<EOF\necho $X\n\techo two\nEOF")
    assert last_exec(plan).args == ("/bin/sh", "-c", "echo $X\n\techo two\n")
    assert names(plan)[-1] == "[2/2] RUN <<EOF (echo $X...)"
    assert history(plan)[-1] == "RUN /bin/sh -c echo $X\n\techo two\n # buildkit"


def test_here_document_without_leading_tabs() -> None:
    assert last_exec(build("FROM a\nRUN <<-EOF\n\techo one\n\tEOF")).args[-1] == "echo one\n"


def test_here_document_of_a_program_is_left_to_the_shell() -> None:
    plan = build("FROM a\nRUN python3 <<EOF && cat <<'X'\nprint(1)\nEOF\nhello\nX")
    assert last_exec(plan).args[-1] == "python3 <<EOF && cat <<'X'\nprint(1)\nEOF\nhello\nX"
    assert names(plan)[-1] == "[2/2] RUN python3 <<EOF && cat <<'X'"


def test_here_document_with_an_interpreter_is_a_script() -> None:
    plan = build("FROM a\nRUN <<EOF\n#!/usr/bin/env python3\nprint(1)\nEOF")
    op = last_exec(plan)
    assert op.args == ("/bin/sh", "-c", "/dev/pipes/EOF")
    assert op.mounts[1] == Mount("bind", "/dev/pipes/", 1, "/", readonly=True)
    assert plan.vertex is not None
    script = plan.vertex.inputs[1]
    assert script.op == FileOp((MkfileAction("/EOF", b"#!/usr/bin/env python3\nprint(1)\n", mode=0o755),), base=None)
    assert script.meta.name == "[internal] preparing inline document"


def test_here_document_in_exec_form_is_none() -> None:
    assert last_exec(build('FROM a\nRUN ["cat", "<<EOF"]')).args == ("cat", "<<EOF")


# --- bind mounts ----------------------------------------------------------------------------------------------------


def test_bind_from_the_context_is_just_the_selected_part() -> None:
    vertex = run_vertex("FROM a\nRUN --mount=target=/src,source=app/x true")
    part = vertex.inputs[1]
    assert part.op == FileOp((CopyAction(0, "/app/x", "/app/x", wildcard=False),), base=None)
    assert part.inputs[0].op.identity()[1] == "local://context"


def test_bind_options() -> None:
    (mount,) = mounts("--mount=type=bind,source=x,target=y,rw")
    assert mount == Mount("bind", "/w/y", 1, "/x", readonly=False)
    (mount,) = mounts("--mount=dst=/y")
    assert mount == Mount("bind", "/y", 1, "/", readonly=True)


def test_bind_from_a_stage_and_an_image() -> None:
    text = "FROM a AS x\nRUN one\nFROM b\nRUN --mount=from=x,source=/s,target=/t --mount=from=c,target=/u two"
    vertex = run_vertex(text)
    assert [mount.input for mount in last_exec(build(text)).mounts] == [0, 1, 2]
    assert [source.meta.name for source in vertex.inputs[1:2]] == ["[x 2/2] RUN one"]
    assert vertex.inputs[2].meta.name.startswith("FROM docker.io/library/c")


def test_mounts_of_one_stage_share_an_input() -> None:
    text = "FROM a AS x\nRUN one\nFROM b\nRUN --mount=from=x,target=/t --mount=from=x,source=/s,target=/u two"
    assert [mount.input for mount in last_exec(build(text)).mounts] == [0, 1, 1]


def test_mounts_of_a_step_on_nothing_share_an_input() -> None:
    text = "FROM a AS x\nRUN one\nFROM scratch\nRUN --mount=from=x,target=/t --mount=from=x,source=/s,target=/u two"
    assert [mount.input for mount in last_exec(build(text)).mounts] == [None, 0, 0]


def test_mount_of_the_stage_below_is_an_input_of_its_own() -> None:
    text = "FROM a AS x\nRUN one\nFROM x\nRUN --mount=from=x,target=/t two"
    assert [mount.input for mount in last_exec(build(text)).mounts] == [0, 1]


def test_bind_from_nothing() -> None:
    (mount,) = mounts("--mount=from=scratch,target=/t")
    assert mount.input is None


def test_mount_options_expand_variables() -> None:
    (mount,) = mounts("--mount=type=cache,target=$D/c,id=$D-c,uid=$U", before="ENV D=/d\nARG U=7")
    assert (mount.target, mount.id, mount.uid) == ("/d/c", "/d-c", 7)


def test_source_name_with_an_escape_is_the_name_as_written() -> None:
    plan = build("FROM a AS x\nRUN one\nFROM b\nRUN --mount=from=X,target=/t two")
    assert [op.args[-1] for op in execs(plan)] == ["one", "two"]


def test_mount_over_the_root() -> None:
    assert refused("FROM a\nRUN --mount=target=/ true") == 'invalid mount target "/"'
    assert refused("FROM a\nRUN --mount=type=cache,target=/x/.. true") == 'invalid mount target "/x/.."'


def test_malformed_mount_stands_at_its_line() -> None:
    message = refused("FROM a\nENV A=1\nRUN --mount=type=cache,target=/c,sharing=no true")
    assert message.startswith("unsupported sharing")


# --- caches and tmpfs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("target=/c", Mount("cache", "/c", None, "/", id="/c")),
        # What is one folder is one cache, however it is written, and named before the working folder comes to it.
        ("target=/c/", Mount("cache", "/c", None, "/", id="/c")),
        ("target=c", Mount("cache", "/w/c", None, "/", id="c")),
        ("target=/c,id=x,sharing=locked", Mount("cache", "/c", None, "/", id="x", sharing="locked")),
        ("target=/c,sharing=private,ro", Mount("cache", "/c", None, "/", readonly=True, id="/c", sharing="private")),
        ("target=/c,uid=1,gid=2,mode=0700", Mount("cache", "/c", None, "/", id="/c", mode=0o700, uid=1, gid=2)),
        ("target=/c,from=b,source=/s,uid=1", Mount("cache", "/c", 1, "/s", id="/c")),
    ],
)
def test_cache_mounts(options: str, expected: Mount) -> None:
    assert mounts(f"--mount=type=cache,{options}") == [expected]


def test_tmpfs_mounts() -> None:
    assert mounts("--mount=type=tmpfs,target=t,size=1m") == [Mount("tmpfs", "/w/t", size=1 << 20)]
    assert mounts("--mount=type=tmpfs,target=/t") == [Mount("tmpfs", "/t")]


# --- secrets and SSH ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("id=k", Mount("secret", "/run/secrets/k", id="k")),
        ("id=a/k", Mount("secret", "/run/secrets/k", id="a/k")),
        ("source=k,target=/t", Mount("secret", "/t", id="k")),
        ("target=/t/k", Mount("secret", "/t/k", id="k")),
        ("id=k,target=t", Mount("secret", "/w/t", id="k")),
        ("id=k,env=K", Mount("secret", "", id="k", env="K")),
        ("id=k,env=K,target=/t", Mount("secret", "/t", id="k", env="K")),
        ("id=k,required", Mount("secret", "/run/secrets/k", id="k", required=True)),
        ("id=k,mode=0444,uid=1,gid=2", Mount("secret", "/run/secrets/k", id="k", mode=0o444, uid=1, gid=2)),
    ],
)
def test_secret_mounts(options: str, expected: Mount) -> None:
    assert mounts(f"--mount=type=secret,{options}") == [expected]


def test_secret_variable_is_masked_in_the_name_and_absent_elsewhere() -> None:
    plan = build("FROM a\nENV K=shown\nRUN --mount=type=secret,id=k,env=K use $K")
    assert names(plan)[-1].endswith("use ****")
    assert last_exec(plan).args[-1] == "use $K"


def test_ssh_mounts() -> None:
    assert mounts("--mount=type=ssh --mount=type=ssh,id=x,target=s,required,mode=0666,uid=1 --mount=type=ssh") == [
        Mount("ssh", "/run/buildkit/ssh_agent.0", id="default"),
        Mount("ssh", "/w/s", id="x", required=True, mode=0o666, uid=1),
        Mount("ssh", "/run/buildkit/ssh_agent.2", id="default"),
    ]


def test_ssh_takes_no_source() -> None:
    assert refused("FROM a\nRUN --mount=type=ssh,source=x true") == "ssh does not support source"


# --- what cannot be run ---------------------------------------------------------------------------------------------


def test_devices_are_refused() -> None:
    assert refused("FROM a\nRUN --device=vendor.com/gpu=0 true") == "RUN --device is not supported"


def test_insecure_steps_are_refused() -> None:
    assert refused("FROM a\nRUN --security=insecure true") == "security.insecure is not allowed"
    assert execs(build("FROM a\nRUN --security=sandbox true"))


def test_step_is_located_and_named() -> None:
    vertex = run_vertex("FROM a AS x\nENV A=1\nRUN one \\\n  two\nFROM x\nCOPY --from=x / /").inputs[0]
    assert vertex.meta.location is not None
    assert (vertex.meta.location.start, vertex.meta.location.end, vertex.meta.stage) == (3, 4, "x")


def test_platform_of_steps() -> None:
    plan = build("FROM --platform=linux/arm64 a\nRUN true")
    assert {vertex.platform for vertex in vertices(plan)} == {"linux/arm64"}


def test_insecure_steps_that_are_granted() -> None:
    plan = build("FROM a\nRUN --security=insecure true", entitlements=frozenset({"security.insecure"}))
    assert last_exec(plan).security == "insecure"
