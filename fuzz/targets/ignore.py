"""An ignore file, and behind a NUL byte the paths that it is asked about."""

from __future__ import annotations

import posixpath

from stagewright.dockerfile.ignore import Matcher, read_patterns
from stagewright.dockerfile.wildcard import SourcePattern
from stagewright.errors import DockerfileError

TOKENS = (
    b"**", b"**/", b"/**", b"*", b"?", b"[a-z]", b"[^/]", b"[", b"!", b"\\", b"a", b"/", b"..", b"#", b"\n", b"\0",
)  # fmt: skip

_PATHS = ("a", "a/b", "a/b/c", "b", "x/y/z/a.c", "a" * 200, "\u00e9/\udcff")


def check(data: bytes) -> None:
    """Fails where a walk and a question disagree on a path that no exception speaks of."""
    text, _, paths = data.partition(b"\0")
    try:
        patterns = read_patterns(text)
        matcher = Matcher(patterns)
    except DockerfileError as error:
        assert error.location is not None
        error.render().encode()
        return
    asked = [posixpath.normpath(path) for path in paths.decode("utf-8", "surrogateescape").split("\0")[:8]]
    for path in (*_PATHS, *asked):
        names = path.strip("/").split("/")
        folder = matcher.root()
        for name in names[:-1]:
            folder = folder.enter(name)
        walked = folder.excludes(names[-1])
        if not any(pattern.exception for pattern in patterns):
            assert walked == matcher.matches("/".join(names))
            assert walked or not folder.hopeless
    for pattern in patterns:
        source = SourcePattern(pattern.text)
        source.matches("a/b")
        source.may_match_below("a")
