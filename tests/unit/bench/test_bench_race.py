from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import chart
import pytest
import report
from builders import Builder, BuilderError, Wish
from cases import CASES, GROWTHS, Case
from race import Race, Row, Times


class Scripted(Builder):
    """A builder whose builds are lines in a file, and which can do what it is told to."""

    programs = ("sh",)

    def __init__(self, name: str, folder: Path, status: int = 0, cannot: Sequence[str] = ()) -> None:
        super().__init__(folder, os.environ, ())
        self.name = name  # type: ignore[misc]
        self._status = status
        self._cannot = cannot

    def version(self) -> str:
        return "1"

    def reset(self) -> None:
        self._note("reset")

    def command(self, context: Path, wish: Wish) -> list[str] | None:
        product = "archive" if wish.archive else "push" if wish.push else "result"
        if product in self._cannot:
            return None
        fresh = "fresh " if wish.build_args else ""
        return ["sh", "-c", f"echo {self.name} {fresh}{product} >>{self.folder}/notes; exit {self._status}"]

    def _note(self, text: str) -> None:
        with open(self.folder / "notes", "a") as notes:
            notes.write(f"{self.name} {text}\n")


def case(**changes: object) -> Case:
    values: dict[str, object] = {"name": "case", "what": "what", "workload": "steps", "before": "built"}
    values |= {"floor_name": "touch", "floor": lambda context, scratch: f"touch {scratch}/x"}
    return Case(**(values | changes))  # type: ignore[arg-type]


def race(tmp_path: Path, builders: Sequence[Builder], raced: Case, rounds: int = 2, weigh: bool = False) -> Row:
    return Race(builders, tmp_path, os.environ, "127.0.0.1:1").run(raced, tmp_path, rounds, weigh=weigh)


def notes(tmp_path: Path) -> list[str]:
    return (tmp_path / "notes").read_text().splitlines()


def test_builders_take_turns_and_another_one_begins_each_round(tmp_path: Path) -> None:
    row = race(tmp_path, [Scripted("a", tmp_path), Scripted("b", tmp_path)], case(), rounds=3)
    assert notes(tmp_path)[:4] == ["a reset", "a result", "b reset", "b result"]
    assert notes(tmp_path)[4:] == [f"{name} result" for name in "abbaab"]
    assert [len(times.runs_s) for times in (row.floor, *row.builders.values())] == [3, 3, 3]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"before": "empty"}, ["reset", "reset", "result"]),
        ({"fresh": True}, ["reset", "fresh result", "fresh result"]),
        ({"before": "unexported", "product": "archive"}, ["reset", "reset", "result", "archive"]),
        ({"before": "unexported", "product": "push"}, ["reset", "reset", "result", "push"]),
    ],
)
def test_a_builder_is_brought_to_where_the_case_begins(
    tmp_path: Path, changes: dict[str, object], expected: list[str]
) -> None:
    race(tmp_path, [Scripted("a", tmp_path)], case(**changes), rounds=1)
    assert notes(tmp_path) == [f"a {note}" for note in expected]


def test_touched_files_have_other_contents_in_each_round(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("f10", "f20", "f21")]
    for file in files:
        file.write_bytes(bytes(40))
    race(tmp_path, [Scripted("a", tmp_path)], case(touched="f*0"), rounds=1)
    first = [file.read_bytes() for file in files]
    race(tmp_path, [Scripted("a", tmp_path)], case(touched="f*0"), rounds=1)
    second = [file.read_bytes() for file in files]
    assert bytes(40) not in (*first[:2], *second[:2]) and first[0] != second[0] and first[1] != second[1]
    assert {len(data) for data in second} == {40} and second[2] == bytes(40)


def test_who_fails_is_shown_as_failing_and_who_cannot_is_left_out(tmp_path: Path) -> None:
    class Stuck(Scripted):
        def reset(self) -> None:
            raise BuilderError("stuck")

    builders = [
        Scripted("a", tmp_path),
        Scripted("b", tmp_path, status=4),
        Stuck("c", tmp_path),
        Scripted("d", tmp_path, cannot=["result"]),
    ]
    row = race(tmp_path, builders, case())
    assert list(row.builders) == ["a", "b", "c"]
    assert row.builders["a"].error is None
    assert [error.split(":")[0] for error in report.errors([row])] == ["case, b", "case, c"]


def test_memory_is_measured_in_a_round_of_its_own(tmp_path: Path) -> None:
    row = race(tmp_path, [Scripted("a", tmp_path)], case(), weigh=True)
    assert len(row.builders["a"].runs_s) == 2
    assert row.builders["a"].peak_mib is not None


def row_of(raced: Case, floor_s: float, **medians: float) -> Row:
    return Row(raced, Times([floor_s]), {name: Times([seconds]) for name, seconds in medians.items()})


def test_ratios_say_how_many_times_the_others_time_is_taken() -> None:
    line = report.line(row_of(case(), 0.5, stagewright=1.0, docker=4.0), ["stagewright", "docker", "buildah"])
    assert line.split() == ["case", "0.500", "s", "1.000", "s", "4.000", "s", "-", "0.25", "-", "2.00"]
    assert report.header(["stagewright", "docker"]).split()[-4:] == ["/", "docker", "/", "floor"]


def test_claims_are_held_against_what_was_measured() -> None:
    raced = {case.name: case for case in CASES}
    rows = [
        row_of(raced["steps-cached"], 0.0, stagewright=0.1),
        row_of(raced["runs"], 0.5, stagewright=1.7),
        Row(raced["parallel"], Times([2.0]), {"stagewright": Times(error="no")}),
    ]
    assert [line.split(": ")[1] for line in report.claim_lines(rows)] == [
        "0.100 s, below 0.2 s",
        "1.200 s, NOT below 1 s",
        "not measured",
    ]


def test_growth_is_that_of_the_floor_and_of_each_builder() -> None:
    small = row_of(case(), 0.5, stagewright=1.0, docker=4.0)
    large = row_of(case(), 5.0, stagewright=20.0)
    line = report.growth_line(GROWTHS[0], small, large)
    assert "floor 10.00 (0.500 s -> 5.000 s), stagewright 20.00 (1.000 s -> 20.000 s)" in line
    assert "docker" not in line


def test_a_chart_has_a_bar_for_each_builder_that_did_not_fail() -> None:
    rows = [
        row_of(case(what="<a & b>"), 0.5, stagewright=1.0, docker=4.0),
        Row(case(), Times(error="no"), {"buildah": Times(error="no")}),
    ]
    root = ElementTree.fromstring(chart.draw(rows, "title", "where"))
    shapes = [element.tag.rpartition("}")[2] for element in root]
    assert (shapes.count("rect"), shapes.count("line")) == (1 + 2, 1)
    assert any(element.text == "case: <a & b>" for element in root)
