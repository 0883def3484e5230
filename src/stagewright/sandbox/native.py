"""The default runtime: steps started by our own launcher, in some milliseconds each."""

from __future__ import annotations

from collections.abc import Callable

from stagewright.options import StepLimits
from stagewright.sandbox import cgroups
from stagewright.sandbox.launched import LaunchedRuntime
from stagewright.sandbox.launching import LauncherProcess, LauncherSlot
from stagewright.sandbox.network import BuildNetwork
from stagewright.sandbox.request import build_request
from stagewright.sandbox.running import StepRun
from stagewright.sandbox.spec import Cancellation, Outcome, OutputSink, Step


class NativeRuntime(LaunchedRuntime):
    """Runs steps, each within the limits, by a launcher process that is started with the first one, or ahead of it.

    `notify` gets a line on what steps must do without on this machine.
    """

    shares_folders = True

    def __init__(self, limits: StepLimits | None = None, notify: Callable[[str], None] = lambda text: None) -> None:
        self._limits = limits or StepLimits()
        self._notify = notify
        launcher = LauncherSlot(hierarchies=cgroups.plan(self._limits), on_start=self._complain)
        super().__init__(launcher, BuildNetwork(notify))

    def _complain(self, launcher: LauncherProcess) -> None:
        complaint = cgroups.complaint(self._limits, launcher.controllers)
        if complaint is not None:
            self._notify(complaint)

    def run(self, step: Step, on_output: OutputSink, cancel: Cancellation) -> Outcome:
        """See `Runtime.run`."""
        launcher = self._launcher.get()
        joined = self._network.join(step.network, launcher)
        step = cgroups.contained(step, self._limits, launcher.controllers)
        request = build_request(step, joined.resolv_conf)
        return StepRun(step, request, on_output, cancel).run(launcher, joined.namespace)
