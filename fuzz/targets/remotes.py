"""Names of repositories and URLs: what git may be told, what is hidden of them, and text that steers no terminal."""

from __future__ import annotations

from stagewright.dockerfile.giturl import parse_git_ref
from stagewright.errors import DockerfileError
from stagewright.harmless import clean_block, clean_line
from stagewright.redaction import credentials_in, redact_host, redact_text, redact_url

TOKENS = (
    b"https://", b"http://", b"ssh://", b"git://", b"git@", b"github.com/", b"file://", b"ext::", b".git", b"#", b":",
    b"?ref=", b"?tag=", b"&branch=", b"&subdir=", b"&commit=", b"&checksum=", b"&keep-git-dir=", b"&submodules=",
    b"user:pass@", b"-u", b"--upload-pack=", b"@{", b"..", b"%2e%2e", b"%00", b"/", b"\\", b"refs/heads/", b"a" * 40,
    b"&token=abcdefgh", b"docker-image://", b"\x1b[31m", b"\x1b]0;", b"\x07", b"\xc2\x9b", b"\xe2\x80\xae", b"\xff",
)  # fmt: skip


def check(data: bytes) -> None:
    """Fails where git could take a part for an option, and where a control character is left."""
    text = data.decode("utf-8", "surrogateescape")
    for bare_hosts in (False, True):
        try:
            ref = parse_git_ref(text, bare_hosts=bare_hosts)
        except DockerfileError as error:
            error.render().encode()
            continue
        if ref is not None:
            assert not ref.remote.startswith("-") and not ref.ref.startswith("-")
            assert not set(ref.remote + ref.ref) & set("\0\n\r ")
            assert ".." not in ref.subdir.split("/")
    redact_url(text)
    redact_host(text)
    redact_text(text)
    for password in credentials_in(text):
        assert password
    for keep_colours in (False, True):
        line = clean_line(text, keep_colours=keep_colours)
        line.encode()
        assert clean_line(line, keep_colours=keep_colours) == line
        assert keep_colours or not any(char < " " and char not in "\t" for char in line)
        clean_block(text, keep_colours=keep_colours).encode()
