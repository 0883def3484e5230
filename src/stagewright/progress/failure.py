"""The end of a failed build as text: the step with the tail of its log, the lines of the Dockerfile, the error."""

from __future__ import annotations

from stagewright.errors import StagewrightError, StepFailedError
from stagewright.harmless import clean_block, clean_name

_RED, _RESET = "\x1b[31m", "\x1b[0m"


def render_failure(error: StagewrightError, *, doing: str = "", with_log: bool = True, colour: bool = False) -> str:
    """The error for a terminal or a log, ended by a line feed, in the form that BuildKit's clients print.

    `doing` says what failed ("failed to build") and stands before the message. `with_log` adds the tail of the failed
    step's log. Whatever the error quotes is neutralised.
    """
    parts: list[str] = []
    if with_log and isinstance(error, StepFailedError):
        tail = clean_block(error.log_tail.rstrip("\n"), keep_colours=colour)
        parts += ["-" * 6, f" > {_step_name(error)}:", *([tail] if tail else []), "-" * 6]
    if error.location is not None and error.location.source.text:
        rule = "-" * 20
        parts.append(f"{clean_name(error.location.source.filename)}:{error.location.start}")
        parts += [rule, clean_block(error.location.excerpt()), rule]
    label = f"{_RED}ERROR:{_RESET}" if colour else "ERROR:"
    message = clean_block(error.message)
    parts.append(f"{label} {doing}: {message}" if doing else f"{label} {message}")
    if error.hint:
        parts.append(f"hint: {clean_block(error.hint)}")
    return "\n".join(parts) + "\n"


def _step_name(error: StepFailedError) -> str:
    step = clean_name(error.step)
    if step.startswith("[") or error.stage is None:
        return step
    return f"[{clean_name(error.stage)}] {step}"
