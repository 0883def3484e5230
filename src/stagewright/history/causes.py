"""What differs between a step and the one that it was in an earlier build, as causes in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from stagewright.dockerfile import ast
from stagewright.history.inputs import HIDDEN
from stagewright.history.recipe import Origin, Recipe
from stagewright.history.steps import Step
from stagewright.records import dataclass, field

# Options that are part of what a step is, and what is said of them where nothing is given.
_OPTIONS = {
    "network": ("the network", "default"),
    "security": ("--security", "sandbox"),
    "hostname": ("the host name (BUILDKIT_SANDBOX_HOSTNAME)", "none"),
    "extra_hosts": ("--add-host", "none"),
    "ulimits": ("--ulimit", "none"),
    "shm_size": ("--shm-size", "the default"),
}
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause: its kind (a word for programs), a sentence, the few words that the progress shows, and details.

    `via` is the index of the step whose difference is the cause of this one; None where the cause is the step's own.
    """

    kind: str
    sentence: str
    short: str
    details: Mapping[str, Any] = field(default_factory=dict)
    via: int | None = None


@dataclass(frozen=True, slots=True)
class Sides:
    """A step and the one that it was: their Dockerfiles, and what the two builds were given."""

    old: Step
    new: Step
    old_recipe: Recipe
    new_recipe: Recipe
    old_inputs: Mapping[str, Any]
    new_inputs: Mapping[str, Any]


def own_causes(sides: Sides) -> list[Cause]:
    """How the step itself differs, whatever its inputs are: its text, variables, settings, mounts, platform."""
    causes: list[Cause] = []
    old, new = sides.old, sides.new
    if old.platform != new.platform:
        sentence = f"the platform went from {old.platform or 'none'} to {new.platform or 'none'}"
        causes.append(cause_of("platform", sentence, old=old.platform, new=new.platform))
    written = (sides.old_recipe.written(old), sides.new_recipe.written(new))
    if old.op == new.op:
        return causes
    if written[0] != written[1]:
        causes.append(text_changed(*written))
    else:
        causes += _expanded(sides)
    if new.kind == old.kind == "exec":
        causes += _exec_causes(sides, text_changed=written[0] != written[1])
    causes += _epoch(sides)
    return causes


def cause_of(kind: str, sentence: str, short: str = "", **details: Any) -> Cause:
    """A cause of a step's own; the progress shows the sentence where there are no fewer words for it."""
    return Cause(kind, sentence, short or sentence, details)


def text_changed(old: str, new: str) -> Cause:
    """The step's instruction is written otherwise."""
    from difflib import unified_diff

    diff = list(unified_diff(old.split("\n"), new.split("\n"), lineterm="", n=1))[2:]
    lines = [line for line in diff if not line.startswith("@@")]
    return Cause("text", "its own text changed", "its text changed", {"diff": lines})


# --- variables ----------------------------------------------------------------------------------------------------


def _expanded(sides: Sides) -> Iterator[Cause]:
    """The variables in the instruction's text that stand for something else now."""
    if sides.new.kind == "exec":
        return
    for name in sides.new_recipe.variables_in(sides.new):
        if (cause := variable_cause(sides, name)) is not None:
            yield cause


def variable_cause(sides: Sides, name: str) -> Cause | None:
    """How a variable of a step differs that no environment tells of, as that of a COPY or a FROM."""
    before, after = sides.old_inputs.get("args", {}).get(name), sides.new_inputs.get("args", {}).get(name)
    origin = sides.new_recipe.variable(sides.new, name)
    if before != after and (origin is None or origin.keyword == "ARG"):
        return _argument(name, before, after)
    known = sides.old_recipe.variable(sides.old, name)
    if origin is not None and known is not None and origin.text != known.text:
        where = f"{origin.keyword} {name} (line {origin.line})"
        sentence = f"{where} is now {_shown(origin.text)}, and was {_shown(known.text)}"
        return cause_of(origin.keyword.lower(), sentence, f"{origin.keyword} {name} changed")
    return None


def _argument(name: str, before: str | None, after: str | None) -> Cause:
    return _went("build-arg", f"build argument {name}", before, after, name)


def _went(kind: str, what: str, before: str | None, after: str | None, name: str) -> Cause:
    if HIDDEN in (before or "")[:3] or HIDDEN in (after or "")[:3]:
        # Without values there are only their marks.
        return cause_of(kind, f"{what} has another value (which is not recorded)", f"{what} changed", name=name)
    if before is None:
        return cause_of(
            kind, f"{what} is now {_quoted(after)}, and was not given before", name=name, old=None, new=after
        )
    if after is None:
        return cause_of(
            kind, f"{what} is not given any more, and was {_quoted(before)}", name=name, old=before, new=None
        )
    return cause_of(kind, f"{what} went from {_quoted(before)} to {_quoted(after)}", name=name, old=before, new=after)


