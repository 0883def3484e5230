"""The packages of an image, as the lists that package managers leave in it have them."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping

from stagewright.anatomy.tree import File

_DPKG = "var/lib/dpkg/status"
# Images without a package manager have a file for each package.
_DPKG_FOLDER = "var/lib/dpkg/status.d/"
_APK = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
_RPM = ("var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite", "usr/share/rpm/rpmdb.sqlite")

Packages = dict[str, dict[str, str]]


def holds_packages(path: str) -> bool:
    """Whether a path is one of the lists."""
    if path == _DPKG or path in _APK or path in _RPM:
        return True
    if path.startswith(_DPKG_FOLDER):
        return not path.endswith(".md5sums")
    return path.endswith(".dist-info/METADATA") or _is_node_package(path)


def packages_of(files: Mapping[str, File]) -> Packages:
    """Versions by names, for each kind of packages: deb, rpm, apk, python, npm. Several versions of one are joined."""
    found: dict[str, dict[str, set[str]]] = {}
    for path, file in files.items():
        if file.data is None or not holds_packages(path):
            continue
        for kind, name, version in _listed(path, file.data):
            found.setdefault(kind, {}).setdefault(name, set()).add(version)
    return {
        kind: {name: ", ".join(sorted(versions)) for name, versions in sorted(names.items())}
        for kind, names in sorted(found.items())
    }


def _listed(path: str, data: bytes) -> Iterator[tuple[str, str, str]]:
    if path in _RPM:
        from stagewright.anatomy.rpm import packages_in

        yield from (("rpm", name, version) for name, version in packages_in(data))
        return
    text = data.decode(errors="replace")
    if path in _APK:
        for fields in _paragraphs(text, ":"):
            if "P" in fields and "V" in fields:
                yield "apk", fields["P"], fields["V"]
    elif path.endswith("/package.json"):
        yield from _node_package(text)
    elif path.endswith("/METADATA"):
        for fields in _paragraphs(text.partition("\n\n")[0], ": "):
            if "Name" in fields and "Version" in fields:
                yield "python", fields["Name"], fields["Version"]
    else:
        for fields in _paragraphs(text, ": "):
            # What was removed keeps its paragraph as long as its settings are there.
            installed = fields.get("Status", " installed").endswith(" installed")
            if installed and "Package" in fields and "Version" in fields:
                yield "deb", fields["Package"], fields["Version"]


def _paragraphs(text: str, separator: str) -> Iterator[dict[str, str]]:
    """The first values of fields, paragraph by paragraph; continued lines are left out."""
    fields: dict[str, str] = {}
    for line in [*text.split("\n"), ""]:
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif not line[0].isspace():
            name, found, value = line.partition(separator)
            if found:
                fields.setdefault(name, value.strip())


def _is_node_package(path: str) -> bool:
    """Whether it is the package.json of something that was installed, and not of a folder inside of it."""
    folder, name = posixpath.split(path)
    if name != "package.json":
        return False
    parent, base = posixpath.split(folder)
    if posixpath.basename(parent).startswith("@"):
        parent = posixpath.dirname(parent)
    return posixpath.basename(parent) == "node_modules" and not base.startswith("@")


def _node_package(text: str) -> Iterator[tuple[str, str, str]]:
    try:
        document = json.loads(text)
    except ValueError:
        return
    if not isinstance(document, dict):
        return
    name, version = document.get("name"), document.get("version")
    if isinstance(name, str) and isinstance(version, str):
        yield "npm", name, version


def compare_packages(old: Packages, new: Packages) -> list[tuple[str, str, str | None, str | None]]:
    """What differs: kind, name, and the versions before and after, None where there is none."""
    return [
        (kind, name, before, after)
        for kind in sorted({*old, *new})
        for name in sorted({*_names(old, kind), *_names(new, kind)})
        if (before := old.get(kind, {}).get(name)) != (after := new.get(kind, {}).get(name))
    ]


def _names(packages: Packages, kind: str) -> Iterable[str]:
    return packages.get(kind, {})
