"""The linter over Dockerfiles as people write them: all that it says of each, and what its rewrites leave."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError
from stagewright.lint.linter import fix, lint

CORPUS: dict[str, Any] = tomllib.loads((Path(__file__).parent / "corpus.toml").read_text())
LINES = sorted({line for entry in CORPUS.values() for line in entry["dockerfile"].splitlines()})


def told(text: str) -> list[str]:
    found = {(item.location.start, item.rule.name) for item in lint(text.encode(), "Dockerfile")}
    return [f"{line} {rule}" for line, rule in sorted(found) if rule != "unpinned-base"]


@pytest.mark.parametrize("name", CORPUS)
def test_all_that_is_said(name: str) -> None:
    assert told(CORPUS[name]["dockerfile"]) == CORPUS[name]["findings"]


@pytest.mark.parametrize("name", CORPUS)
def test_a_fix_leaves_what_has_no_rewrite(name: str) -> None:
    data = CORPUS[name]["dockerfile"].encode()
    done = fix(data, "Dockerfile", None, lambda image: "sha256:" + "a" * 64)
    assert [item for item in done.left if item.edits] == []
    assert fix(done.text.encode(), "Dockerfile").mended == ()
    assert len(parse(done.text.encode()).stages) == len(parse(data).stages)


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
