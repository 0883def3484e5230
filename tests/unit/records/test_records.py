"""The data classes of `stagewright.records` behave as those of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from stagewright.records import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Point:
    """A frozen one, with every kind of field."""

    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list, compare=False)
    note: str = field(default="", repr=False)
    total: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", self.x + self.y)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named(Point):
    """One that inherits fields."""

    name: str


@dataclass(slots=True)
class Counter:
    """One that may change."""

    count: int = 0


@dataclass(slots=True, eq=False)
class Node:
    """One that is itself and nothing else."""

    value: int


@dataclasses.dataclass(frozen=True, slots=True)
class Standard:
    x: int
    y: int = 2


def test_values_defaults_and_post_init() -> None:
    point = Point(1, tags=["a"])
    assert (point.x, point.y, point.tags, point.total) == (1, 2, ["a"], 3)
    assert Point(1).tags is not Point(1).tags


def test_what_is_missing_or_unknown_is_a_type_error_as_in_the_standard_library() -> None:
    for kind in (Point, Standard):
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
            kind()  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
            kind(1, z=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("made_before", [0, 100])
def test_the_first_instances_are_made_as_the_later_ones(made_before: int) -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Fresh(Point):
        name: str = "n"

    for _ in range(made_before):
        Fresh(1)
    made = Fresh(1, y=3, note="x")
    assert (made.x, made.y, made.tags, made.note, made.total, made.name) == (1, 3, [], "x", 4, "n")
    assert Fresh(1).tags is not Fresh(1).tags
    for arguments, keywords in [((), {}), ((1,), {"x": 2}), ((1,), {"z": 3}), ((1,), {"total": 3}), ((1,) * 9, {})]:
        with pytest.raises(TypeError):
            Fresh(*arguments, **keywords)  # type: ignore[arg-type]
        assert Fresh(2).x == 2


def test_equality_counts_the_compared_fields_and_the_class() -> None:
    assert Point(1, tags=["a"]) == Point(1, tags=["b"])
    assert Point(1) != Point(2)
    assert Point(1) != Named(1, name="a")
    assert Named(1, name="a") == Named(1, name="a")
    assert Node(1) != Node(1)


def test_frozen_ones_can_be_hashed_and_not_assigned_to() -> None:
    assert len({Point(1), Point(1), Point(2)}) == 2
    with pytest.raises(AttributeError, match="frozen Point"):
        Point(1).x = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del Point(1).x
    with pytest.raises(TypeError, match="unhashable"):
        hash(Counter())
    counter = Counter()
    counter.count += 1
    assert counter == Counter(1)


def test_there_is_no_dict() -> None:
    with pytest.raises(AttributeError):
        Counter().other = 1  # type: ignore[attr-defined]
    assert not hasattr(Named(1, name="a"), "__dict__")


def test_repr_names_the_shown_fields() -> None:
    assert repr(Point(1, note="hidden")) == "Point(x=1, y=2, tags=[], total=3)"


def test_replace_makes_a_changed_copy() -> None:
    assert replace(Named(1, name="a"), x=5) == Named(5, name="a")
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        replace(Point(1), z=1)


def test_copies_and_pickles() -> None:
    named = Named(1, name="a", tags=["t"])
    assert copy.copy(named) == named
    assert copy.deepcopy(named).tags is not named.tags
    assert pickle.loads(pickle.dumps(named)) == named


def test_positional_patterns_match() -> None:
    match Point(7, 8):
        case Point(x, y):
            assert (x, y) == (7, 8)
        case _:
            pytest.fail("no match")
