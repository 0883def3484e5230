"""Platforms: their names, their normal forms, and which ones a wanted platform can also run."""

from __future__ import annotations

import functools
import os
from typing import Any

from stagewright.errors import UsageError
from stagewright.image.gojson import Fields
from stagewright.patterns import pattern
from stagewright.records import dataclass

_PART = pattern(r"[A-Za-z0-9_.-]+")
_OS_PART = pattern(r"([A-Za-z0-9_.-]+)(?:\(([A-Za-z0-9_.-]*)\))?")

_KNOWN_OS = frozenset(
    {
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "hurd",
        "illumos",
        "ios",
        "js",
        "linux",
        "nacl",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "windows",
        "zos",
    }
)
_KNOWN_ARCHITECTURES = frozenset(
    {
        "386",
        "amd64",
        "amd64p32",
        "arm",
        "armbe",
        "arm64",
        "arm64be",
        "ppc64",
        "ppc64le",
        "loong64",
        "mips",
        "mipsle",
        "mips64",
        "mips64le",
        "mips64p32",
        "mips64p32le",
        "ppc",
        "riscv",
        "riscv64",
        "s390",
        "s390x",
        "sparc",
        "sparc64",
        "wasm",
    }
)


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on (OCI image-spec, "platform" of a descriptor). Empty strings are fields that are not set."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`os/architecture[/variant]`, or "unknown" where the OS is not set."""
        if not self.os:
            return "unknown"
        name = f"{self.os}({self.os_version})" if self.os_version else self.os
        return "/".join(part for part in (name, self.architecture, self.variant) if part)

    @staticmethod
    def from_fields(fields: Fields) -> Platform:
        """Read a platform object as it stands in an index. Raises IntegrityError for values of another type."""
        return Platform(
            os=fields.string("os"),
            architecture=fields.string("architecture"),
            variant=fields.string("variant"),
            os_version=fields.string("os.version"),
            os_features=fields.strings("os.features"),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object, in the field order of Go's image-spec."""
        value: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            value["os.version"] = self.os_version
        if self.os_features:
            value["os.features"] = list(self.os_features)
        if self.variant:
            value["variant"] = self.variant
        return value

    def normalized(self) -> Platform:
        """The same platform under the names that Go and containerd use (x86_64 is amd64, armhf is arm/v7, ...)."""
        architecture, variant = _normalize_architecture(self.architecture, self.variant)
        return Platform(_normalize_os(self.os), architecture, variant, self.os_version, self.os_features)

    def matches(self, other: Platform) -> bool:
        """Whether both name one platform, once normalized. Where this one has no OS version, any will do."""
        mine, theirs = self.normalized(), other.normalized()
        if (mine.os, mine.architecture, mine.variant) != (theirs.os, theirs.architecture, theirs.variant):
            return False
        return not mine.os_version or theirs.os_version == mine.os_version

    @property
    def is_unknown(self) -> bool:
        """True for `unknown/unknown`, which is how attestation manifests are listed in an index."""
        return self.os == "unknown" and self.architecture == "unknown"


def _normalize_os(name: str) -> str:
    lowered = name.lower()
    return "darwin" if lowered == "macos" else lowered


def _normalize_architecture(architecture: str, variant: str) -> tuple[str, str]:
    architecture, variant = architecture.lower(), variant.lower()
    if architecture == "i386":
        return "386", ""
    if architecture in ("x86_64", "x86-64", "amd64"):
        return "amd64", "" if variant == "v1" else variant
    if architecture in ("aarch64", "arm64"):
        return "arm64", "" if variant in ("8", "v8") else variant
    if architecture == "armhf":
        return "arm", "v7"
    if architecture == "armel":
        return "arm", "v6"
    if architecture == "arm":
        if variant in ("", "7"):
            return "arm", "v7"
        return "arm", f"v{variant}" if variant in ("5", "6", "8") else variant
    return architecture, variant


@functools.cache
def host_platform() -> Platform:
    """The platform of this machine, normalized."""
    machine = os.uname().machine
    if machine.startswith("armv"):
        return Platform("linux", "arm", "v" + machine[4:5])
    if machine in ("i486", "i586", "i686"):
        machine = "386"
    if machine == "loongarch64":
        machine = "loong64"
    return Platform("linux", machine).normalized()


def parse_platform(text: str) -> Platform:
    """Parse `os`, `architecture`, `os/architecture` or `os/architecture/variant`, and normalize it.

    What is left out is taken from the host. Raises UsageError for anything else, as containerd's platforms.Parse does.
    """
    parts = text.split("/")
    if len(parts) > 3 or not _OS_PART.fullmatch(parts[0]) or not all(_PART.fullmatch(part) for part in parts[1:]):
        raise UsageError(
            f'invalid platform "{text}"', hint="a platform is written OS/ARCHITECTURE[/VARIANT], e.g. linux/arm64"
        )
    matched = _OS_PART.fullmatch(parts[0])
    assert matched is not None
    os_name, os_version = _normalize_os(matched.group(1)), matched.group(2) or ""
    host = host_platform()
    if len(parts) > 1:
        return Platform(os_name, parts[1], parts[2] if len(parts) == 3 else "", os_version).normalized()
    if os_name in _KNOWN_OS:
        return Platform(os_name, host.architecture, host.variant, os_version)
    architecture, variant = _normalize_architecture(parts[0], "")
    if architecture in _KNOWN_ARCHITECTURES:
        return Platform(host.os, architecture, variant)
    raise UsageError(f'unknown operating system or architecture "{text}"')


def _numbered(wanted: Platform, first: int, last: int, pattern: str = "v{}") -> list[Platform]:
    return [
        Platform(wanted.os, wanted.architecture, pattern.format(number), wanted.os_version)
        for number in range(first, last - 1, -1)
    ]


def _level(variant: str) -> int:
    digits = variant.removeprefix("v")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 4 else 0


def runnable_platforms(wanted: Platform) -> list[Platform]:
    """The platforms whose images run on `wanted`, the best first: itself, older variants, then its 32-bit sibling.

    The order is that of containerd's platforms.Only.
    """
    wanted = wanted.normalized()
    order = [wanted]
    if wanted.architecture == "amd64":
        order += _numbered(wanted, _level(wanted.variant) - 1, 1)
        order.append(Platform(wanted.os, "386", "", wanted.os_version))
    elif wanted.architecture == "arm":
        order += _numbered(wanted, _level(wanted.variant) - 1, 5)
    elif wanted.architecture == "arm64":
        order += _older_arm64(wanted)
        order += runnable_platforms(Platform(wanted.os, "arm", "v8", wanted.os_version))
    return order


def _older_arm64(wanted: Platform) -> list[Platform]:
    major_text, _, minor_text = (wanted.variant or "v8").partition(".")
    major, minor = _level(major_text), _level(minor_text)
    older: list[Platform] = []
    if major == 9:
        older += _numbered(wanted, minor - 1, 1, "v9.{}")
        if minor > 0:
            older += _numbered(wanted, 9, 9)
        # Armv9.n includes all of Armv8.(n+5).
        major, minor = 8, minor + 6
    if major == 8:
        older += _numbered(wanted, minor - 1, 1, "v8.{}")
        if minor > 0:
            older += _numbered(wanted, 8, 8)
    return older
