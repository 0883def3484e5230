"""The small languages inside of a Dockerfile and a command line: shell words, flags, lists, numbers, modes, ports."""

from __future__ import annotations

from collections.abc import Callable

from stagewright.dockerfile import arguments, golang
from stagewright.dockerfile.heredoc import heredocs_in
from stagewright.dockerfile.mounts import parse_mount
from stagewright.dockerfile.shell import Lexer
from stagewright.dockerfile.wildcard import match
from stagewright.errors import StagewrightError
from stagewright.frontend.ports import parse_ports
from stagewright.ops.chmod import apply_mode
from stagewright.sandbox.users import resolve_owner, resolve_user

TOKENS = (
    b"$A", b"${A}", b"${B:-", b"${A:+", b"${B?", b"${A#", b"${A##", b"${A%%", b"${A/", b"${A//", b"}", b"'", b'"',
    b"\\", b"`", b"*", b"?", b"$$", b"$0", b"<<E", b"<<-'E'", b"type=cache,target=/x", b"from=a", b"sharing=locked",
    b"uid=1,gid=2", b"1h30m", b"64m", b"1.5GiB", b"1-65535/udp", b"127.0.0.1:80:80", b"u+rwxXst,go=", b"0o", b"=",
    b",", b"[\"a\"]", b"root:staff", b"4294967296", b"\x85", b"\xe2\x80\xa8", b"\xff",
)  # fmt: skip

_ENV = {"A": "aa/b.c*\u00e9", "B": "", "HOME": "/root"}
_PASSWD = "root:x:0:0::/:/bin/sh\nuser:x:1:2::/home:\n::\nodd:x:y:z::"


def check(data: bytes) -> None:
    """Fails for anything but an error of our own, and where Go's parsers raise other than ValueError."""
    text = data.decode("utf-8", "surrogateescape")
    for lexer in (Lexer(), Lexer(escape="`"), Lexer(raw_quotes=True, raw_escapes=True, skip_unset=True)):
        try:
            expansion = lexer.expand(text, _ENV)
        except StagewrightError as error:
            error.render().encode()
            continue
        assert not any(not word for word in expansion.words)
    readers: tuple[Callable[[str], object], ...] = (
        lambda text: arguments.split_command(text, "\\"),
        lambda text: arguments.split_words(text, "\\"),
        lambda text: arguments.parse_pairs(text, "\\", "ENV"),
        arguments.parse_json,
        arguments.parse_healthcheck,
        heredocs_in,
        lambda text: parse_mount(text, lambda word: word),
        lambda text: parse_ports([text]),
        lambda text: apply_mode(text, 0o644, True),
        lambda text: resolve_user(text, _PASSWD, text),
        lambda text: resolve_owner(text, _PASSWD + text, "staff:x:50:"),
        lambda text: match(text, "a/b.c"),
    )
    for read in readers:
        try:
            read(text)
        except StagewrightError:
            continue
    for number in (golang.parse_duration, golang.ram_in_bytes, golang.parse_int, golang.split_csv, golang.parse_bool):
        try:
            number(text)
        except ValueError:
            continue
    golang.quote(text).encode("utf-8", "surrogatepass")
