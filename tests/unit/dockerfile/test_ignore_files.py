"""Ignore files: reading, single paths, and walks."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagewright.dockerfile.ignore import Folder, Matcher, Pattern, patterns_from, read_patterns
from stagewright.errors import DockerfileError


def walk_excludes(matcher: Matcher, path: str) -> bool:
    *folders, name = path.split("/")
    folder = matcher.root()
    for each in folders:
        folder = folder.enter(each)
    return folder.excludes(name)


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("a", Pattern("a")),
        ("  a b  ", Pattern("a b")),
        ("a\r", Pattern("a")),
        ("!a", Pattern("a", True)),
        ("! a ", Pattern("a", True)),
        ("/a", Pattern("a")),
        ("//a//b/", Pattern("a/b")),
        ("!/a", Pattern("a", True)),
        ("./a/../b", Pattern("b")),
        ("../a", Pattern("../a")),
        ("/", Pattern("/")),
        (".", Pattern(".")),
        ("**/", Pattern("**")),
        (" # a", Pattern("# a")),
        ("\\#a", Pattern("\\#a")),
    ],
)
def test_reading(line: str, pattern: Pattern) -> None:
    assert read_patterns(line.encode()) == [pattern]


def test_comments_and_blank_lines_are_left_out() -> None:
    patterns = read_patterns(b"\xef\xbb\xbf# a\n\n  \t\nb\n#c\n\xff\n")
    assert [pattern.text for pattern in patterns] == ["b", "\udcff"]
    assert [pattern.location.start for pattern in patterns if pattern.location] == [4, 6]


@pytest.mark.parametrize("text", [b"a\n!\n", b"a\n! \n"])
def test_an_exception_of_nothing_is_refused(text: bytes) -> None:
    with pytest.raises(DockerfileError, match='illegal exclusion pattern: "!"') as caught:
        read_patterns(text)
    assert caught.value.location is not None and caught.value.location.start == 2
    with pytest.raises(DockerfileError, match="illegal exclusion pattern"):
        patterns_from(["!"])


@pytest.mark.parametrize("text", ["[", "a[", "[]", "[]a]", "[a-]", "[-a]", "a\\", "[a\\", "[^]", "!x/[a"])
def test_malformed_patterns_are_refused(text: str) -> None:
    with pytest.raises(DockerfileError, match="syntax error in pattern") as caught:
        Matcher(read_patterns(text.encode()))
    assert caught.value.location is not None


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        ("", "a", False),
        ("a", "a", True),
        ("a", "a/b/c", True),
        ("a", "b/a", False),
        ("a/b", "a", False),
        ("a/b", "a/b/c", True),
        ("*", "a", True),
        ("*", "a/b", True),
        ("*", ".a", True),
        ("*/b", "a/b", True),
        ("*/b", "a/c/b", False),
        ("a?", "ab", True),
        ("a?", "a", False),
        ("a?", "a/", False),
        ("*.o", "x.o", True),
        ("*.o", "a/x.o", False),
        ("a*c", "abc", True),
        ("a*c", "ab/c", False),
        ("a*b*c*d", "aXbXcXd", True),
        ("a*b*c*d", "aXcXbXd", False),
        ("[ab]c", "bc", True),
        ("[^ab]c", "bc", False),
        ("[^ab]c", "xc", True),
        ("[!a]c", "!c", True),
        ("[a-c]x", "bx", True),
        ("[a-c]x", "dx", False),
        ("[*]", "*", True),
        ("\\*", "*", True),
        ("\\*", "a", False),
        ("\\[a]", "[a]", True),
        ("a.c", "abc", False),
        ("a+(b)|{c}$^", "a+(b)|{c}$^", True),
        ("**", "a", True),
        ("**", "a/b/c", True),
        ("**/b", "b", True),
        ("**/b", "a/b", True),
        ("**/b", "a/x/b/y", True),
        ("**/b", "ab", False),
        ("**/*.o", "x.o", True),
        ("**/*.o", "a/b/x.o", True),
        ("a/**", "a", False),
        ("a/**", "a/b", True),
        ("a/**", "a/b/c", True),
        ("a/**/c", "a/c", True),
        ("a/**/c", "a/b/b/c", True),
        ("a/**/c", "a/b/d", False),
        ("a/**/b/**/c", "a/x/b/y/c", True),
        ("a/**/b/**/c", "a/b/c", True),
        ("**/**/c", "x/c", True),
        ("**/a/**", "x/a/y", True),
        ("**/a/**", "x/a", False),
        ("a**", "abc/d", True),
        ("a**", "a", True),
        ("a/b**", "a/bc", True),
        ("**a", "xa", True),
        ("**a", "x/ya", True),
        ("**a*", "xab", False),
        ("**a*", "x/ab", True),
        ("a**b", "ab", True),
        ("a**b", "ax/b", True),
        ("a**b", "axb", False),
        ("a*c**b", "acxcb", True),
        ("é?", "éa", True),
        # order
        ("*.md\n!README.md", "README.md", False),
        ("*.md\n!README.md", "x.md", True),
        ("!README.md\n*.md", "README.md", True),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True),
        ("*.md\n!README*.md\nREADME-secret.md", "README.md", False),
        ("a\n!a/b", "a/b/c", False),
        ("a\n!a/b", "a/c", True),
        ("a\n!a/b\na/b/c", "a/b/c/d", True),
        ("a\n!a", "a/b", False),
        ("**\n!**/*.py", "a/b/c.py", False),
        ("**\n!**/*.py", "a/b/c.pyc", True),
        ("*\n!src/**", "src/x/y", False),
        ("*\n!src/**", "src", True),
        (".git\nnode_modules\n!x", "x", False),
        (".", "a", False),
        ("/", "a", False),
        ("..", "a", False),
    ],
)
def test_matching(patterns: str, path: str, excluded: bool) -> None:
    matcher = Matcher(read_patterns(patterns.encode()))
    assert matcher.matches(path) == excluded
    assert walk_excludes(matcher, path) == excluded


def test_a_walk_does_not_ask_an_exception_about_what_is_not_excluded() -> None:
    matcher = Matcher(read_patterns(b"a/b\n!a"))
    assert walk_excludes(matcher, "a/b")
    assert not matcher.matches("a/b")


def enter(patterns: str, path: str) -> Folder:
    folder = Matcher(read_patterns(patterns.encode())).root()
    for name in path.split("/"):
        folder = folder.enter(name)
    return folder


@pytest.mark.parametrize(
    ("patterns", "path", "excluded", "hopeless"),
    [
        ("a", "b", False, False),
        ("a", "a", True, True),
        ("a\n!a/b", "a", True, False),
        ("a\n!a/b", "a/c", True, True),
        ("a\n!a/b/c", "a/b", True, False),
        ("a\n!b", "a", True, True),
        ("!a/b\na", "a", True, True),
        ("a\n!**/x", "a", True, False),
        ("a\n!**/x", "a/b/c", True, False),
        ("a\n!*/x", "a", True, False),
        ("a\n!*/x", "a/b", True, True),
        ("a\n!a/*/c", "a/b", True, False),
        ("a\n!a/*/c", "a/b/d", True, True),
        ("*\n!b*/x", "a", True, True),
        ("*\n!b*/x", "bc", True, False),
        ("a\n!a**x", "a", True, False),
        ("a\n!a/b**x", "a/c", True, True),
        ("a\n!a/b\na/b/c", "a/b", False, False),
        ("a\n!a/b\na/b/c", "a/b/c", True, True),
        ("**\n!src", "src", False, False),
        ("**\n!src", "lib", True, True),
    ],
)
def test_folders(patterns: str, path: str, excluded: bool, hopeless: bool) -> None:
    folder = enter(patterns, path)
    assert (folder.excluded, folder.hopeless) == (excluded, hopeless)


# --- properties: against the rules written down plainly


def regex(pattern: str) -> str:
    out = ""
    at = 0
    while at < len(pattern):
        if pattern.startswith("**", at):
            at += 2
            at += pattern.startswith("/", at)
            out += "(.*/)?" if at < len(pattern) else ".*"
            continue
        char = pattern[at]
        out += {"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char))
        at += 1
    return out


def plain_match(pattern: str, path: str) -> bool:
    if pattern.startswith("**") and not pattern.startswith("**/") and not set("*?") & set(pattern[2:]):
        return path.endswith(pattern[2:])
    return re.fullmatch(regex(pattern), path) is not None


def plain_walk(patterns: list[Pattern], path: str) -> bool:
    recorded = [False] * len(patterns)
    names = path.split("/")
    excluded = False
    for length in range(1, len(names) + 1):
        here = "/".join(names[:length])
        excluded = False
        for number, pattern in enumerate(patterns):
            if not recorded[number]:
                if pattern.exception != excluded:
                    continue
                recorded[number] = plain_match(pattern.text, here)
            if recorded[number]:
                excluded = not pattern.exception
    return excluded


def plain_single(patterns: list[Pattern], path: str) -> bool:
    names = path.split("/")
    excluded = False
    for pattern in patterns:
        if pattern.exception == excluded and any(
            plain_match(pattern.text, "/".join(names[:length])) for length in range(1, len(names) + 1)
        ):
            excluded = not pattern.exception
    return excluded


component = st.text(alphabet="ab*?", min_size=1, max_size=4)
lines = st.lists(
    st.builds(
        lambda bang, parts: bang + "/".join(parts),
        st.sampled_from(["", "!"]),
        st.lists(component, min_size=1, max_size=4),
    ),
    max_size=5,
)
paths = st.lists(st.text(alphabet="abc", min_size=1, max_size=3), min_size=1, max_size=5).map("/".join)


@settings(max_examples=500, deadline=None)
@given(lines, paths)
def test_matching_agrees_with_the_plain_rules(written: list[str], path: str) -> None:
    patterns = patterns_from(written)
    matcher = Matcher(patterns)
    assert walk_excludes(matcher, path) == plain_walk(patterns, path)
    assert matcher.matches(path) == plain_single(patterns, path)


@settings(max_examples=300, deadline=None)
@given(lines, paths)
def test_nothing_is_brought_back_below_hopeless_folders(written: list[str], path: str) -> None:
    patterns = patterns_from(written)
    folder = Matcher(patterns).root()
    hopeless = False
    for name in path.split("/"):
        assert not hopeless or folder.excludes(name)
        folder = folder.enter(name)
        hopeless = hopeless or folder.hopeless


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        matcher = Matcher(read_patterns(data))
    except DockerfileError as error:
        assert error.location is not None
    else:
        matcher.matches("a/b\udcff/c")


@pytest.mark.parametrize(
    "pattern",
    [
        piece * 60 + end
        for piece, end in (("*a", "b"), ("**/a/", "b"), ("a**", "b"), ("[^b]*", "x"), ("*a**", "x"), ("?*", "b/b"))
    ],
)
def test_hostile_patterns_take_no_longer_than_others(pattern: str) -> None:
    matcher = Matcher(read_patterns(pattern.encode()))
    assert not matcher.matches("a" * 200)
    assert not matcher.matches("a/" * 100 + "c")
    assert not matcher.matches("aaaa/" * 60 + "c")
