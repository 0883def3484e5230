"""What can be asked of a Dockerfile instead of a build: its checks, an outline of its target, its targets, and what a
build would run."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from stagewright.builder import Builder
from stagewright.confidential import confidential
from stagewright.frontend import calls, entitlements
from stagewright.history.recorder import Recorder
from stagewright.options import BuildOptions, Method
from stagewright.progress.events import Sink
from stagewright.records import replace
from stagewright.reports import CheckReport, Outline, TargetList


def run_call(
    options: BuildOptions, method: Method, env: Mapping[str, str], sink: Sink | None, cancel: threading.Event
) -> CheckReport | Outline | TargetList:
    """Answer one question about the Dockerfile of a build, which itself is not run. Raises StagewrightError."""
    # No step runs, so none needs to be granted anything.
    options = replace(options, allow=entitlements.ALL)
    with (
        confidential(options, env, sink) as (secrets, emitter),
        closing(Builder(options, secrets, emitter, cancel, env)) as builder,
    ):
        definition = builder.prepare()
        if method == "check":
            frontend = builder.frontend_options(definition)
            return calls.check(definition.data, definition.filename, frontend, builder.bases.resolve)
        dockerfile = definition.parse()
        if method == "targets":
            return calls.targets(dockerfile)
        return calls.outline(dockerfile, builder.frontend_options(definition), builder.bases.resolve)


def run_dry(
    options: BuildOptions, env: Mapping[str, str], sink: Sink | None, cancel: threading.Event
) -> dict[str, Any]:
    """Which steps a build would run and why, in the form of `History.explain`. Raises StagewrightError."""
    recorder = Recorder(options, env, sink)
    with (
        confidential(options, env, recorder) as (secrets, emitter),
        closing(Builder(options, secrets, emitter, cancel, env, recorder)) as builder,
    ):
        return builder.dry_run(recorder)
