"""Annotations: which of them go to an image's manifest, and which to the descriptor that leads to it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stagewright.errors import UsageError
from stagewright.image.platform import Platform, parse_platform
from stagewright.patterns import pattern
from stagewright.records import dataclass, field

_TYPE = r"(?:manifest|index)(?:-descriptor)?(?:\[[A-Za-z0-9_./-]+\])?"
# `annotation.KEY`, `annotation-manifest.KEY`, `annotation-manifest[linux/amd64].KEY`
OPTION = pattern(rf"annotation(?:-({_TYPE}))?\.(.+)", re.DOTALL)
_FLAG = pattern(rf"(?:({_TYPE}(?:,{_TYPE})*):)?(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Annotations:
    """Annotations by their place: the manifest itself and the descriptor that names it elsewhere."""

    manifest: Mapping[str, str] = field(default_factory=dict)
    descriptor: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.manifest or self.descriptor)


def sort_annotations(options: Mapping[str, str], flags: Mapping[str, str], platform: Platform) -> Annotations:
    """The annotations of an image of one platform.

    `options` are exporter options that match OPTION, `flags` those of `--annotation` (`[TYPE[PLATFORM],...:]KEY`).
    The options go before the flags. Raises UsageError for those of an index, which such an image has not.
    """
    places: dict[str, dict[str, str]] = {"manifest": {}, "manifest-descriptor": {}}
    for key, value in [*_of_flags(flags), *_of_options(options)]:
        (kind, only_for), name = key
        if only_for is not None and not parse_platform(only_for).matches(platform):
            continue
        if kind not in places:
            raise UsageError(f'annotation "{name}": an image of a single platform has no index to be annotated')
        places[kind][name] = value
    return Annotations(places["manifest"], places["manifest-descriptor"])


_Key = tuple[tuple[str, str | None], str]


def _of_options(options: Mapping[str, str]) -> list[tuple[_Key, str]]:
    found = []
    for option, value in options.items():
        matched = OPTION.fullmatch(option)
        assert matched is not None
        found.append(((_split(matched[1] or "manifest"), matched[2]), value))
    return found


def _of_flags(flags: Mapping[str, str]) -> list[tuple[_Key, str]]:
    found = []
    for flag, value in flags.items():
        matched = _FLAG.fullmatch(flag)
        if matched is None:
            raise UsageError(f'annotation "{flag}" has no key')
        found += [((_split(kind), matched[2]), value) for kind in (matched[1] or "manifest").split(",")]
    return found


def _split(kind: str) -> tuple[str, str | None]:
    name, _, platform = kind.rstrip("]").partition("[")
    return name, platform or None
