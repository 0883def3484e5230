"""`stagewright cache mounts`: the folders that steps keep between builds, shown, exported, imported and removed."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stagewright.cli.flags import CommandParser
from stagewright.cli.output import format_age, print_json_lines, print_table
from stagewright.cli.specs import parse_cache
from stagewright.cli.values import one_of
from stagewright.errors import StagewrightError, UsageError
from stagewright.harmless import clean_name
from stagewright.progress.text import format_bytes

if TYPE_CHECKING:
    from stagewright.api import Store

_USES = "mounts ls | mounts export SPEC [ID...] | mounts import SPEC [ID...] | mounts rm ID..."
_ACTIONS = {"ls": (0, 0), "export": (1, None), "import": (1, None), "rm": (1, None)}


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser(
        "cache",
        "Show, export, import and remove cache mounts (RUN --mount=type=cache). SPEC is where to and from, as for"
        " build --cache-to and --cache-from.",
        arguments=_USES,
        least=2,
        most=None,
    )
    form = one_of("table", "json")
    parser.single("--format", metavar="FORMAT", type=form, default="table", help="of ls: table, or json")
    parser.single("--progress", metavar="MODE", help="auto, tty, plain, rawjson, quiet or none")
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Does what the first two arguments say."""
    from stagewright.api import Store

    noun, action, *arguments = options.arguments
    if noun != "mounts" or action not in _ACTIONS:
        raise UsageError(f"unknown command cache {noun} {action}", hint=f"stagewright cache {_USES}")
    least, most = _ACTIONS[action]
    if len(arguments) < least or (most is not None and len(arguments) > most):
        what = "takes no arguments" if most == 0 else f"needs {'the ID of one' if action == 'rm' else 'SPEC'}"
        raise UsageError(f"cache mounts {action} {what}", hint=f"stagewright cache {_USES}")
    store = Store(root=options.root, config=options.config)
    if action == "ls":
        _list(store, as_json=options.format == "json")
    elif action == "rm":
        for identity in store.remove_cache_mounts(arguments):
            print(clean_name(identity))
    else:
        _transfer(store, action, arguments, options)
    return 0


def _list(store: Store, *, as_json: bool) -> None:
    rows = store.cache_mounts()
    if as_json:
        print_json_lines([{"ID": row.id, "Size": row.size, "LastUsed": row.last_used} for row in rows])
        return
    now = time.time()
    table = [(clean_name(row.id), format_bytes(row.size), format_age(row.last_used, now)) for row in rows]
    print_table(("ID", "SIZE", "LAST USED"), table)


def _transfer(store: Store, action: str, arguments: Sequence[str], options: argparse.Namespace) -> None:
    from stagewright.progress.display import open_display

    place = parse_cache(arguments[0], f"cache mounts {action}")
    display = open_display(options.progress, sys.stderr, expand_warnings=options.debug)
    try:
        if action == "export":
            imported = []
            store.export_cache_mounts(place, arguments[1:], on_event=display)
        else:
            imported = store.import_cache_mounts(place, arguments[1:], on_event=display)
    except StagewrightError as error:
        display.close(error)
        raise
    display.close(None)
    for identity in imported:
        print(clean_name(identity))
