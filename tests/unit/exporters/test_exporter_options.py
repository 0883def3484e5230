"""Exporters' options: what buildx spells is understood, everything else is refused by name before a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagewright.errors import UsageError
from stagewright.exporters.annotations import Annotations, sort_annotations
from stagewright.exporters.attrs import Attrs
from stagewright.exporters.export import make_exporter
from stagewright.image.platform import Platform

AMD64 = Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("kind", "dest", "attrs"),
    [
        ("image", None, {}),
        ("image", None, {"name": "a,b:1", "push": "true", "push-by-digest": "1", "registry.insecure": ""}),
        ("image", None, {"store": "false", "unpack": "true", "name-canonical": "t", "oci-mediatypes": "false"}),
        ("image", None, {"compression": "zstd", "compression-level": "19", "force-compression": "true"}),
        (
            "image",
            None,
            {"annotation.a.b": "c", "annotation-manifest[linux/amd64].d": "e", "rewrite-timestamp": "true"},
        ),
        ("docker", None, {}),
        ("docker", None, {"load": "true"}),
        ("docker", "FILE", {"name": "a"}),
        ("oci", "FILE", {"tar": "true"}),
        ("oci", "FOLDER", {"tar": "false"}),
        ("local", "FOLDER", {"platform-split": "true"}),
        ("tar", "FILE", {}),
        ("cacheonly", None, {}),
    ],
)
def test_known_options_are_taken(tmp_path: Path, kind: str, dest: str | None, attrs: dict[str, str]) -> None:
    make_exporter(kind, None if dest is None else str(tmp_path / dest), attrs)


@pytest.mark.parametrize(
    ("kind", "dest", "attrs", "message"),
    [
        ("nonsense", None, {}, 'unknown type "nonsense"'),
        ("image", None, {"nonsense": "1"}, 'option "nonsense"'),
        ("image", None, {"dangling-name-prefix": "x"}, 'option "dangling-name-prefix"'),
        ("local", "FOLDER", {"push": "true"}, 'option "push"'),
        ("cacheonly", None, {"name": "x"}, 'option "name"'),
        ("cacheonly", "FILE", {}, "--output type=cacheonly has no dest"),
        ("image", "FILE", {}, "--output type=image has no dest"),
        ("image", None, {"push": "yes"}, 'push="yes" is neither true nor false'),
        ("image", None, {"push": "true"}, "a name is needed when an image is pushed"),
        ("image", None, {"compression": "estargz"}, 'compression "estargz"'),
        ("image", None, {"compression-level": "best"}, "is not a number"),
        ("image", None, {"compression-level": "11"}, "compression level 11"),
        ("image", None, {"name": "UPPER"}, "must be lowercase"),
        (
            "image",
            None,
            {"name": "a@sha256:" + "0" * 64},
            f"cannot name an image a@sha256:{'0' * 64}: its digest is not known before the build",
        ),
        ("docker", "FOLDER", {"tar": "false"}, "--output type=docker: tar=false is not supported"),
        ("docker", "FILE", {"load": "true"}, "--output type=docker: an image is loaded or written to dest, not both"),
        ("oci", "FILE", {"load": "true"}, 'option "load"'),
        ("oci", None, {"tar": "false"}, "--output: tar=false needs dest=FOLDER"),
        ("oci", ".", {}, "is a folder"),
        ("local", None, {}, "--output type=local needs dest=FOLDER"),
    ],
)
def test_the_rest_is_refused_by_name(
    tmp_path: Path, kind: str, dest: str | None, attrs: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_exporter(kind, None if dest is None else str(tmp_path / dest), attrs)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(UsageError, match=f"--output type=local: the destination {tmp_path}/f is not a folder"):
        make_exporter("local", str(tmp_path / "f"), {})


def test_tags_take_the_place_of_names() -> None:
    with pytest.raises(UsageError, match="lowercase"):
        make_exporter("image", None, {"name": "fine"}, ["UPPER"])


@pytest.mark.parametrize(("text", "value"), [("", True), ("1", True), ("T", True), ("False", False), ("0", False)])
def test_booleans_are_those_of_go(text: str, value: bool) -> None:
    assert Attrs("image", {"x": text}).flag("x", not value) is value


def test_annotations_are_sorted_by_their_place() -> None:
    options = {
        "annotation.a": "1",
        "annotation-manifest.b.c": "2",
        "annotation-manifest[linux/amd64].d": "3",
        "annotation-manifest[linux/arm64].e": "4",
        "annotation-manifest-descriptor.f": "5",
    }
    flags = {"a": "flag", "g": "6", "manifest,manifest-descriptor:h": "7", "example.com:8080/i": "8"}
    assert sort_annotations(options, flags, AMD64) == Annotations(
        {"a": "1", "b.c": "2", "d": "3", "g": "6", "h": "7", "example.com:8080/i": "8"}, {"f": "5", "h": "7"}
    )


@pytest.mark.parametrize("key", ["index:a", "index-descriptor:a", "manifest,index:a"])
def test_one_image_has_no_index_to_annotate(key: str) -> None:
    with pytest.raises(UsageError, match='annotation "a": an image of a single platform has no index to be annotated'):
        sort_annotations({}, {key: "1"}, AMD64)
