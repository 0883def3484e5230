"""Stagewright builds container images from multi-stage Dockerfiles.

`stagewright.build(...)` builds one; `stagewright.api` has all of the library.
"""

from __future__ import annotations

from stagewright.version import VERSION

# As the launcher of steps, which imports this, does without `typing`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from stagewright.api import build

__all__ = ["__version__", "build"]

__version__ = VERSION


def __getattr__(name: str) -> object:
    # Importing the package must cost nothing: the command line imports it for its version alone.
    if name == "build":
        from stagewright.api import build

        return build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
