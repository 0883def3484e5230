"""Names and addresses that a user or a registry gives: image references, platforms, URLs, challenges."""

from __future__ import annotations

from stagewright.errors import RegistryError, StagewrightError
from stagewright.image.platform import parse_platform
from stagewright.registry.auth import parse_challenges
from stagewright.registry.connection import Headers
from stagewright.registry.http import join_url, split_url
from stagewright.registry.proxy import proxy_for
from stagewright.registry.reference import Reference

TOKENS = (
    b"docker.io/", b"index.docker.io/", b"localhost:5000/", b"library/", b":latest", b"@sha256:", b"a" * 64,
    b"[::1]:80/", b"https://", b"http://", b"//", b"user:pass@", b"..", b"%2e", b"?", b"#", b"linux/arm/v7",
    b"linux(5.1)/amd64", b"Bearer ", b"Basic ", b'realm="', b'",service="', b",scope=", b"\\", b"\r\n", b"\xff",
)  # fmt: skip


def check(data: bytes) -> None:
    """Fails where a name that was accepted is not the same when it is read again, and for any foreign error."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        reference = Reference.parse(text)
    except StagewrightError:
        pass
    else:
        assert Reference.parse(str(reference)) == reference
        assert Reference.parse(reference.familiar()) == reference
        assert ".." not in reference.path.split("/") and not reference.path.startswith("/")
    try:
        platform = parse_platform(text)
    except StagewrightError:
        pass
    else:
        assert parse_platform(str(platform)) == platform
    # Headers are read as Latin-1.
    parse_challenges(Headers(("WWW-Authenticate", data.decode("latin-1"))))
    _check_url(text)


def _check_url(text: str) -> None:
    try:
        origin, target = split_url(join_url("https://registry.example.com/v2/", text))
        assert origin.scheme in ("http", "https") and origin.host and 0 <= origin.port < 1 << 16
        assert target.startswith("/") and not set(target) & set("\r\n ")
        proxy_for(origin.scheme, origin.host, origin.port, {"https_proxy": text, "no_proxy": text})
    except RegistryError:
        pass
    except StagewrightError:
        # A proxy's URL is the user's, and has an error of its own.
        pass
