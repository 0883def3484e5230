"""What fuzzing once found stays mended, and a few thousand mutations of it find nothing new."""

from __future__ import annotations

import random

import pytest
from corpus import corpus, load_target, target_names
from mutation import mutations

# Each of these makes and removes folders.
_SLOW = {"layer": 300}


@pytest.mark.parametrize("name", target_names())
def test_the_corpus(name: str) -> None:
    target = load_target(name)
    inputs = corpus(name)
    assert inputs
    for data in (b"", *inputs):
        target.check(data)


@pytest.mark.parametrize("name", target_names())
def test_mutations_of_the_corpus(name: str) -> None:
    target = load_target(name)
    for data in mutations(corpus(name), target.tokens, _SLOW.get(name, 2000), seed=20240101):
        try:
            target.check(data)
        except Exception as error:
            raise AssertionError(f"{name}: {data!r}") from error


def test_mutations_depend_on_their_seed_alone() -> None:
    inputs, tokens = [b"one", b"another"], [b"word"]
    first = list(mutations(inputs, tokens, 50, seed=7))
    random.seed(99)
    assert list(mutations(inputs, tokens, 50, seed=7)) == first
    assert len(set(first)) > 40
