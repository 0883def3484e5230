"""Credentials taken out of URLs, before a URL comes to a message, a log, a record, a label or a database.

A URL (RFC 3986) holds credentials in its user information, and in the query of one that was signed for its bearer.
"""

from __future__ import annotations

import re

from stagewright.patterns import pattern

MASK = "***"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
_URL = pattern(rf"({_SCHEME}://)(.*)", re.DOTALL)
_URL_IN_TEXT = pattern(rf"{_SCHEME}://[^\s\"'`<>]+")
# What follows a name and a port, or what cannot be a port: a password with characters that ought to be encoded.
_UNENCODED = pattern(r"(?!\[)[^/?#@]*:(?!\d*(?:[/?#]|$))[^@]*@(?=[^@]*$)")
# With these a name alone says who logs in, as in ssh://git@host; with others it may be a token.
_NAMED_LOGINS = frozenset({"ssh://", "git+ssh://", "ssh+git://", "sftp://", "git://"})
# Names of images, in which an `@` comes before a digest.
_IMAGES = frozenset({"docker-image://", "oci-layout://"})
_MIN_TOKEN = 16
_SECRET_PARAMETERS = pattern(
    r"(?i)([?&;](?:[\w.-]*(?:token|signature|secret|password|passwd|credential|api[_-]?key|access[_-]?key(?:[_-]?id)?)"
    r"|sig|pass|pwd|auth|authorization|key|code|jwt)=)[^&;#\s]+"
)


def redact_url(url: str) -> str:
    """The URL with `***` for its user information and for the values of query parameters that carry credentials.

    A user name without a password stays where it only says who logs in (`ssh://git@host`). What is no URL, such as
    `git@host:path` or a path, comes back as it is.
    """
    found = _URL.match(url)
    if found is None:
        return url
    scheme, rest = found.groups()
    if scheme.lower() in _IMAGES:
        return url
    end = min((at for mark in "/?#" if (at := rest.find(mark)) >= 0), default=len(rest))
    login, at_sign, host = rest[:end].rpartition("@")
    if at_sign:
        if ":" in login or scheme.lower() not in _NAMED_LOGINS:
            login = MASK
        rest = f"{login}@{host}{rest[end:]}"
    elif unencoded := _UNENCODED.match(rest):
        rest = f"{MASK}@{rest[unencoded.end() :]}"
    return scheme + _SECRET_PARAMETERS.sub(rf"\g<1>{MASK}", rest)


def without_login(url: str) -> str:
    """The URL without its user information."""
    scheme, separator, rest = url.partition("://")
    end = min((at for mark in "/?#" if (at := rest.find(mark)) >= 0), default=len(rest))
    return scheme + separator + rest[:end].rpartition("@")[2] + rest[end:] if separator else url


def redact_host(text: str) -> str:
    """As `redact_url`, for `HOST[:PORT][/PATH]` with a scheme or without, in which there must be no credentials."""
    return redact_url(text) if "://" in text else redact_url(f"https://{text}").removeprefix("https://")


def redact_text(text: str) -> str:
    """A text in which `redact_url` was done to each URL: for what other programs and servers say."""
    return _URL_IN_TEXT.sub(lambda url: redact_url(url.group()), text) if "://" in text else text


def credentials_in(url: str) -> list[str]:
    """What a URL's user information keeps from others, as it is written there and as it is meant.

    That is the password, and a user name so long that it is more likely a token.
    """
    if "@" not in url or redact_url(url) == url:
        return []
    from urllib.parse import unquote

    login = url.partition("://")[2].rpartition("@")[0]
    name, _, password = login.partition(":")
    written = [text for text in (password, name if len(name) >= _MIN_TOKEN else "") if text]
    return list(dict.fromkeys([*written, *map(unquote, written)]))
