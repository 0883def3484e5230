"""The linter over Dockerfiles as people write them: all that it says of each, and what its rewrites leave."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.dockerfile import ast
from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError
from stagewright.lint.commands import commands_of
from stagewright.lint.findings import apply
from stagewright.lint.linter import fix, lint

CORPUS: dict[str, Any] = {
    name: entry
    for file in sorted((Path(__file__).parent / "corpus").glob("*.toml"))
    for name, entry in tomllib.loads(file.read_text()).items()
}
LINES = sorted({line for entry in CORPUS.values() for line in entry["dockerfile"].splitlines()})


def told(text: str) -> list[str]:
    found = {(item.location.start, item.rule.name) for item in lint(text.encode(), "Dockerfile")}
    return [f"{line} {rule}" for line, rule in sorted(found) if rule != "unpinned-base"]


@pytest.mark.parametrize("name", CORPUS)
def test_all_that_is_said(name: str) -> None:
    assert sorted(told(CORPUS[name]["dockerfile"])) == sorted(CORPUS[name]["findings"])


@pytest.mark.parametrize("name", CORPUS)
def test_a_fix_leaves_what_has_no_rewrite(name: str) -> None:
    data = CORPUS[name]["dockerfile"].encode()
    done = fix(data, "Dockerfile", None, lambda image: "sha256:" + "a" * 64)
    assert [item for item in done.left if item.edits] == []
    assert fix(done.text.encode(), "Dockerfile").mended == ()
    assert len(parse(done.text.encode()).stages) == len(parse(data).stages)


# What rewrites may put in and take out of scripts.
_COMMANDS = re.compile(
    r"(?:apt|apt-get|apk) (?:-\S+ )*(?:update|clean|autoclean)\b.*|rm .*(?:apt|docker-clean).*|npm cache clean.*"
    r"|yarn cache clean|echo Binary::apt.*|(?:dnf|yum|microdnf) clean all|rm -rf /tmp/.*"
)
_FLAGS = re.compile(
    r" (?:--no-cache(?:-dir)?|--omit=dev|--prod|--production|--no-dev|--only main|--no-install-project)\b"
)


def meaning(text: str) -> Counter[str]:
    """What the instructions of a Dockerfile do, without order, and without what rewrites may change."""
    items: Counter[str] = Counter()
    for stage in parse(text.encode()).stages:
        for item in stage.instructions:
            if isinstance(item, ast.Run):
                commands = [" ".join([command.program, *command.arguments]) for command in commands_of(item)]
                kept = [_FLAGS.sub("", command) for command in commands if not _COMMANDS.fullmatch(command)]
                items.update(kept)
            elif isinstance(item, ast.Copy):
                items[f"COPY {item.sources} {item.contents} {item.destination}"] += 1
            elif not isinstance(item, ast.Arg | ast.User):
                items[" ".join(item.original.split())] += 1
    return items


@pytest.mark.parametrize("name", CORPUS)
def test_rewrites_keep_what_a_dockerfile_does(name: str) -> None:
    text = CORPUS[name]["dockerfile"]
    before = meaning(text)
    one_by_one = [apply(text, [item])[0] for item in lint(text.encode(), "Dockerfile") if item.edits]
    for rewritten in [*one_by_one, fix(text.encode(), "Dockerfile").text]:
        after = meaning(rewritten)
        lost = before - after
        # A tool that nothing calls may go.
        assert [item for item in lost if "/bin/sh" not in item] == []
        # And files may be copied early for an install that stands before the others.
        assert [item for item in after - before if not item.startswith(("COPY", "uv sync", "poetry install"))] == []
        assert len(parse(rewritten.encode()).blank_continuations) <= len(parse(text.encode()).blank_continuations)


@given(st.lists(st.sampled_from(LINES), max_size=12))
def test_any_mix_of_lines(lines: list[str]) -> None:
    data = "\n".join(["FROM a", *lines]).encode()
    try:
        parse(data)
    except DockerfileError:
        return
    done = fix(data, "Dockerfile")
    assert [item for item in done.left if item.edits] == []


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        lint(b"FROM a\nRUN " + data, "Dockerfile")
    except DockerfileError:
        return
