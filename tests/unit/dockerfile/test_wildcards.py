"""filepath.Match, and splitting sources at their first wildcard."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagewright.dockerfile.wildcard import SourcePattern, has_wildcards, match
from stagewright.errors import DockerfileError


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("", "", True),
        ("abc", "abc", True),
        ("abc", "abcd", False),
        ("*", "abc", True),
        ("*", "", True),
        ("*", "a/b", False),
        ("*c", "abc", True),
        ("a*", "a", True),
        ("a*", "ab/c", False),
        ("*c", "a/c", False),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^c]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("a\\*b", "a*b", True),
        ("a\\*b", "ab", False),
        ("a?b", "aéb", True),
        ("a???b", "aéb", False),
        ("a?b", "a/b", False),
        ("a*b", "a/b", False),
        ("a[^a]b", "a/b", True),
        ("[\\]a]", "]", True),
        ("[\\-]", "-", True),
        ("[x\\-]", "-", True),
        ("[x\\-]", "z", False),
        ("[z-a]", "b", False),
        ("[^z-a]", "b", True),
        ("**", "ab", True),
        ("*x", "xxx", True),
        ("a.b", "axb", False),
        ("a\nb*", "a\nbc", True),
        ("*b", "a\nb", True),
    ],
)
def test_match(pattern: str, name: str, matches: bool) -> None:
    assert match(pattern, name) == matches


@pytest.mark.parametrize(
    "pattern", ["[", "[]", "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[^", "[^bc", "a[", "\\", "x\\", "[a\\"]
)
def test_malformed_patterns(pattern: str) -> None:
    with pytest.raises(DockerfileError, match="syntax error in pattern"):
        match(pattern, "zzz")


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("a", False),
        ("a*", True),
        ("a?", True),
        ("a[", True),
        ("a]", False),
        ("a\\*", False),
        ("a\\\\*", True),
        ("\\", False),
    ],
)
def test_has_wildcards(name: str, answer: bool) -> None:
    assert has_wildcards(name) == answer


@pytest.mark.parametrize(
    ("source", "folder", "pattern"),
    [
        ("a/b", "a/b", ""),
        ("/", "", ""),
        (".", "", ""),
        ("../../a", "a", ""),
        ("a/b*", "a", "b*"),
        ("*", "", "*"),
        ("/a/./b/../c?/d", "a", "c?/d"),
        ("a/*/c", "a", "*/c"),
    ],
)
def test_source_patterns(source: str, folder: str, pattern: str) -> None:
    found = SourcePattern(source)
    assert (found.folder, found.pattern) == (folder, pattern)


def test_source_patterns_say_where_to_look() -> None:
    found = SourcePattern("x/a*/b?/c")
    assert found.matches("ab/bc/c") and not found.matches("ab/bc")
    assert found.may_match_below("ab") and found.may_match_below("ab/bc")
    assert not found.may_match_below("b") and not found.may_match_below("ab/c")
    assert not found.may_match_below("ab/bc/c")
    assert SourcePattern("[^x]*").may_match_below("a/b/c/d")


@settings(deadline=None)
@given(st.text(alphabet="ab*?/", max_size=8), st.text(alphabet="ab/", max_size=8))
def test_matching_agrees_with_regular_expressions(pattern: str, name: str) -> None:
    regex = "".join({"*": "[^/]*", "?": "[^/]"}.get(char, char) for char in pattern)
    assert match(pattern, name) == (re.fullmatch(regex, name) is not None)


def test_hostile_patterns_take_no_longer_than_others() -> None:
    assert not match("*a" * 100 + "b", "a" * 4000)
    assert not match("*?" * 100 + "b", "a" * 4000)
