"""Lists of packages in images."""

from __future__ import annotations

import pytest

from stagewright.anatomy.packages import holds_packages, packages_of
from stagewright.anatomy.tree import File


def found(path: str, content: str) -> dict[str, dict[str, str]]:
    """What a file of an image lists."""
    return packages_of({path: File(path, "file", 0o644, "0:0", len(content), 0, data=content.encode())})


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        (
            "var/lib/dpkg/status",
            "Package: a\nStatus: install ok installed\nVersion: 1.2-3\nDescription: x\n Version: 9\n\n"
            "Package: b\nStatus: deinstall ok config-files\nVersion: 1\n",
            {"deb": {"a": "1.2-3"}},
        ),
        ("var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12\n", {"deb": {"base-files": "12"}}),
        ("lib/apk/db/installed", "C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\n\nP:zlib\nV:1.3-r0\n", {
            "apk": {"musl": "1.2.5-r0", "zlib": "1.3-r0"},
        }),
        (
            "usr/lib/python3/site-packages/requests-2.32.3.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: requests\nVersion: 2.32.3\n\nVersion: in the text\n",
            {"python": {"requests": "2.32.3"}},
        ),
        ("node_modules/pad/package.json", '{"name": "pad", "version": "1.3.0"}', {"npm": {"pad": "1.3.0"}}),
        ("app/node_modules/odd/package.json", "{not json", {}),
        ("app/node_modules/odd/package.json", '["a list"]', {}),
        ("app/node_modules/odd/package.json", '{"name": 1, "version": null}', {}),
        ("var/lib/dpkg/status", "no fields at all\n\n:\n", {}),
    ],
)  # fmt: skip
def test_lists_are_read(path: str, content: str, expected: dict[str, dict[str, str]]) -> None:
    assert found(path, content) == expected


@pytest.mark.parametrize(
    ("path", "is_list"),
    [
        ("node_modules/a/package.json", True),
        ("node_modules/@scope/a/package.json", True),
        ("node_modules/@scope/package.json", False),
        ("node_modules/a/test/package.json", False),
        ("app/package.json", False),
        ("var/lib/dpkg/status-old", False),
        ("var/lib/dpkg/status.d/base.md5sums", False),
        ("etc/METADATA", False),
    ],
)
def test_what_is_a_list(path: str, is_list: bool) -> None:
    assert holds_packages(path) == is_list


def test_several_versions_of_one_package_are_joined() -> None:
    places = (("node_modules/a/package.json", b"2"), ("node_modules/b/node_modules/a/package.json", b"1"))
    files = {
        path: File(path, "file", 0o644, "0:0", 0, 0, data=b'{"name": "a", "version": "%s"}' % version)
        for path, version in places
    }
    assert packages_of(files) == {"npm": {"a": "1, 2"}}
