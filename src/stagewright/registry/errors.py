"""What can go wrong between this machine and a registry, as far as callers act on it differently."""

from __future__ import annotations

from stagewright.errors import RegistryError


class UnreachableError(RegistryError):
    """A registry gave no usable answer: no connection, a broken one, a timeout, status 429 or 5xx.

    `connected` is False where no connection came about at all. `retry_after_s` is how long the registry asked to wait.
    """

    def __init__(self, message: str, *, connected: bool, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.connected = connected
        self.retry_after_s = retry_after_s


class UnauthorizedError(RegistryError):
    """A registry wants credentials that are missing, wrong, or not enough."""


class StatusError(RegistryError):
    """A registry answered with an HTTP status that the protocol does not foresee here."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status
