"""`stagewright lint`: advice on a Dockerfile, and its rewrite."""

from __future__ import annotations

import argparse
import sys

from stagewright.cli.flags import CommandParser
from stagewright.cli.output import print_json
from stagewright.cli.values import one_of
from stagewright.harmless import clean_block, clean_name


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser(
        "lint", "Show what could be better in a Dockerfile, and how.", arguments="[PATH]", least=0, most=1
    )
    parser.single("-f", "--file", metavar="FILE", help="the Dockerfile (default PATH/Dockerfile)")
    parser.switch("--fix", help="rewrite the Dockerfile where there is a rewrite; asks registries for digests")
    parser.single(
        "--format", metavar="FORMAT", type=one_of("text", "json", "sarif"), default="text", help="text, json or sarif"
    )
    parser.common()
    return parser


def run(options: argparse.Namespace) -> int:
    """Prints the findings; the exit status is 1 where there is a warning."""
    from stagewright.api import lint
    from stagewright.lint import report
    from stagewright.lint.linter import RULES

    context = options.arguments[0] if options.arguments else "."
    result = lint(context, file=options.file, fix=options.fix, config=options.config)
    if options.format == "json":
        print_json(report.as_json(result.findings, result.text, result.path))
    elif options.format == "sarif":
        print_json(report.as_sarif(result.findings, result.text, result.path, RULES))
    else:
        for finding in result.mended:
            print(clean_name(f"fixed: {finding.message} ({finding.rule.name})"), file=sys.stderr)
        sys.stdout.write(clean_block(report.as_text(result.findings, result.text, result.path)))
    return 1 if any(finding.rule.level == "warning" for finding in result.findings) else 0
