"""What a search finds: which secret, where, and in which form; never the value."""

from __future__ import annotations

from stagewright.records import dataclass


@dataclass(frozen=True, slots=True)
class Leak:
    """A place that holds the value of the secret with this ID; `form` is "" for the value as it is."""

    secret: str
    place: str
    form: str = ""

    def __str__(self) -> str:
        return f"{self.place} ({self.form})" if self.form else self.place
