"""The targets and the inputs that are kept for each: small ones that began it, and all that once found something."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_HERE = Path(__file__).parent


class Target(NamedTuple):
    """What is fuzzed: `check` takes an input and raises for a finding; `tokens` are words of the input's language."""

    name: str
    check: Callable[[bytes], None]
    tokens: tuple[bytes, ...]


def target_names() -> list[str]:
    """The names of all targets, which are those of the modules in `targets/`."""
    return sorted(path.stem for path in (_HERE / "targets").glob("*.py"))


def load_target(name: str) -> Target:
    """Import a target."""
    folder = str(_HERE / "targets")
    if folder not in sys.path:
        sys.path.append(folder)
    module = importlib.import_module(name)
    return Target(name, module.check, module.TOKENS)


def corpus_folder(name: str) -> Path:
    """Where the inputs of a target are."""
    return _HERE / "corpus" / name


def corpus(name: str) -> list[bytes]:
    """The inputs of a target, in the order of their files' names."""
    return [path.read_bytes() for path in sorted(corpus_folder(name).iterdir())]
