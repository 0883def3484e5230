"""Runs all rules over a Dockerfile, and mends what can be mended."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator

from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError
from stagewright.lint import cachemounts, development, order, packages, runtime, secrets, sources
from stagewright.lint.findings import LintFinding, LintRule, apply, located
from stagewright.lint.source import Source
from stagewright.lint.sources import Pin
from stagewright.records import dataclass, replace

RULES: tuple[LintRule, ...] = (
    sources.COPY_FROM_INDEX,
    secrets.BAKED_SECRET,
    order.INSTALL_BELOW_SOURCES,
    cachemounts.NO_CACHE_MOUNT,
    packages.APT_UPDATE_APART,
    packages.LISTS_LEFT,
    development.DEVELOPMENT_DEPENDENCIES,
    runtime.BUILD_TOOLS,
    runtime.RUNS_AS_ROOT,
    sources.UNPINNED_BASE,
)

_FINDERS: tuple[Callable[[Source], Iterator[LintFinding]], ...] = (
    sources.copies_from_index,
    secrets.baked_secrets,
    order.installs_below_sources,
    cachemounts.installs_without_cache,
    packages.apt_updates_apart,
    packages.lists_left,
    development.development_dependencies,
    runtime.build_tools,
    runtime.runs_as_root,
)
# Mending one thing may uncover, or move, another; each round mends at least one.
_MAX_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class Mended:
    """What `fix` made: the new text, what was mended on the way, and what is left."""

    text: str
    mended: tuple[LintFinding, ...]
    left: tuple[LintFinding, ...]


def lint(data: bytes, filename: str, context: str | None = None, pin: Pin | None = None) -> list[LintFinding]:
    """All findings in a Dockerfile, in the order of their lines.

    `context` is the folder of its build context, which lets some rules look closer; `pin` gives the digest that an
    image name means now. Raises DockerfileError for a Dockerfile that cannot be read.
    """
    source = Source(parse(data, filename), context)
    found = [finding for finder in _FINDERS for finding in finder(source)]
    findings = located([*found, *sources.unpinned_bases(source, pin)])
    if _is_utf8(data):
        return findings
    # The lines of errors show a mark for each odd byte or two, so their offsets are not those of the file.
    return [replace(finding, edits=()) for finding in findings]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def fix(data: bytes, filename: str, context: str | None = None, pin: Pin | None = None) -> Mended:
    """Mend all findings that have a rewrite. Raises DockerfileError for a Dockerfile that cannot be read."""
    data = data.removeprefix(codecs.BOM_UTF8)
    mended: list[LintFinding] = []
    left = lint(data, filename, context, pin)
    for _ in range(_MAX_ROUNDS):
        one = next((finding for finding in left if finding.edits), None)
        if one is None:
            break
        text, _ = apply(data.decode("utf-8", "surrogateescape"), [one])
        changed = text.encode("utf-8", "surrogateescape")
        try:
            after = lint(changed, filename, context, pin)
        except DockerfileError as error:
            raise AssertionError(f"the rewrite of {one.rule.name} does not parse: {error.message}") from error
        data, left = changed, after
        mended.append(one)
    return Mended(data.decode("utf-8", "surrogateescape"), tuple(mended), tuple(left))
