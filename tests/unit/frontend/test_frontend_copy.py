"""COPY and ADD: what they become, what of them is refused, and how they are written in the history."""

from __future__ import annotations

import pytest
from frontend_world import AMD64, Registry, build, copies, history, image, is_context, names, vertices

from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError
from stagewright.frontend.convert import convert
from stagewright.frontend.options import Options
from stagewright.graph.ops import CopyAction, FileOp, MergeOp, MkfileAction
from stagewright.graph.vertex import Vertex


def copied(line: str, before: str = "") -> list[CopyAction]:
    """The actions of a COPY or ADD on an image whose working folder is /w."""
    return copies(build(f"FROM a\n{before}\n{line}", images={"a": image(working_dir="/w")}))


def copy(line: str, before: str = "") -> CopyAction:
    (action,) = copied(line, before)
    return action


def refused(text: str) -> str:
    with pytest.raises(DockerfileError) as caught:
        build(text)
    assert caught.value.location is not None
    assert caught.value.location.start == len(text.split("\n"))
    return caught.value.message


def files(vertex: Vertex) -> dict[str, bytes]:
    assert isinstance(vertex.op, FileOp)
    return {action.path: action.data for action in vertex.op.actions if isinstance(action, MkfileAction)}


# --- destinations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("/x", "/x"),
        ("/x/", "/x/"),
        ("/", "/"),
        ("x", "/w/x"),
        ("./x/", "/w/x/"),
        (".", "/w/"),
        ("./", "/w/"),
        ("..", "/"),
        ("/x/.", "/x/"),
        ("/x/../y", "/y"),
        ("//x//y", "/x/y"),
        ("$D/y", "/d/y"),
        ("$UNSET", "/w/"),
    ],
)
def test_destination(written: str, expected: str) -> None:
    assert copied(f"COPY a {written}", before="ENV D=/d")[0].dest == expected


def test_names_with_spaces_in_json() -> None:
    action = copy('COPY ["a b", "/c d/"]')
    assert (action.source, action.dest) == ("a b", "/c d/")


def test_several_sources_may_go_where_no_slash_is() -> None:
    # Only the engine's own old builder refused that.
    assert [action.source for action in copied("COPY a b /x")] == ["a", "b"]


# --- sources and flags ----------------------------------------------------------------------------------------------


def test_copy_from_the_context() -> None:
    plan = build("FROM a\nCOPY a b /x/")
    assert plan.vertex is not None
    base, context = plan.vertex.inputs
    assert not is_context(base) and is_context(context)
    assert copies(plan) == [
        CopyAction(1, "a", "/x/", optional=True),
        CopyAction(1, "b", "/x/", optional=True),
    ]


def test_copy_into_nothing() -> None:
    plan = build("FROM scratch\nCOPY a /")
    assert plan.vertex is not None
    assert plan.vertex.op == FileOp((CopyAction(0, "a", "/", optional=True),), base=None)


def test_copy_from_nothing() -> None:
    plan = build("FROM scratch AS x\nFROM a\nCOPY --from=x /a /b")
    assert plan.vertex is not None
    assert plan.vertex.inputs[1].op == FileOp((), base=None)


def test_variables_in_sources_and_flags() -> None:
    action = copy("COPY --chown=$U:$U --chmod=$M $S* /x/", before="ENV U=7 M=0640 S=src")
    assert (action.owner, action.mode, action.source) == ("7:7", "0640", "src*")


@pytest.mark.parametrize("mode", ["0644", "7777", "u=rwX,go=rX", "+x", "a-w"])
def test_modes(mode: str) -> None:
    assert copy(f"COPY --chmod={mode} a /").mode == mode


@pytest.mark.parametrize("mode", ["10000", "0888", "rwx", "u+q"])
def test_malformed_modes(mode: str) -> None:
    assert refused(f"FROM a\nCOPY --chmod={mode} a /").startswith(f"invalid chmod parameter: '{mode}'")


def test_history_is_written_as_expanded() -> None:
    plan = build("FROM a\nARG V=1\ncopy --link --chown=1 --exclude=z $V <<E $V/\nx\nE\nADD --chmod=0600 b c /")
    assert history(plan)[1:] == ["COPY --chown=1 1 <<E 1/ # buildkit", "ADD --chmod=0600 b c / # buildkit"]


# --- here-documents -------------------------------------------------------------------------------------------------


def test_here_documents_are_files() -> None:
    command = "COPY --chmod=0755 --chown=5 <<one.txt <<'two' /d/"
    plan = build(f'FROM a\nENV V=v\n{command}\nA $V "q" \\$V\none.txt\nB $V\ntwo')
    assert plan.vertex is not None
    _, one, two = plan.vertex.inputs
    assert (files(one), files(two)) == ({"/one.txt": b'A v "q" $V\n'}, {"/two": b"B $V\n"})
    assert [(action.input, action.source, action.mode, action.owner) for action in copies(plan)] == [
        (1, "one.txt", "0755", "5"),
        (2, "two", "0755", "5"),
    ]
    assert one.meta.name == "[internal] preparing inline document"


def test_here_document_beside_files() -> None:
    assert [action.source for action in copied("COPY <<E a /d/\nx\nE")] == ["a", "E"]


