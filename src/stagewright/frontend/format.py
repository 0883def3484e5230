"""Go's ways to print values, where history entries show them."""

from __future__ import annotations

from collections.abc import Iterable

from stagewright.dockerfile.golang import quote
from stagewright.image.config import HealthCheck


def quoted_list(values: Iterable[str]) -> str:
    """`%q` of a list of strings: `["a" "b"]`."""
    return "[" + " ".join(quote(value) for value in values) + "]"


def plain_list(values: Iterable[str]) -> str:
    """`%v` of a list of strings: `[a b]`."""
    return "[" + " ".join(values) + "]"


def duration(nanoseconds: int) -> str:
    """`%v` of a time.Duration: `1m30s`, `1.5s`, `200ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest < 1_000_000_000:
        for unit, scale in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
            if rest < scale * 1000:
                return f"{sign}{_decimal(rest, scale)}{unit}"
    minutes, rest = divmod(rest, 60_000_000_000)
    text = f"{_decimal(rest, 1_000_000_000)}s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else sign + text


def _decimal(value: int, scale: int) -> str:
    whole, fraction = divmod(value, scale)
    if not fraction:
        return str(whole)
    digits = str(fraction).rjust(len(str(scale)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}"


def healthcheck(check: HealthCheck) -> str:
    """`%+v` of Docker's health check structure."""
    fields = (
        f"Test:{plain_list(check.test)}",
        f"Interval:{duration(check.interval_ns)}",
        f"Timeout:{duration(check.timeout_ns)}",
        f"StartPeriod:{duration(check.start_period_ns)}",
        f"StartInterval:{duration(check.start_interval_ns)}",
        f"Retries:{check.retries}",
    )
    return "{" + " ".join(fields) + "}"
