"""Image references: Docker's grammar of names, tags and digests, and their short and full forms."""

from __future__ import annotations

from stagewright.errors import UsageError
from stagewright.image.digest import is_digest
from stagewright.patterns import pattern
from stagewright.records import dataclass, replace
from stagewright.redaction import redact_host

DEFAULT_DOMAIN = "docker.io"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_DEFAULT_TAG = "latest"
_MAX_NAME = 255

_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = pattern(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = pattern(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = pattern(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IDENTIFIER = pattern("[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A name in full: registry domain (with its port), repository path, and a tag, a digest or both."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @staticmethod
    def parse(text: str) -> Reference:
        """Parse a reference as a user writes it: `python:3.13-slim` is `docker.io/library/python:3.13-slim`.

        Without tag and digest the tag is `latest`. Raises UsageError for what Docker refuses, in Docker's words.
        """
        if _IDENTIFIER.fullmatch(text):
            raise UsageError(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
        domain, remainder = _split_domain(text)
        named, at, digest = remainder.partition("@")
        path, colon, tag = named.partition(":")
        if path != path.lower():
            raise UsageError(f"invalid reference format: repository name ({path}) must be lowercase")
        if not _DOMAIN.fullmatch(domain) or not _PATH.fullmatch(path):
            # Before the first slash an `@` is that of a login, after it that of a digest.
            shown = redact_host(text) if "@" in domain or "://" in text else text
            raise UsageError(f'invalid reference format: "{shown}" is not a valid repository name')
        if colon and not _TAG.fullmatch(tag):
            raise UsageError(f'invalid reference format: "{tag}" is not a valid tag')
        if at and not is_digest(digest):
            raise UsageError(f'invalid reference format: "{digest}" is not a valid digest')
        if len(domain) + 1 + len(path) > _MAX_NAME:
            raise UsageError(f"repository name must not be more than {_MAX_NAME} characters")
        if not colon and not at:
            tag = _DEFAULT_TAG
        return Reference(domain, path, tag or None, digest or None)

    @property
    def name(self) -> str:
        """Domain and path: `docker.io/library/python`."""
        return f"{self.domain}/{self.path}"

    @property
    def object(self) -> str:
        """What to ask the registry for: the digest where there is one, else the tag."""
        return self.digest or self.tag or _DEFAULT_TAG

    def __str__(self) -> str:
        return self.name + self._suffix()

    def familiar(self) -> str:
        """The short form that Docker shows: `python:3.13-slim`. It means the same when it is parsed."""
        name = self.name
        # Without its domain, `docker.io/a.b/c` would be a name of the registry a.b.
        if self.domain == DEFAULT_DOMAIN and not _is_domain(self.path.partition("/")[0]):
            rest = self.path.removeprefix(_OFFICIAL)
            name = self.path if "/" in rest else rest
        return name + self._suffix()

    def with_digest(self, digest: str) -> Reference:
        """The same name, pinned to `digest`."""
        return replace(self, digest=digest)

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def _is_domain(first: str) -> bool:
    """Whether the first component of a name with slashes is its registry."""
    return first == "localhost" or any(char in first for char in ".:") or first != first.lower()


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not slash or not _is_domain(first):
        domain, rest = DEFAULT_DOMAIN, text
    else:
        domain = DEFAULT_DOMAIN if first == _LEGACY_DOMAIN else first
    if domain == DEFAULT_DOMAIN and "/" not in rest.partition("@")[0]:
        rest = _OFFICIAL + rest
    return domain, rest
