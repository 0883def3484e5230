"""What the runtimes have in common whose steps our launcher starts."""

from __future__ import annotations

from stagewright.sandbox.launching import LauncherSlot
from stagewright.sandbox.network import BuildNetwork


class LaunchedRuntime:
    """The part of a `Runtime` that is about its launcher, and about the network of a build."""

    def __init__(self, launcher: LauncherSlot, network: BuildNetwork) -> None:
        self._launcher = launcher
        self._network = network

    def begin(self) -> None:
        """See `Runtime.begin`."""
        self._launcher.begin()

    def get_ready(self, network: str) -> None:
        """See `Runtime.get_ready`."""
        self._network.plan(network)
        launcher = self._launcher.get()
        launcher.start_ahead(self._network.join(network, launcher).namespace)

    def end(self) -> None:
        """See `Runtime.end`."""
        self._launcher.end()

    def close(self) -> None:
        """See `Runtime.close`."""
        self._launcher.close()
        self._network.close()