def _environment(sides: Sides) -> Iterator[Cause]:
    old, new = _variables(sides.old), _variables(sides.new)
    derived: list[Cause] = []
    found = False
    for name in dict.fromkeys([*new, *old]):
        if old.get(name) == new.get(name):
            continue
        origin = sides.new_recipe.variable(sides.new, name)
        known = sides.old_recipe.variable(sides.old, name)
        cause = _variable(name, old.get(name), new.get(name), origin or known, sides)
        if origin is not None and known is not None and origin.text == known.text and "$" in origin.text:
            # Its instruction says what it said: another variable in it is the cause.
            derived.append(cause)
            continue
        found = True
        yield cause
    if not found:
        yield from derived
    elif not found and list(old) != list(new):
        yield cause_of("env", "its variables are set in another order")


def _variable(name: str, before: str | None, after: str | None, origin: Origin | None, sides: Sides) -> Cause:
    if origin is None:
        what = f"the variable {name} of the base image"
        return _went("base-env", what, before, after, name)
    where = f" (line {origin.line})"
    if origin.keyword == "ENV":
        return _went("env", f"ENV {name}{where}", before, after, name)
    args = (sides.old_inputs.get("args", {}), sides.new_inputs.get("args", {}))
    if name in args[0] or name in args[1]:
        return _went("build-arg", f"build argument {name}", before, after, name)
    return _went("arg", f"ARG {name}{where}", before, after, name)


def _variables(step: Step) -> dict[str, str]:
    return dict(item.partition("=")[::2] for item in step.op.get("env", ()))


def _quoted(value: str | None) -> str:
    return json.dumps(_shown(value or ""), ensure_ascii=False)


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


# --- the rest of a RUN --------------------------------------------------------------------------------------------


def _exec_causes(sides: Sides, *, text_changed: bool) -> Iterator[Cause]:
    old, new = sides.old.op, sides.new.op
    yield from _environment(sides)
    if old.get("cwd") != new.get("cwd"):
        yield _setting(sides, ast.Workdir, "WORKDIR", old.get("cwd", "/"), new.get("cwd", "/"))
    if old.get("user") != new.get("user"):
        yield _setting(sides, ast.User, "USER", old.get("user") or "root", new.get("user") or "root")
    if not text_changed and old.get("args") != new.get("args"):
        before, after = (" ".join(op.get("args", ())[:-1]) for op in (old, new))
        if before != after:
            yield _setting(sides, ast.Shell, "SHELL", before, after)
        else:
            yield cause_of("text", "its command is another one, though its text is the same", "its command changed")
    for name, (what, default) in _OPTIONS.items():
        if old.get(name) != new.get(name) and not (text_changed and name in ("network", "security")):
            before, after = (_plain(op.get(name), default) for op in (old, new))
            sentence = f"{what} went from {before} to {after}"
            yield cause_of("option", sentence, option=name, old=old.get(name), new=new.get(name))
    if not text_changed:
        yield from _mounts(old.get("mounts", ()), new.get("mounts", ()))


def _setting(sides: Sides, kind: type[ast.Instruction], keyword: str, before: str, after: str) -> Cause:
    origin = sides.new_recipe.setting(sides.new, kind) or sides.old_recipe.setting(sides.old, kind)
    where = "" if origin is None else f" (line {origin.line})"
    sentence = f"{keyword}{where} went from {_quoted(before)} to {_quoted(after)}"
    return cause_of(keyword.lower(), sentence, f"{keyword} changed", old=before, new=after)


def _plain(value: Any, default: str = "none") -> str:
    if value in (None, "", [], 0):
        return default
    return str(value) if isinstance(value, str | int) else json.dumps(value)


def _mounts(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Iterator[Cause]:
    before, after = ({_mount_key(mount): mount for mount in mounts} for mounts in (old, new))
    for key in dict.fromkeys([*after, *before]):
        kind, target = key
        what = f"the {kind} mount at {target}" if target else f"the {kind} mount"
        if key not in before:
            yield cause_of("mount", f"{what} is new", target=target)
        elif key not in after:
            yield cause_of("mount", f"{what} is gone", target=target)
        else:
            changed = [name for name in {**before[key], **after[key]} if before[key].get(name) != after[key].get(name)]
            # Which number an input has says nothing of the mount.
            changed = [name for name in changed if name != "input"]
            if changed:
                values = ", ".join(
                    f"{name} from {_plain(before[key].get(name))} to {_plain(after[key].get(name))}" for name in changed
                )
                yield cause_of("mount", f"{what} changed: {values}", f"{what} changed", target=target)


def _mount_key(mount: Mapping[str, Any]) -> tuple[str, str]:
    return str(mount["kind"]), str(mount.get("target", ""))


def _epoch(sides: Sides) -> Iterator[Cause]:
    """A date that all files get."""
    before, after = (
        next((action.get("mtime") for action in step.op.get("actions", ())), None) for step in (sides.old, sides.new)
    )
    if before != after:
        name = "SOURCE_DATE_EPOCH"
        old, new = (None if at is None else str(at) for at in (before, after))
        yield _went("build-arg", name, old, new, name)
