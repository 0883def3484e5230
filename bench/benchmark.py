"""Races Stagewright against the container builders that are installed, and against plain system commands.

What is written goes to a temporary folder and is removed; the results are printed, and written as JSON and SVG.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import chart
import machine
import report
import workloads
from builders import BUILDERS, Builder, BuilderError
from cases import CASES, CLAIMS, GROWTHS, Case, Growth
from race import Race, Row

BENCH = Path(__file__).resolve().parent
SCRIPTS = BENCH.parent / "scripts"
# What would change what is measured: variables of the builders, and that which has Python compile at every start.
_UNWANTED = ("STAGEWRIGHT_", "DOCKER_", "BUILDKIT_", "BUILDAH_", "PYTHONDONTWRITEBYTECODE", "SOURCE_DATE_EPOCH")


def main() -> int:
    """Run the command line and return the process's exit status."""
    options = _parse()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    env = {name: value for name, value in os.environ.items() if not name.startswith(_UNWANTED)}
    cases = [case for case in CASES if case.name in options.cases]
    rows: list[Row] = []
    with ExitStack() as stack:
        scratch = stack.enter_context(_scratch())
        bases = options.registry or stack.enter_context(_standins(scratch, env, cases))
        pushed_to = stack.enter_context(_registry(scratch / "pushed", env))
        builders = _start_builders(stack, options.tools, scratch, env, (bases, pushed_to))
        document: dict[str, object] = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "rounds": options.n,
            "machine": machine.facts(scratch),
            "versions": {builder.name: builder.version() for builder in builders},
        }
        race = _Bench(Race(builders, scratch, env, pushed_to), scratch / "workloads", f"{bases}/docker.io/library/")
        names = [builder.name for builder in builders]
        # What is interrupted after hours keeps what it has measured.
        stack.callback(_write_results, options.results, document, rows)
        race.run_cases(cases, names, options.n, rows, weigh=options.memory)
        if options.growth:
            document["growth"] = race.run_growths([one for one in GROWTHS if one.name in options.growth], options.n)
    return 1 if report.errors(rows) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    known = [case.name for case in CASES]
    tools = [builder.name for builder in BUILDERS]
    claims = ",".join(claim.case for claim in CLAIMS)
    parser.add_argument("--cases", type=_names(known), default=known, help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--claims", action="store_const", dest="cases", const=claims.split(","), help=f"only {claims}")
    parser.add_argument("--tools", type=_names(tools), default=tools, help=f"of {', '.join(tools)} (default: all)")
    parser.add_argument("--n", type=int, default=3, help="how many timed runs, of which the median counts (default: 3)")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory as well, in one more run")
    growths = [growth.name for growth in GROWTHS]
    parser.add_argument(
        "--growth",
        nargs="?",
        type=_names(growths),
        const=growths,
        default=(),
        help=f"measure what ten times as much costs, of {', '.join(growths)} (all, if none is named)",
    )
    parser.add_argument("--registry", help="HOST:PORT of a registry that has the base images below docker.io/")
    parser.add_argument("--results", type=Path, default=BENCH / "results", help="folder of the JSON and SVG files")
    options = parser.parse_args()
    if options.n < 1:
        parser.error("--n must be at least 1")
    return options


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        names = text.split(",") if text else []
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return read


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary folder, removed with all that is still mounted below it."""
    folder = Path(tempfile.mkdtemp(prefix="stagewright-bench-"))
    try:
        yield folder
    finally:
        for point in machine.mounts_below(folder):
            subprocess.run(["umount", "--lazy", point], check=False)
        shutil.rmtree(folder)


@contextmanager
def _registry(folder: Path, env: Mapping[str, str], *flags: str) -> Iterator[str]:
    """The address of a registry on this machine, stopped at the end."""
    command = [sys.executable, str(SCRIPTS / "registry")]
    done = subprocess.run(
        [*command, "start", str(folder), *flags], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    try:
        yield done.stdout.strip()
    finally:
        subprocess.run([*command, "stop", str(folder)], env=env, check=True)


@contextmanager
def _standins(scratch: Path, env: Mapping[str, str], cases: Sequence[Case]) -> Iterator[str]:
    """The address of a registry with the stand-ins for the base images, which are built the first time.

    They are kept where the tests keep them.
    """
    cache = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    storage = Path(os.environ.get("STAGEWRIGHT_STANDINS") or cache / "stagewright" / "standins")
    names = ["busybox", *(["node"] if any(case.workload == "pull" for case in cases) else [])]
    with _registry(scratch / "standins", env, f"--storage={storage}") as address:
        command = [sys.executable, str(SCRIPTS / "standins"), f"--registry={address}"]
        subprocess.run([*command, f"--config={scratch / 'standins.toml'}", *names], env=env, check=True)
        yield address


def _start_builders(
    stack: ExitStack, names: Sequence[str], scratch: Path, env: Mapping[str, str], registries: Sequence[str]
) -> list[Builder]:
    """Start those of the builders that are installed; each is stopped when `stack` is closed."""
    started = []
    for kind in BUILDERS:
        if kind.name not in names:
            continue
        if not kind.is_installed():
            print(f"{kind.name} is not installed: {', '.join(kind.programs)}", file=sys.stderr)
            continue
        builder = kind(scratch / kind.name, env, registries)
        stack.callback(builder.stop)
        try:
            builder.start()
        except BuilderError as error:
            sys.exit(f"{kind.name}: {error}")
        started.append(builder)
    return started


class _Bench:
    """Runs cases and prints what comes of them; workloads are written to `folder` and removed after their last case."""

    def __init__(self, race: Race, folder: Path, bases: str) -> None:
        self._race = race
        self._folder = folder
        self._bases = bases

    def run_cases(
        self, cases: Sequence[Case], builders: Sequence[str], rounds: int, rows: list[Row], *, weigh: bool
    ) -> None:
        """Race at each case, add what came out to `rows`, and print the table."""
        if cases:
            print(report.header(builders), flush=True)
        for number, case in enumerate(cases):
            rows.append(self._run(case, rounds, weigh=weigh))
            print(report.line(rows[-1], builders), flush=True)
            if case.workload not in [later.workload for later in cases[number + 1 :]]:
                shutil.rmtree(self._folder / case.workload)
        for text in [*(report.memory_lines(rows, builders) if weigh else ()), *report.claim_lines(rows)]:
            print(text)
        for error in report.errors(rows):
            print(f"\n{error}", file=sys.stderr)

    def run_growths(self, growths: Sequence[Growth], rounds: int) -> list[dict[str, object]]:
        """Race at the small and the large case of each growth, and return both as plain data."""
        results: list[dict[str, object]] = []
        for growth in growths:
            small = self._run(growth.small, rounds, weigh=False)
            large = self._run(growth.large, rounds, weigh=False)
            rows = {"small": small, "large": large}
            if growth.unchanged is not None:
                rows["unchanged"] = self._run(growth.unchanged, rounds, weigh=False)
            print(report.growth_line(growth, small, large, rows.get("unchanged")), flush=True)
            for error in report.errors([*rows.values()]):
                print(f"\n{error}", file=sys.stderr)
            results.append({"name": growth.name, **{size: report.as_json(row) for size, row in rows.items()}})
        return results

    def _run(self, case: Case, rounds: int, *, weigh: bool) -> Row:
        context = workloads.make(case.workload, self._folder, self._bases)
        return self._race.run(case, context, rounds, weigh=weigh)


def _write_results(folder: Path, document: Mapping[str, object], rows: Sequence[Row]) -> None:
    if not rows and "growth" not in document:
        return
    folder.mkdir(parents=True, exist_ok=True)
    name = str(document["date"])[:19].replace(":", "")
    measured = {**document, "cases": [report.as_json(row) for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps(measured, indent=1) + "\n")
    print(f"written: {folder}/{name}.json")
    if rows:
        (folder / f"{name}.svg").write_text(chart.draw(rows, *_titles(document)))
        print(f"written: {folder}/{name}.svg")


def _titles(document: Mapping[str, Any]) -> tuple[str, str]:
    """What was raced, and where and when."""
    facts = document["machine"]
    what = ", ".join(f"{builder} {version}" for builder, version in document["versions"].items())
    where = f"{facts['cores']} cores ({facts['processor']}), {facts['memory_gib']} GiB, {facts['file_system']}"
    return what, f"{document['date'][:10]}: {where}, Linux {facts['kernel']}, Python {facts['python']}"


if __name__ == "__main__":
    sys.exit(main())
