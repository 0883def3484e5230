"""`stagewright explain`: why the steps of a build were not found in the cache."""

from __future__ import annotations

import argparse
import os
import sys

from stagewright.cli.build import REFUSED, add_flags, read_request
from stagewright.cli.flags import CommandParser
from stagewright.cli.history import parse_number
from stagewright.cli.output import print_json
from stagewright.errors import UsageError
from stagewright.harmless import clean_block

# The arguments of `api.build` that `api.dry_run` has, too.
_ASKED_OF_A_DRY_RUN = (
    "context", "file", "dockerfile", "target", "build_args", "build_contexts", "secrets", "ssh", "cache_from",
    "no_cache", "no_cache_filter", "pull", "network", "allow", "add_hosts", "shm_size", "ulimits", "platform",
    "offline", "root", "config",
)  # fmt: skip


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser(
        "explain",
        "Show why the steps of a build ran, by its number (default: of the newest); with --dry-run which steps a build"
        " would run now, and why. That takes the flags of build.",
        arguments="[BUILD] | --dry-run PATH",
        most=1,
        refused=REFUSED,
    )
    parser.switch("--dry-run", help="explain a build that is not run")
    parser.switch("--json", help="as one JSON document")
    add_flags(parser)
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Prints the explanation."""
    from stagewright import api
    from stagewright.history.view import explanation_text

    if options.dry_run:
        if not options.arguments:
            raise UsageError("explain --dry-run needs the build context", hint="see stagewright explain --help")
        request = read_request(options, os.environ)
        explanation = api.dry_run(**{name: request[name] for name in _ASKED_OF_A_DRY_RUN})
    else:
        _check_plain(options)
        number = parse_number(options.arguments[0]) if options.arguments else None
        explanation = api.History(options.root).explain(number)
    if options.json:
        print_json(explanation)
    else:
        sys.stdout.write(clean_block(explanation_text(explanation)))
    return 0


def _check_plain(options: argparse.Namespace) -> None:
    """Refuse the flags of a build where none is asked about."""
    unset = vars(make_parser().parse([]))
    for name, value in vars(options).items():
        if name not in ("arguments", "json", "root", "config", "debug") and value != unset[name]:
            raise UsageError(f"--{name.replace('_', '-')} goes with --dry-run only")
