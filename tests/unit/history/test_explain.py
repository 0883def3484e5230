"""Steps that are what they were in an earlier build, and have no result all the same; and whatever Dockerfiles say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagewright.cache.locks import LockFile
from stagewright.history.archive import Archive, Build, Run
from stagewright.history.explain import Explainer
from stagewright.history.past import Present
from stagewright.history.recipe import Recipe
from stagewright.history.steps import Step

DOCKERFILE = "FROM busybox\nCOPY one /\nRUN echo 1\n"


def steps_of(dockerfile: str, keys: str = "") -> list[Step]:
    """A chain of steps, one for each line; `keys` are put before what the keys were."""
    steps: list[Step] = []
    for number, line in enumerate(dockerfile.splitlines(), 1):
        keyword = line.partition(" ")[0]
        op: dict[str, Any] = {"op": "exec", "args": [line], "env": ["A=1"]}
        if keyword == "FROM":
            op = {"op": "source", "identifier": f"docker-image://image@sha256:{line}"}
        elif keyword == "COPY":
            op = {"op": "file", "actions": [{"input": 1, "source": line}]}
        inputs = [number - 2] if number > 1 and keyword != "FROM" else []
        key = f"{keys}{number}{line}"
        name = f"[{number}/9] {line}"
        steps.append(Step(key, name, "", [number, number], op, "p", inputs, 0 if inputs else None, key, key))
    return steps


class World:
    """An archive with one earlier build, and a present one that is like it but for what a test says."""

    def __init__(self, folder: Path, old: str = DOCKERFILE, run: Run | None = None, version: str = "1") -> None:
        self.archive = Archive(folder / "history", LockFile(folder / "locks"))
        inputs = {"context": "/c", "args": {}}
        self.build = Build(0, "s", "r", 1000.0, 1.0, "completed", "", inputs, {}, "g", 3, 3, version)
        graph = {"steps": [step.to_json() for step in steps_of(old)], "dockerfile": old, "ignore": [], "files": []}
        self.archive.add(self.build, run, lambda: graph, {})

    def explainer(self, new: str = DOCKERFILE, sources: Sequence[str] = (), keys: str = "") -> Explainer:
        steps = steps_of(new, keys)
        present = Present(
            steps=steps,
            recipe=Recipe(new, {}),
            inputs={"context": "/c", "args": {}},
            no_cache=[False] * len(steps),
            files=lambda digest: b"",
            exists=lambda path: False,
            version="2",
            sources=sources,
        )
        return Explainer(self.archive, self.archive.list(), present)


def test_a_context_that_changed_while_it_was_copied(tmp_path: Path) -> None:
    world = World(tmp_path, run=Run({1: {"state": "ran", "exact": False}}))
    reason = world.explainer().explain(1)
    assert reason.kind == "inexact"
    assert reason.sentence == "the build context changed while build 1 copied it, so that nothing was kept"


def test_another_version_has_other_keys(tmp_path: Path) -> None:
    world = World(tmp_path)
    explainer = world.explainer(keys="new ")
    assert explainer.explain(0).sentence == "this is version 2, which does not use results of 1"


@pytest.mark.parametrize("dockerfile", [DOCKERFILE, DOCKERFILE + "RUN echo new\n"], ids=["same", "new"])
def test_an_imported_cache_that_lacks_a_step(tmp_path: Path, dockerfile: str) -> None:
    explainer = World(tmp_path).explainer(dockerfile, sources=["registry/app:cache"])
    reason = explainer.explain(dockerfile.count("\n") - 1)
    assert reason.kind == "not-imported"
    assert "the cache source registry/app:cache" in reason.sentence


def test_a_damaged_record_is_as_good_as_none(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "history" / "graphs" / "g").write_bytes(b"damaged")
    assert world.explainer().explain(1).kind == "new"


INSTRUCTIONS = st.sampled_from(
    ["FROM busybox", "FROM debian", "RUN a", "RUN b", "RUN c", "COPY a /", "COPY b /", "WORKDIR /a", "RUN $A"]
)
DOCKERFILES = st.lists(INSTRUCTIONS, min_size=1, max_size=8).map("\n".join)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=DOCKERFILES, new=DOCKERFILES, ran=st.integers(0, 255))
def test_any_step_of_any_dockerfile_is_explained(
    tmp_path_factory: pytest.TempPathFactory, old: str, new: str, ran: int
) -> None:
    explainer = World(tmp_path_factory.mktemp("any"), old).explainer(new, keys="new ")
    for index in range(len(new.splitlines())):
        if ran >> index & 1:
            reason = explainer.explain(index)
            assert reason.sentence
            assert reason.root == index or explainer.reasons[reason.root].root == reason.root