def test_here_document_of_bytes_that_are_no_text() -> None:
    plan = convert(parse(b"FROM scratch\nCOPY <<E /f\n\xff$X-\xc3\xa4\nE\n"), Options(AMD64), Registry())
    assert plan.vertex is not None
    assert files(plan.vertex.inputs[0]) == {"/E": b"\xff-\xc3\xa4\n"}


def test_malformed_variable_in_a_here_document() -> None:
    with pytest.raises(DockerfileError):
        build("FROM a\nCOPY <<E /f\n${x\nE")


# --- ADD ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "unpack"),
    [
        ("COPY a /", False),
        ("ADD a /", True),
        ("ADD --unpack a /", True),
        ("ADD --unpack=true a /", True),
        ("ADD --unpack=false a /", False),
        ("ADD --keep-git-dir a /", True),
    ],
)
def test_unpacking(line: str, unpack: bool) -> None:
    assert copy(line).unpack is unpack


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("http://example.com/x", "URL"),
        ("https://example.com/x.gitx", "URL"),
        ("https://example.com/x.git", "git ref"),
        ("https://example.com/x.git#main:sub", "git ref"),
        ("https://example.com/x.git?ref=main", "git ref"),
        ("git://example.com/x", "git ref"),
        ("ssh://git@example.com/x", "git ref"),
        ("git@example.com:x/y", "git ref"),
    ],
)
def test_copy_takes_nothing_from_the_network(source: str, kind: str) -> None:
    assert refused(f"FROM a\nARG S={source}\nCOPY $S /") == f"source can't be a {kind} for COPY"


@pytest.mark.parametrize("source", ["github.com/x/y", "file://x", "./git@x:y", "httpx", "a:b"])
def test_sources_that_only_look_remote(source: str) -> None:
    assert copy(f"ADD {source} /").source == source


def test_checksums() -> None:
    flag = "--checksum=sha256:" + "0" * 64
    assert refused(f"FROM a\nADD {flag} a b /") == "checksum can't be specified for multiple sources"
    assert refused(f"FROM a\nADD {flag} a /") == "checksum requires HTTP(S) or Git sources"


# --- --link, --parents, --exclude -----------------------------------------------------------------------------------


def test_link_is_a_layer_of_its_own() -> None:
    plan = build("FROM a\nCOPY --link --chown=1 a /x/")
    assert plan.vertex is not None
    assert plan.vertex.op == MergeOp()
    base, layer = plan.vertex.inputs
    assert layer.op == FileOp((CopyAction(0, "a", "/x/", owner="1", optional=True),), base=None)
    assert base.meta.name.startswith("[1/2] FROM")
    assert names(plan)[-2:] == ["[2/2] COPY --link --chown=1 a /x/", "[2/2] LINK COPY --link --chown=1 a /x/"]


def test_linked_layer_does_not_depend_on_what_is_below() -> None:
    layers = [vertices(build(f"FROM {base}\nCOPY --link a /")) for base in ("a", "b")]
    digests = [{vertex.digest for vertex in found if isinstance(vertex.op, FileOp)} for found in layers]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("line", ["COPY --link --chmod=0600 a /", "COPY --link=false a /"])
def test_no_link_with_a_mode(line: str) -> None:
    plan = build(f"FROM a\n{line}")
    assert plan.vertex is not None
    assert isinstance(plan.vertex.op, FileOp)


def test_link_on_nothing_is_a_plain_copy() -> None:
    plan = build("FROM scratch\nCOPY --link a /")
    assert plan.vertex is not None
    assert isinstance(plan.vertex.op, FileOp)


@pytest.mark.parametrize(
    ("source", "folder", "includes", "required"),
    [
        ("x/y.txt", "/", ("x/y.txt",), ("/x/y.txt",)),
        ("./x/y.txt", "/", ("x/y.txt",), ("/x/y.txt",)),
        ("/x/y", "/", ("x/y",), ("/x/y",)),
        ("x/*.txt", "/", ("x/*.txt",), ()),
        ("**/*.txt", "/", ("**/*.txt",), ()),
        ("x/./y/z", "x", ("y/z",), ("/x/y/z",)),
        ("./a/b/./c/*", "./a/b", ("c/*",), ()),
        ("x*/./y", "x*", ("y",), ()),
        ("x/./y/./z", "x", ("y/z",), ("/x/y/z",)),
        (".", "/", (), ("/",)),
        ("x/./.", "x", (), ("/x",)),
    ],
)
def test_parents(source: str, folder: str, includes: tuple[str, ...], required: tuple[str, ...]) -> None:
    action = copy(f"COPY --parents {source} /d/")
    assert (action.source, action.includes, action.required) == (folder, includes, required)


def test_malformed_parents() -> None:
    assert refused("FROM a\nCOPY --parents x/[ /d/") == 'syntax error in pattern "x/["'


def test_history_of_parents() -> None:
    plan = build("FROM a\nCOPY --parents --chown=1 x/./y z /d/")
    assert history(plan) == ["COPY --parents --chown=1 x/./y z /d/ # buildkit"]


@pytest.mark.parametrize("keyword", ["COPY", "ADD"])
def test_exclude(keyword: str) -> None:
    action = copy(f"{keyword} --exclude=*.md --exclude=!README.md . /d/")
    assert action.excludes == ("*.md", "!README.md")


def test_malformed_exclude() -> None:
    assert refused("FROM a\nCOPY --exclude=! . /d/").startswith("illegal exclusion pattern")
    assert refused("FROM a\nCOPY --exclude=[ . /d/")
