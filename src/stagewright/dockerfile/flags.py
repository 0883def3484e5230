"""The flags of an instruction, checked against those that it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from stagewright.dockerfile.suggest import with_suggestion
from stagewright.errors import DockerfileError
from stagewright.records import dataclass


class Kind(Enum):
    """What a flag takes: true or false, with true meant by its name alone; one value; one value each time."""

    BOOL = "bool"
    STRING = "string"
    STRINGS = "strings"


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags that were given, by name, each with its values in order."""

    values: Mapping[str, tuple[str, ...]]

    def string(self, name: str, default: str = "") -> str:
        """The value of a flag, or the default where it was not given."""
        return self.values.get(name, (default,))[-1]

    def strings(self, name: str) -> tuple[str, ...]:
        """The values of a flag that may be given several times."""
        return self.values.get(name, ())

    def boolean(self, name: str) -> bool | None:
        """The value of a flag that is true or false, None where it was not given."""
        return self.string(name) == "true" if name in self.values else None


def parse_flags(given: Sequence[str], known: Mapping[str, Kind]) -> Flags:
    """Reads `--name` and `--name=value`. Raises DockerfileError for unknown, repeated and incomplete flags."""
    values: dict[str, tuple[str, ...]] = {}
    for text in given:
        flag, separator, value = text.partition("=")
        name = flag[2:]
        kind = known.get(name)
        if kind is None:
            raise DockerfileError(with_suggestion(f"unknown flag: {flag}", name, known))
        if name in values and kind is not Kind.STRINGS:
            raise DockerfileError(f"duplicate flag specified: {flag}")
        incomplete = (separator and not value) if kind is Kind.BOOL else not separator
        if incomplete:
            raise DockerfileError(f"missing a value on flag: {flag}")
        if kind is Kind.BOOL:
            given_value, value = value, value.lower() or "true"
            if value not in ("true", "false"):
                raise DockerfileError(f"expecting boolean value for flag {flag}, not: {given_value}")
        values[name] = (*values.get(name, ()), value)
    return Flags(values)
