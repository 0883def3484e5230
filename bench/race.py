"""The race: builders take turns at a case, in rounds, so that what else the machine does meets them all alike."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from builders import Builder, BuilderError, Wish
from cases import Case
from measure import CommandFailedError, run_timed, run_weighed


@dataclass(slots=True)
class Times:
    """What was measured of one builder (or of the floor) at one case.

    `runs_s` are wall times in seconds, `peak_mib` is the most memory. `error` is set where a run failed, and no more
    runs were made.
    """

    runs_s: list[float] = field(default_factory=list)
    peak_mib: float | None = None
    error: str | None = None

    @property
    def median_s(self) -> float | None:
        """The median of the runs, None where one failed."""
        return statistics.median(self.runs_s) if self.runs_s and self.error is None else None

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Keep what goes wrong within as the error."""
        try:
            yield
        except (BuilderError, CommandFailedError) as error:
            self.error = str(error)


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured at one case: its floor, and each builder by name; one that cannot do it is left out."""

    case: Case
    floor: Times
    builders: Mapping[str, Times]


class Race:
    """Started builders that meet at cases; what they make goes below `scratch` or to the registry `pushed_to`."""

    def __init__(self, builders: Sequence[Builder], scratch: Path, env: Mapping[str, str], pushed_to: str) -> None:
        self._builders = builders
        self._env = env
        self._pushed_to = pushed_to
        self._log = scratch / "log"
        self._archive = scratch / "archive.tar"
        self._floor_folder = scratch / "floor"

    def run(self, case: Case, context: Path, rounds: int, *, weigh: bool) -> Row:
        """Time every builder `rounds` times at the case, whose workload lies in `context`.

        `weigh` adds a round in which memory is measured, and no time.
        """
        floor = Times()
        able = [builder for builder in self._builders if builder.command(context, self._wish(case)) is not None]
        times = {builder.name: Times() for builder in able}
        for builder in able:
            with times[builder.name].catching():
                self._arrange_once(builder, case, context)
        for number in range(rounds):
            with floor.catching():
                floor.runs_s.append(self._time_floor(case, context))
            for builder in _rotated(able, number):
                self._measure(times[builder.name], builder, case, context, weigh=False)
        for builder in able if weigh else ():
            self._measure(times[builder.name], builder, case, context, weigh=True)
        return Row(case, floor, times)

    def _measure(self, times: Times, builder: Builder, case: Case, context: Path, *, weigh: bool) -> None:
        if times.error is not None:
            return
        with times.catching():
            self._arrange(builder, case, context)
            command = builder.command(context, self._wish(case)) or []
            if weigh:
                times.peak_mib = run_weighed(command, builder.env, self._log, builder.daemons)
            else:
                times.runs_s.append(run_timed(command, builder.env, self._log))

    def _arrange_once(self, builder: Builder, case: Case, context: Path) -> None:
        builder.reset()
        if case.before == "built":
            self._build(builder, context, self._wish(case))

    def _arrange(self, builder: Builder, case: Case, context: Path) -> None:
        """Bring a builder to where a timed run of the case begins."""
        if case.before != "built":
            builder.reset()
        if case.before == "unexported":
            self._build(builder, context, Wish())
        for path in context.glob(case.touched) if case.touched else ():
            path.write_bytes(os.urandom(path.stat().st_size))
        self._archive.unlink(missing_ok=True)
        _settle()

    def _build(self, builder: Builder, context: Path, wish: Wish) -> None:
        run_timed(builder.command(context, wish) or [], builder.env, self._log)

    def _wish(self, case: Case) -> Wish:
        unique = str(time.time_ns())
        return Wish(
            build_args={"X": unique} if case.fresh else {},
            archive=self._archive if case.product == "archive" else None,
            compression=case.compression,
            push=f"{self._pushed_to}/bench/r{unique}:latest" if case.product == "push" else None,
        )

    def _time_floor(self, case: Case, context: Path) -> float:
        self._floor_folder.mkdir()
        try:
            script = case.floor(context, self._floor_folder)
            _settle()
            return run_timed(["sh", "-c", script], self._env, self._log)
        finally:
            shutil.rmtree(self._floor_folder)


def _settle() -> None:
    # What was written before is not to be written out while a clock runs.
    os.sync()


def _rotated(builders: Sequence[Builder], number: int) -> list[Builder]:
    """Each round begins with another builder."""
    start = number % len(builders) if builders else 0
    return [*builders[start:], *builders[:start]]
