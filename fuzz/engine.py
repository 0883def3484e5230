"""One target under libFuzzer, which ends its process: `engine.py TARGET [libFuzzer's arguments]`."""

from __future__ import annotations

import sys

import atheris
from corpus import load_target

# Some modules are imported by the functions that need them, so the hook stays to the end.
with atheris.instrument_imports(include=["stagewright"]):
    target = load_target(sys.argv[1])
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.check)
    atheris.Fuzz()
