"""The flags for what a step may use."""

from __future__ import annotations

import pytest
from fake_library import FakeLibrary

from stagewright.cli.main import main
from stagewright.options import StepLimits


def asked(library: FakeLibrary, *argv: str) -> StepLimits | None:
    assert main(["build", *argv, "."]) == 0
    limits = library.calls[-1][2]["limits"]
    assert limits is None or isinstance(limits, StepLimits)
    return limits


def test_none(library: FakeLibrary) -> None:
    assert asked(library) is None


def test_all_flags(library: FakeLibrary) -> None:
    limits = asked(
        library,
        *("-m", "64m", "--memory-swap=1g", "-c", "512", "--cpu-period=50000", "--cpu-quota=25000"),
        *("--cpuset-cpus=0-1,3", "--cpuset-mems=0", "--pids-limit=100", "--cgroup-parent=/builds"),
    )
    assert limits == StepLimits(64 << 20, 1 << 30, 512, 50000, 25000, "0-1,3", "0", 100, "/builds")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--memory=1g", "--memory-swap=-1"], StepLimits(memory=1 << 30, memory_swap=-1)),
        (["--memory", "1g", "--memory-swap=1g"], StepLimits(memory=1 << 30, memory_swap=1 << 30)),
        (["--cpu-quota=-1"], StepLimits(cpu_quota=-1)),
        (["--pids-limit=-1"], StepLimits(pids=-1)),
        (["--pids-limit=0"], StepLimits(pids=-1)),
    ],
)
def test_no_limit_at_all(library: FakeLibrary, argv: list[str], expected: StepLimits) -> None:
    assert asked(library, *argv) == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--memory=lots"], "--memory: 'lots' is not a size"),
        (["--memory-swap=1g"], "--memory-swap is for memory and swap together and needs --memory"),
        (["-m", "1g", "--memory-swap=1m"], "--memory-swap is for memory and swap together and can't be below --memory"),
        (["-c", "1"], "--cpu-shares: '1' is not a number from 2 to 262144"),
        (["--cpu-period=999"], "--cpu-period: '999' is not a number from 1000 to 1000000"),
        (["--cpu-quota=1"], "--cpu-quota: '1' is not a number of at least 1000"),
        (["--cpuset-cpus=a"], "--cpuset-cpus: 'a' is not a list of numbers"),
        (["--cpuset-mems=1,"], "--cpuset-mems: '1,' is not a list of numbers"),
        (["--pids-limit=-2"], "--pids-limit: '-2' is not a number of at least 1"),
        (["--pids-limit=\u0661"], "is not a number of at least 1"),
    ],
)
def test_nonsense_is_refused(
    library: FakeLibrary, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert main(["build", *argv, "."]) == 1
    assert message in capsys.readouterr().err
