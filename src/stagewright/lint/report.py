"""Findings as text for people, as JSON, and as SARIF 2.1.0 for tools that show code."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from stagewright.lint.findings import LintFinding, LintRule, diff
from stagewright.version import VERSION

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def as_text(findings: Sequence[LintFinding], text: str, filename: str) -> str:
    """Each finding with its place and its rewrite, and the reason with the first of each rule."""
    parts = []
    told: set[str] = set()
    for finding in findings:
        place = f"{filename}:{finding.location.start}"
        rule = finding.rule
        part = f"{place}: {rule.level}: {finding.message} ({rule.name})\n"
        if rule.name not in told:
            told.add(rule.name)
            part += f"  {rule.reason}\n"
        rewrite = diff(text, finding, filename)
        part += "".join(f"  {line}\n" for line in rewrite.splitlines()[2:])
        parts.append(part)
    return "\n".join(parts)


def as_json(findings: Sequence[LintFinding], text: str, filename: str) -> dict[str, Any]:
    """The findings as plain data; lines are 1-based."""
    return {
        "file": filename,
        "findings": [
            {
                "rule": finding.rule.name,
                "level": finding.rule.level,
                "message": finding.message,
                "reason": finding.rule.reason,
                "start_line": finding.location.start,
                "end_line": finding.location.end,
                "diff": diff(text, finding, filename) or None,
            }
            for finding in findings
        ],
    }


def as_sarif(findings: Sequence[LintFinding], text: str, filename: str, rules: Sequence[LintRule]) -> dict[str, Any]:
    """A SARIF log with one run; rewrites are its fixes."""
    order = {rule.name: index for index, rule in enumerate(rules)}
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "stagewright lint",
                        "semanticVersion": VERSION,
                        "rules": [
                            {
                                "id": rule.name,
                                "shortDescription": {"text": rule.summary},
                                "fullDescription": {"text": rule.reason},
                                "defaultConfiguration": {"level": rule.level},
                            }
                            for rule in rules
                        ],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(finding, text, filename, order[finding.rule.name]) for finding in findings],
            }
        ],
    }


def _result(finding: LintFinding, text: str, filename: str, rule: int) -> dict[str, Any]:
    artifact = {"uri": _uri(filename)}
    region = {"startLine": finding.location.start, "endLine": finding.location.end}
    result: dict[str, Any] = {
        "ruleId": finding.rule.name,
        "ruleIndex": rule,
        "level": finding.rule.level,
        "message": {"text": finding.message},
        "locations": [{"physicalLocation": {"artifactLocation": artifact, "region": region}}],
    }
    if finding.edits:
        replacements = [
            {"deletedRegion": _region(text, edit.start, edit.end), "insertedContent": {"text": edit.text}}
            for edit in finding.edits
        ]
        result["fixes"] = [{"artifactChanges": [{"artifactLocation": artifact, "replacements": replacements}]}]
    return result


def _uri(path: str) -> str:
    """A path as a reference of RFC 3986: relative ones stay so, as those who show code in its repository need them."""
    quoted = quote(posixpath.normpath(path), errors="surrogateescape")
    return f"file://{quoted}" if quoted.startswith("/") else quoted


def _region(text: str, start: int, end: int) -> dict[str, int]:
    first, last = text.count("\n", 0, start), text.count("\n", 0, end)
    return {
        "startLine": first + 1,
        "startColumn": start - (text.rfind("\n", 0, start) + 1) + 1,
        "endLine": last + 1,
        "endColumn": end - (text.rfind("\n", 0, end) + 1) + 1,
    }
