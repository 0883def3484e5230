"""Steps of two Dockerfiles, aligned."""

from __future__ import annotations

import pytest

from stagewright.history import matching
from stagewright.history.matching import align


def pairs(old: str, new: str) -> dict[str, str]:
    """What became of each line: new instructions by the old ones, written without spaces."""
    olds, news = ([("exec", line) for line in text.split(";")] for text in (old, new))
    return {news[a][1]: olds[b][1] for a, b in align(olds, news)}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("RUN a;RUN b", "RUN a;RUN b", {"RUN a": "RUN a", "RUN b": "RUN b"}),
        ("RUN a;RUN b", "RUN a;RUN x;RUN b", {"RUN a": "RUN a", "RUN b": "RUN b"}),
        ("RUN a;RUN b", "RUN b", {"RUN b": "RUN b"}),
        ("RUN a;RUN b;COPY c", "RUN a;RUN x;COPY c", {"RUN a": "RUN a", "RUN x": "RUN b", "COPY c": "COPY c"}),
        ("RUN a;COPY c", "COPY c;RUN a", {"RUN a": "RUN a", "COPY c": "COPY c"}),
        ("COPY a", "RUN a", {}),
        ("COPY a;RUN b", "RUN x;COPY y", {"RUN x": "RUN b"}),
    ],
    ids=["same", "inserted", "removed", "changed", "moved", "other keyword", "crossed"],
)
def test_instructions_are_aligned(old: str, new: str, expected: dict[str, str]) -> None:
    assert pairs(old, new) == expected


def test_long_files_are_aligned_without_a_table() -> None:
    old = [("exec", f"RUN {number}") for number in range(2000)]
    new = [("exec", "RUN first"), *(token for token in old if token[1] != "RUN 1000"), ("exec", "RUN last")]
    found = dict(align(old, new))
    assert found[1] == 0
    assert found[1999] == 1999
    assert len(found) == 1999


def stages_of(*texts: str) -> dict[str, list[tuple[str, str]]]:
    """Stages without names, each of instructions with a semicolon between them."""
    return {f"stage-{number}": [("exec", line) for line in text.split(";")] for number, text in enumerate(texts)}


def test_stages_without_names_are_told_by_what_they_have_in_common() -> None:
    old = stages_of("RUN a;RUN b", "RUN c;RUN d;RUN e", "RUN f")
    new = stages_of("RUN x", "RUN a;RUN b", "RUN f", "RUN c;RUN d;RUN y")
    assert matching._same_stages(old, new) == {"stage-1": "stage-0", "stage-2": "stage-2", "stage-3": "stage-1"}


def test_stages_that_are_what_they_were_are_not_compared_with_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"RUN {number};RUN again" for number in range(2000)]
    monkeypatch.setattr(matching, "Counter", None)
    same = matching._same_stages(stages_of(*texts), stages_of("RUN new", *texts))
    assert same == {f"stage-{number + 1}": f"stage-{number}" for number in range(2000)}
    # Where all are others, as many are taken in their order.
    same = matching._same_stages(stages_of(*texts), stages_of(*(f"{text} now" for text in texts)))
    assert same == {f"stage-{number}": f"stage-{number}" for number in range(2000)}
