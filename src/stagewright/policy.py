"""Which of what takes space in the store is to go: by filters, ages and limits, as in BuildKit's policies.

What is in use never goes. Of the rest that the filters and the age let through, all goes where there is no limit, else
what was used longest ago, until the limits hold. What others are built on goes after them, or stays with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product

from stagewright.errors import UsageError
from stagewright.records import dataclass, replace
from stagewright.reports import UsageRow

# BuildKit's words for what takes space, by ours.
TYPES: Mapping[str, str] = {
    "image": "image",
    "layer snapshot": "regular",
    "cache": "regular",
    "blob": "regular",
    "cache mount": "exec.cachemount",
    "git repository": "source.git.checkout",
    "history": "internal",
}
_FIELDS = ("id", "type", "kind", "description", "inuse", "shared", "parent")


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a filter: `operator` is == or != (a value equals), or ~= (a text holds)."""

    field: str
    operator: str
    value: str

    def holds(self, row: UsageRow) -> bool:
        """Whether the row is as the condition says."""
        texts = _texts(row, self.field)
        if self.operator == "~=":
            return any(self.value in text for text in texts)
        return (self.value in texts) == (self.operator == "==")


def _texts(row: UsageRow, field: str) -> tuple[str, ...]:
    if field in ("type", "kind"):
        # The caches' own words count as well, with a dash for the space.
        return (TYPES.get(row.kind, row.kind), row.kind, row.kind.replace(" ", "-"))
    values = {
        "id": row.id,
        "description": row.description,
        "inuse": str(row.in_use).lower(),
        "shared": str(row.shared).lower(),
        "parent": row.parent or "",
    }
    return (values[field],)


@dataclass(frozen=True, slots=True)
class Policy:
    """What may go, and how much has to.

    `filters` are alternatives, each a list of conditions that must all hold; without any all may go. `keep_s` is the
    age below which nothing goes, in seconds since its last use. The limits are bytes, 0 for none: more than `max_used`
    is not kept, less than `min_free` of the disk not left free, and below `reserved` nothing goes for their sake. A
    limit that is a float is that part of the disk.
    """

    filters: tuple[tuple[Condition, ...], ...] = ()
    keep_s: float = 0
    reserved: int | float = 0
    max_used: int | float = 0
    min_free: int | float = 0

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit at which removing ends."""
        return bool(self.reserved or self.max_used or self.min_free)

    def lets_go(self, row: UsageRow, now: float) -> bool:
        """Whether the row may go, by the filters and its age."""
        if self.keep_s and now - min(now, row.last_used or row.created or 0) < self.keep_s:
            return False
        return not self.filters or any(all(one.holds(row) for one in conditions) for conditions in self.filters)

    def kept_bytes(self, total: int, free: int, disk: int) -> int:
        """How much of `total` bytes may stay where `free` of the disk's bytes are left."""
        reserved, keep, min_free = (
            int(limit * disk) if isinstance(limit, float) else limit
            for limit in (self.reserved, self.max_used, self.min_free)
        )
        if min_free > free:
            missing = total - (min_free - free)
            keep = min(keep, missing) if keep else missing
        elif not keep and min_free:
            return total
        return max(keep, reserved)


def choose(rows: Sequence[UsageRow], policy: Policy, free: int, disk: int, now: float) -> list[UsageRow]:
    """The rows that go, none before what is built on it. Images are no cache: they stay."""
    cache = [row for row in rows if row.kind != "image"]
    used = _last_uses(cache)
    excess = sum(row.size for row in cache) - policy.kept_bytes(sum(row.size for row in cache), free, disk)
    built_on: dict[str, set[str]] = {}
    for row in cache:
        if row.parent is not None:
            built_on.setdefault(row.parent, set()).add(row.id)
    gone: list[UsageRow] = []
    # So a child comes before its parent, whose ID is lower and whose last use not earlier.
    for row in sorted(cache, key=lambda row: (used[row.kind, row.id], -_number(row.id))):
        if policy.is_limited and excess <= 0:
            break
        aged = replace(row, last_used=used[row.kind, row.id] or None)
        if row.in_use or not policy.lets_go(aged, now) or built_on.get(_snapshot_id(row)):
            continue
        if row.parent is not None:
            built_on[row.parent].discard(row.id)
        gone.append(row)
        excess -= row.size
    return gone


def _snapshot_id(row: UsageRow) -> str:
    return row.id if row.kind in ("cache", "layer snapshot") else ""


def _number(identity: str) -> int:
    return int(identity) if identity.isdecimal() else 0


def _last_uses(rows: Iterable[UsageRow]) -> dict[tuple[str, str], float]:
    """When each row was last used, or one that is built on it; by kind and ID."""
    used = {(row.kind, row.id): row.last_used or row.created or 0.0 for row in rows}
    snapshots = {row.id: row for row in rows if _snapshot_id(row)}
    for row in sorted(snapshots.values(), key=lambda row: -int(row.id)):
        parent = snapshots.get(row.parent or "")
        if parent is not None:
            key = parent.kind, parent.id
            used[key] = max(used[key], used[row.kind, row.id])
    return used


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """The conditions of a filter of BuildKit: `type==exec.cachemount,id~=abc`. Raises UsageError."""
    return tuple(_parse_condition(part.strip()) for part in text.split(",") if part.strip())


def _parse_condition(text: str) -> Condition:
    for operator in ("==", "!=", "~=", "="):
        field, found, value = text.partition(operator)
        if found:
            break
    else:
        # A field alone asks whether it is so.
        field, operator, value = text, "==", "true"
    field, value = field.strip(), value.strip().strip("\"'")
    if field not in _FIELDS:
        raise UsageError(f"{text!r} is no filter that is known", hint=f"fields: {', '.join(_FIELDS)}, until")
    return Condition(field, "==" if operator == "=" else operator, value)


def parse_filters(texts: Iterable[str], duration: Callable[[str], float]) -> Policy:
    """The policy of filters as commands take them: those of one field are alternatives, those of several must all hold.

    `until=24h` is for what was not used since, read by `duration`. Raises UsageError.
    """
    keep_s, by_field = 0.0, dict[str, list[Condition]]()
    for text in texts:
        name, _, value = text.partition("=")
        if name == "until":
            keep_s = duration(value)
            continue
        for condition in parse_conditions(text):
            by_field.setdefault(condition.field, []).append(condition)
    return Policy(tuple(product(*by_field.values())) if by_field else (), keep_s)
