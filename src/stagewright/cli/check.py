"""`stagewright check`: looks for damage in the store, and repairs it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from stagewright.cli.flags import CommandParser
from stagewright.cli.output import print_json
from stagewright.harmless import clean_name

if TYPE_CHECKING:
    from stagewright.api import StoreCheck

_BUSY = "a build or a transfer uses the store"


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser(
        "check",
        "Look for what is wrong in the store: its metadata, blobs, snapshots, images, cache mounts, git repositories,"
        " records of builds, and what killed builds left. The status is 1 where something is, and was not repaired.",
    )
    parser.switch("--repair", help="remove what is broken, so that the next build makes it again")
    parser.switch("--json", help="print what was found as JSON")
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Prints what is wrong, and what a repair costs or did."""
    from stagewright.api import Store

    found = Store(root=options.root, config=options.config).check(repair=options.repair)
    unrepaired = sum(not problem.repaired for problem in found.problems)
    if options.json:
        print_json(_as_json(found))
        return 1 if unrepaired else 0
    for problem in found.problems:
        print(clean_name(f"{problem.kind} {problem.what}: {problem.wrong}"))
        print(f"    {'repaired; the cost' if problem.repaired else 'a repair costs'}: {clean_name(problem.costs)}")
    blobs, snapshots = _counted(found.blobs, "blob"), _counted(found.snapshots, "snapshot")
    print(f"Looked at {blobs}, {snapshots} and {_counted(found.images, 'image')}.")
    problems = _counted(len(found.problems), "problem")
    if not found.problems:
        print("Nothing is wrong.")
    elif not unrepaired:
        print(f"{problems}, all repaired.")
    else:
        print(f"{problems}: see stagewright check --repair.")
    if found.busy:
        what = "nothing was repaired" if options.repair else "leftovers were not looked for"
        print(f"{_BUSY}: {what}. Check again when it has ended.")
    return 1 if unrepaired else 0


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _as_json(found: StoreCheck) -> dict[str, Any]:
    return {
        "problems": [
            {
                "kind": problem.kind,
                "what": problem.what,
                "wrong": problem.wrong,
                "repair_costs": problem.costs,
                "repaired": problem.repaired,
            }
            for problem in found.problems
        ],
        "busy": found.busy,
        "blobs": found.blobs,
        "snapshots": found.snapshots,
        "images": found.images,
    }
