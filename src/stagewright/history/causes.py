"""What differs between a step and the one that it was in an earlier build, as causes in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from stagewright.dockerfile import ast
from stagewright.history.inputs import HIDDEN, looks_secret, shown_value
from stagewright.history.recipe import Origin, Recipe, variables_in
from stagewright.history.steps import Step
from stagewright.records import dataclass, field

# All reasons that there are; docs/explain.md has an example of each.
Kind = Literal[
    "first", "new", "new-stage", "new-source", "files", "ignored", "named-context", "copied",
    "text", "inserted", "removed", "reordered", "env", "arg", "workdir", "user", "shell", "build-arg",
    "option", "platform", "no-cache", "no-cache-filter", "base-moved", "base-changed", "url-changed", "git-moved",
    "source", "parent", "depends", "failed-before", "not-reached", "inexact", "pruned", "lost", "version",
    "not-imported",
]  # fmt: skip
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
    """One cause: its kind, a sentence, the few words that the progress shows, and details.

    `via` is the index of the step whose difference is the cause of this one; None where the cause is the step's own.
    """

    kind: Kind
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


def own_causes(sides: Sides, *, other_base: bool = False) -> list[Cause]:
    """How the step itself differs, whatever its inputs are: its text, variables, settings, mounts, platform.

    With `other_base` variables that no instruction sets are its business, and not looked at.
    """
    causes: list[Cause] = []
    old, new = sides.old, sides.new
    if old.platform != new.platform:
        sentence = f"the platform went from {old.platform or 'none'} to {new.platform or 'none'}"
        causes.append(cause_of("platform", sentence, old=old.platform, new=new.platform))
    written = (sides.old_recipe.written(old), sides.new_recipe.written(new))
    if old.op == new.op:
        # Two values that are not recorded look the same in it.
        return causes + [cause for cause in _expanded(sides) if looks_secret(cause.details.get("name", ""))]
    if written[0] != written[1]:
        causes.append(text_changed(*written))
    else:
        causes += _expanded(sides)
    if new.kind == old.kind == "exec":
        causes += _exec_causes(sides, text_changed=written[0] != written[1], other_base=other_base)
    causes += _epoch(sides)
    if new.text.startswith("ONBUILD "):
        # It is known as it was run: what stands for its variables is no change of its text, which no build sees.
        arguments = [cause for cause in causes if cause.kind == "build-arg"]
        causes = [cause for cause in causes if not arguments or cause.kind != "text"]
    if not causes and not other_base:
        causes.append(_folder(sides) or cause_of("text", "what it does is something else, though its text is the same"))
    return causes


def cause_of(kind: Kind, sentence: str, short: str = "", **details: Any) -> Cause:
    """A cause of a step's own; the progress shows the sentence where there are no fewer words for it."""
    return Cause(kind, sentence, short or sentence, details)


def not_imported(sources: Sequence[str], unread: Sequence[str]) -> Cause | None:
    """What caches have not given a step that were asked, or could not be read; None where there are none."""
    said = []
    for names, what in ((sources, "did not give it"), (unread, "could not be read")):
        if names:
            said.append(f"the cache source{'' if len(names) == 1 else 's'} {' and '.join(names)} {what}")
    if not said:
        return None
    short = "not in the cache source" if sources else "the cache source could not be read"
    return cause_of("not-imported", ", and ".join(said), short)


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


def variable_cause(sides: Sides, name: str, within: tuple[str, ...] = ()) -> Cause | None:
    """How a variable of a step differs that no environment tells of, as that of a COPY or a FROM.

    `within` are those whose values it is a part of.
    """
    before, after = sides.old_inputs.get("args", {}).get(name), sides.new_inputs.get("args", {}).get(name)
    origin = sides.new_recipe.variable(sides.new, name)
    known = sides.old_recipe.variable(sides.old, name)
    if before != after and (origin is None or origin.keyword == "ARG"):
        return _argument(name, _default(name, before, known), _default(name, after, origin))
    if origin is None or known is None:
        return None
    if origin.value != known.value:
        before, after = (None if at.value is None else shown_value(name, at.value) for at in (known, origin))
        return _set_otherwise(origin, name, before, after)
    for other in variables_in(origin.value or ""):
        if other not in (name, *within) and (cause := variable_cause(sides, other, (name, *within))) is not None:
            return cause
    return None


def _default(name: str, given: str | None, origin: Origin | None) -> str | None:
    """What an argument is: what was given, or else its default where that stands in the Dockerfile as it is."""
    if given is not None or origin is None or origin.value is None or "$" in origin.value:
        return given
    return shown_value(name, origin.value)


def _argument(name: str, before: str | None, after: str | None) -> Cause:
    return _went("build-arg", f"build argument {name}", before, after, name)


def _set_otherwise(origin: Origin, name: str, before: str | None, after: str | None) -> Cause:
    """An instruction gives a variable another value."""
    kind: Kind = "env" if origin.keyword == "ENV" else "arg"
    return _went(kind, f"{origin.keyword} {name} (line {origin.line})", before, after, name)


