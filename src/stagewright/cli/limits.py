"""The flags of `stagewright build` for what each step may use of the machine; they are those of `docker run`."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from stagewright.cli.flags import CommandParser
from stagewright.cli.values import MAX_INT64, parse_size
from stagewright.errors import UsageError

if TYPE_CHECKING:
    from stagewright.api import StepLimits

# What the library calls a limit, and its flag as an attribute.
_FIELDS = {
    "memory": "memory",
    "memory_swap": "memory_swap",
    "cpu_shares": "cpu_shares",
    "cpu_period": "cpu_period",
    "cpu_quota": "cpu_quota",
    "cpuset_cpus": "cpuset_cpus",
    "cpuset_mems": "cpuset_mems",
    "pids": "pids_limit",
    "cgroup_parent": "cgroup_parent",
}
_SHARES = (2, 262144)
_PERIOD_US = (1000, 1000000)
_LEAST_QUOTA_US = 1000


def add_step_limits(parser: CommandParser) -> None:
    """Add the flags."""
    parser.single("-m", "--memory", metavar="SIZE", type=parse_size, help="how much memory a RUN may use")
    swap = "how much memory and swap together (-1: unlimited; default twice --memory)"
    parser.single("--memory-swap", metavar="SIZE", type=_parse_swap, help=swap)
    shares = "weight of a RUN where processors are scarce (2 to 262144; default 1024)"
    parser.single("-c", "--cpu-shares", metavar="N", type=_parse_shares, help=shares)
    parser.single("--cpu-period", metavar="N", type=_parse_period, help="microseconds that --cpu-quota counts in")
    quota = "microseconds of processor time a period (-1: unlimited)"
    parser.single("--cpu-quota", metavar="N", type=_parse_quota, help=quota)
    parser.single("--cpuset-cpus", metavar="LIST", type=_parse_set, help="processors of a RUN, as 0-3,7")
    parser.single("--cpuset-mems", metavar="LIST", type=_parse_set, help="memory nodes of a RUN, as 0-3,7")
    parser.single("--pids-limit", metavar="N", type=_parse_pids, help="processes and threads of a RUN (-1: unlimited)")
    parser.single("--cgroup-parent", metavar="PATH", help="the control group to run every RUN in")


def step_limits(options: argparse.Namespace) -> StepLimits | None:
    """The limits that the flags add up to, if there are any. Raises UsageError where two contradict each other."""
    memory, both = options.memory, options.memory_swap
    if both is not None and memory is None:
        raise UsageError("--memory-swap is for memory and swap together and needs --memory")
    if both is not None and memory is not None and 0 <= both < memory:
        raise UsageError("--memory-swap is for memory and swap together and can't be below --memory")
    values = {field: getattr(options, flag) for field, flag in _FIELDS.items()}
    if all(value is None for value in values.values()):
        return None
    from stagewright.api import StepLimits

    return StepLimits(**values)


def _parse_swap(text: str) -> int:
    return -1 if text == "-1" else parse_size(text)


def _parse_shares(text: str) -> int:
    return _number(text, *_SHARES)


def _parse_period(text: str) -> int:
    return _number(text, *_PERIOD_US)


def _parse_quota(text: str) -> int:
    return -1 if text == "-1" else _number(text, _LEAST_QUOTA_US)


def _parse_pids(text: str) -> int:
    return -1 if text in ("-1", "0") else _number(text, 1)


def _number(text: str, least: int, most: int = MAX_INT64) -> int:
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not least <= int(text) <= most:
        bounds = f"of at least {least}" if most == MAX_INT64 else f"from {least} to {most}"
        raise UsageError(f"{text!r} is not a number {bounds}")
    return int(text)


def _parse_set(text: str) -> str:
    if not re.fullmatch(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*", text, re.ASCII):
        raise UsageError(f"{text!r} is not a list of numbers", hint="write it as 0-3,7")
    return text
