"""The default runtime: steps started by our own launcher, in some milliseconds each."""

from __future__ import annotations

from stagewright.sandbox.launching import LauncherSlot
from stagewright.sandbox.request import build_request
from stagewright.sandbox.running import StepRun
from stagewright.sandbox.spec import Cancellation, Outcome, OutputSink, Step


class NativeRuntime:
    """Runs steps by a launcher process that is started with the first one."""

    def __init__(self) -> None:
        self._launcher = LauncherSlot()

    def run(self, step: Step, on_output: OutputSink, cancel: Cancellation) -> Outcome:
        """See `Runtime.run`."""
        return StepRun(step, build_request(step), on_output, cancel).run(self._launcher.get())

    def close(self) -> None:
        """See `Runtime.close`."""
        self._launcher.close()