def _went(kind: Kind, what: str, before: str | None, after: str | None, name: str) -> Cause:
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


def _environment(sides: Sides, *, other_base: bool) -> Iterator[Cause]:
    old, new = _variables(sides.old), _variables(sides.new)
    derived: list[Cause] = []
    found = False
    for name in dict.fromkeys([*new, *old]):
        if old.get(name) == new.get(name):
            continue
        origin = sides.new_recipe.variable(sides.new, name)
        known = sides.old_recipe.variable(sides.old, name)
        if other_base and origin is known is None and not _is_given(sides, name):
            continue
        cause = _variable(name, old.get(name), new.get(name), origin or known, sides)
        if origin is not None and known is not None and origin.value == known.value and "$" in (origin.value or ""):
            # Its instruction says what it said: another variable in it is the cause.
            derived.append(cause)
            continue
        found = True
        yield cause
    if not found:
        yield from derived
    if old == new and list(old) != list(new):
        yield cause_of("env", "its variables are set in another order")


def _variable(name: str, before: str | None, after: str | None, origin: Origin | None, sides: Sides) -> Cause:
    if _is_given(sides, name) and (origin is None or origin.keyword == "ARG"):
        return _argument(name, before, after)
    if origin is None:
        return _went("env", f"the variable {name}", before, after, name)
    return _set_otherwise(origin, name, before, after)


def _is_given(sides: Sides, name: str) -> bool:
    """Whether one of the two builds was given an argument of that name."""
    return name in sides.old_inputs.get("args", {}) or name in sides.new_inputs.get("args", {})


def _variables(step: Step) -> dict[str, str]:
    return dict(item.partition("=")[::2] for item in step.op.get("env", ()))


def _quoted(value: str | None) -> str:
    return json.dumps(_shown(value or ""), ensure_ascii=False)


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


# --- the rest of a RUN --------------------------------------------------------------------------------------------


def _exec_causes(sides: Sides, *, text_changed: bool, other_base: bool) -> Iterator[Cause]:
    old, new = sides.old.op, sides.new.op
    yield from _environment(sides, other_base=other_base)
    if old.get("cwd") != new.get("cwd"):
        yield _setting(sides, ast.Workdir, "workdir", old.get("cwd", "/"), new.get("cwd", "/"))
    if old.get("user") != new.get("user"):
        yield _setting(sides, ast.User, "user", old.get("user") or "root", new.get("user") or "root")
    if not text_changed and old.get("args") != new.get("args"):
        before, after = (" ".join(op.get("args", ())[:-1]) for op in (old, new))
        if before != after:
            yield _setting(sides, ast.Shell, "shell", before, after)
        else:
            yield cause_of("text", "its command is another one, though its text is the same", "its command changed")
    for name, (what, default) in _OPTIONS.items():
        if old.get(name) != new.get(name) and not (text_changed and name in ("network", "security")):
            before, after = (_plain(name, op.get(name), default) for op in (old, new))
            sentence = f"{what} went from {before} to {after}"
            yield cause_of("option", sentence, option=name, old=old.get(name), new=new.get(name))


def _folder(sides: Sides) -> Cause | None:
    """Another folder that the paths of a COPY are relative to, which its op does not tell of."""
    before, after = (
        recipe.setting(step, ast.Workdir)
        for recipe, step in ((sides.old_recipe, sides.old), (sides.new_recipe, sides.new))
    )
    values = [(at and at.value) or "/" for at in (before, after)]
    return _setting(sides, ast.Workdir, "workdir", *values) if values[0] != values[1] else None


def _setting(sides: Sides, kind: type[ast.Instruction], name: Kind, before: str, after: str) -> Cause:
    origin = sides.new_recipe.setting(sides.new, kind) or sides.old_recipe.setting(sides.old, kind)
    where = "" if origin is None else f" (line {origin.line})"
    sentence = f"{name.upper()}{where} went from {_quoted(before)} to {_quoted(after)}"
    return cause_of(name, sentence, f"{name.upper()} changed", old=before, new=after)


def _plain(name: str, value: Any, default: str) -> str:
    """The value of an option as it is given on the command line."""
    if value in (None, "", [], 0):
        return default
    if name == "extra_hosts":
        return ", ".join(":".join(entry) for entry in value)
    if name == "ulimits":
        return ", ".join(f"{limit}={soft}:{hard}" for limit, soft, hard in value)
    return str(value)


def _epoch(sides: Sides) -> Iterator[Cause]:
    """A date that all files get."""
    before, after = (
        next((action.get("mtime") for action in step.op.get("actions", ())), None) for step in (sides.old, sides.new)
    )
    if before != after:
        name = "SOURCE_DATE_EPOCH"
        old, new = (None if at is None else str(at) for at in (before, after))
        yield _went("build-arg", name, old, new, name)
