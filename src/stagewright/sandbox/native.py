"""The default runtime: steps started by our own launcher, in some milliseconds each."""

from __future__ import annotations

from collections.abc import Callable

from stagewright.sandbox.launching import LauncherSlot
from stagewright.sandbox.network import BuildNetwork
from stagewright.sandbox.request import build_request
from stagewright.sandbox.running import StepRun
from stagewright.sandbox.spec import Cancellation, Outcome, OutputSink, Step


class NativeRuntime:
    """Runs steps by a launcher process that is started with the first one.

    `notify` gets a line on what steps must do without on this machine.
    """

    shares_folders = True

    def __init__(self, notify: Callable[[str], None] = lambda text: None) -> None:
        self._launcher = LauncherSlot()
        self._network = BuildNetwork(notify)

    def run(self, step: Step, on_output: OutputSink, cancel: Cancellation) -> Outcome:
        """See `Runtime.run`."""
        launcher = self._launcher.get()
        joined = self._network.join(step, launcher)
        request = build_request(step, joined.resolv_conf)
        return StepRun(step, request, on_output, cancel).run(launcher, joined.namespace)

    def close(self) -> None:
        """See `Runtime.close`."""
        self._launcher.close()
        self._network.close()
