"""Recorded builds as plain data, for people and for programs: all of a build, and why its steps ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stagewright.history.archive import KILLED, RUNNING, Build, Run
from stagewright.history.steps import Step

_NOT_SHOWN = ("graph", "subject", "recipe")


def summary(build: Build) -> dict[str, Any]:
    """A build without its steps."""
    return {name: getattr(build, name) for name in build.__slots__ if name not in _NOT_SHOWN}


def details(build: Build, steps: Sequence[Step], run: Run, sizes: Mapping[str, int]) -> dict[str, Any]:
    """A build with its steps: their keys, what those are made of, what became of them, and how many bytes of files.

    `sizes` are those of steps that were cached, by their keys (see `Archive.sizes`).
    """
    return {
        **summary(build),
        "steps": [_step(index, step, steps, run.steps.get(index), sizes) for index, step in enumerate(steps)],
    }


def _step(
    index: int, step: Step, steps: Sequence[Step], ran: Mapping[str, Any] | None, sizes: Mapping[str, int]
) -> dict[str, Any]:
    if ran is None:
        size = sizes.get(step.canonical or "")
        outcome: dict[str, Any] = {"state": "cached", **({} if size is None else {"size": size})}
    else:
        outcome = {name: value for name, value in ran.items() if name != "reason"}
    return {
        "index": index,
        "name": step.name,
        "stage": step.stage,
        "lines": step.lines,
        **outcome,
        "digest": step.digest,
        "platform": step.platform,
        "op": step.op,
        "inputs": [
            {
                "step": source,
                "name": steps[source].name,
                "key": steps[source].canonical,
                **({"content": digest} if (digest := step.contents.get(str(at))) else {}),
            }
            for at, source in enumerate(step.inputs)
        ],
        "definition_key": step.definition,
        "key": step.canonical,
        **({"meaning": step.meaning} if step.meaning is not None else {}),
    }


def explanation(build: Build, steps: Sequence[Step], run: Run) -> dict[str, Any]:
    """Why the steps of a build ran, in their order; `because_of` names the step whose cause it is."""
    shown = {
        index: ran for index, ran in sorted(run.steps.items()) if "reason" in ran and _is_shown(steps, index, run.steps)
    }
    compared = {ran["reason"]["compared_with"] for ran in shown.values()} - {None}
    return {
        **summary(build),
        "compared_with": max(compared, default=None),
        "steps": [_explained(index, ran, steps, shown) for index, ran in shown.items()],
        "cached": sum(step.is_instruction and index not in run.steps for index, step in enumerate(steps)),
        "not_reached": sum(
            steps[index].is_instruction and ran["state"] == "skipped" and index not in shown
            for index, ran in run.steps.items()
        ),
    }


def _is_shown(steps: Sequence[Step], index: int, ran: Mapping[int, Any]) -> bool:
    """Instructions are, and sources that no instruction of that name uses."""
    if steps[index].is_instruction:
        return True
    names = {steps[other].name for other in ran if steps[other].is_instruction}
    return steps[index].kind == "source" and steps[index].name not in names


def _explained(index: int, ran: Mapping[str, Any], steps: Sequence[Step], shown: Mapping[int, Any]) -> dict[str, Any]:
    reason = ran["reason"]
    root = reason["root"]
    return {
        "name": steps[index].name,
        "stage": steps[index].stage,
        "state": ran["state"],
        "kind": reason["kind"],
        "reason": reason["sentence"],
        "because_of": steps[root].name if root != index and root in shown else None,
        # Records of earlier versions have the sentences alone.
        "also": [{"reason": also, "details": {}} if isinstance(also, str) else also for also in reason["also"]],
        "details": reason["details"],
    }


def explanation_text(data: Mapping[str, Any]) -> str:
    """The explanation for people: each cause once, at the step where it arose, and below it what ran because of it."""
    steps = data["steps"]
    told = [(step, [other for other in steps if other["because_of"] == step["name"]]) for step in steps]
    lines = [_headline(data)]
    above: list[str] = []
    for step, followers in told:
        if step["because_of"] is not None:
            continue
        reason = [*_reason_lines(step), *_follower_lines(followers)]
        if reason == above:
            # Said once for all of them.
            lines[-len(reason) :] = []
        else:
            lines.append("")
        lines += [_title(step), *reason]
        above = reason
    return "\n".join(lines) + "\n"


def _follower_lines(followers: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["    so these, too:"] if followers else []
    for step in followers:
        lines.append(f"        {_title(step)}")
        reason = _reason_lines(step)
        lines += [f"        {line}" for line in (reason[1:] if step["kind"] == "parent" else reason)]
    return lines


def _title(step: Mapping[str, Any]) -> str:
    name = str(step["name"]).replace("\n", " ")
    return f"{name} (may run)" if step["state"] == "may run" else name


def _headline(data: Mapping[str, Any]) -> str:
    dry = data["status"] == "dry-run"
    what = "this build" if dry else f"build {data['number']}"
    if data["status"] in (RUNNING, KILLED):
        state = "is still running" if data["status"] == RUNNING else "was killed"
        return f"{what} of {data['inputs']['context']} {state}: what becomes of steps is kept at a build's end"
    may = sum(step["state"] == "may run" for step in data["steps"])
    ran = len(data["steps"]) - may
    counts = [f"{ran} {'step' if ran == 1 else 'steps'} {'would run' if dry else 'ran'}"]
    if may:
        counts.append(f"{may} may run")
    counts.append(f"{data['cached']} cached")
    if data["not_reached"]:
        counts.append(f"{data['not_reached']} not reached")
    compared = f"; compared with build {data['compared_with']}" if data["compared_with"] else ""
    return f"{what} of {data['inputs']['context']}: {', '.join(counts)}{compared}"


def _reason_lines(step: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for cause in (step, *step["also"]):
        lines.append(f"    {'also: ' if lines else ''}{cause['reason']}")
        lines += [f"        {line}" for line in cause["details"].get("diff", ())]
    return lines
