"""`stagewright lint` as calls: reads a Dockerfile, finds what could be better, and mends it where it is asked to."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from stagewright.config import load as load_config
from stagewright.errors import NotFoundError, UsageError
from stagewright.lint.linter import fix, lint
from stagewright.lint.sources import Pin
from stagewright.records import dataclass

if TYPE_CHECKING:
    from stagewright.lint.findings import LintFinding
    from stagewright.registry.client import RegistryClient

_MAX_DOCKERFILE = 16 << 20


@dataclass(frozen=True, slots=True)
class LintReport:
    """What was found in the Dockerfile `path`, whose text is `text`.

    After a fix these are the new text and what is left of the findings; `mended` are those that are gone.
    """

    path: str
    text: str
    findings: tuple[LintFinding, ...]
    mended: tuple[LintFinding, ...] = ()


def lint_dockerfile(
    context: str, file: str | None, *, fix_it: bool, config: str | None, env: Mapping[str, str]
) -> LintReport:
    """Lint the Dockerfile of a build context, and with `fix_it` rewrite the file. Raises StagewrightError."""
    if not os.path.isdir(context):
        raise NotFoundError(f"the build context {context} is not a folder")
    path = file if file is not None else os.path.join(context, "Dockerfile")
    data = _read(path)
    if not fix_it:
        found = tuple(lint(data, path, context))
        return LintReport(path, data.decode("utf-8", "surrogateescape"), found)
    from stagewright.registry.client import RegistryClient

    with closing(RegistryClient(load_config(config, env), env)) as client:
        result = fix(data, path, context, _pin_by(client))
    if result.mended:
        _replace(path, result.text.encode("utf-8", "surrogateescape"))
    return LintReport(path, result.text, result.left, result.mended)


def _pin_by(client: RegistryClient) -> Pin:
    from stagewright.registry.errors import UnreachableError
    from stagewright.registry.reference import Reference

    known: dict[str, str | None] = {}

    def pin(image: str) -> str | None:
        if image not in known:
            try:
                known[image] = client.resolve(Reference.parse(image), threading.Event()).digest
            except (UnreachableError, NotFoundError, UsageError):
                known[image] = None  # The finding stays, and says so.
        return known[image]

    return pin


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_DOCKERFILE + 1)
    except OSError as error:
        raise NotFoundError(f"failed to read Dockerfile: open {path}: {error.strerror}") from None
    if len(data) > _MAX_DOCKERFILE:
        raise UsageError(f"the Dockerfile {path} is larger than {_MAX_DOCKERFILE >> 20} MiB")
    return data


def _replace(path: str, data: bytes) -> None:
    """Write the file anew in its place, so that it keeps its mode and a link stays one."""
    try:
        with open(path, "r+b") as file:
            file.write(data)
            file.truncate()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
