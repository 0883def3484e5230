"""The one hierarchy of errors that a user may see. Below every floor: any room may raise and import these."""

from __future__ import annotations

import errno
import os
from typing import Any

from stagewright.harmless import clean_block, clean_name
from stagewright.records import dataclass, field
from stagewright.redaction import redact_text

# How the system says that there is no room for more.
_NO_ROOM = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT))
_MAKE_ROOM = "make room on that disk; stagewright du says what the store takes, prune --all frees it"
# No terminal shows more of an instruction that goes on for a million lines.
_MOST_ROWS = 40


@dataclass(frozen=True, slots=True)
class SourceText:
    """A source file that error messages can quote: its display name and its whole text."""

    filename: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SourceRange:
    """Lines of a source file, 1-based, both ends included."""

    source: SourceText
    start: int
    end: int

    def excerpt(self, around: int = 2) -> str:
        """The lines with `around` neighbours on each side; the lines of the range are marked with `>>>`.

        Credentials in URLs are masked.
        """
        lines = self.source.text.split("\n")
        if lines and lines[-1] == "":
            lines.pop()
        first = max(1, self.start - around)
        last = min(len(lines), self.end + around)
        width = len(str(last))

        def row(number: int) -> str:
            mark = ">>>" if self.start <= number <= self.end else "   "
            return f"{number:>{width}} | {mark} {redact_text(lines[number - 1].rstrip(chr(13)))}".rstrip()

        shown, half = range(first, last + 1), _MOST_ROWS // 2
        if len(shown) <= _MOST_ROWS:
            return "\n".join(map(row, shown))
        left_out = f"{'...':>{width}} | {len(shown) - 2 * half} more lines"
        return "\n".join([*map(row, shown[:half]), left_out, *map(row, shown[-half:])])


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def system_reason(error: OSError) -> str:
    """Why the system refused something, behind the path that it was about where there was one."""
    path = error.filename
    reason = error.strerror or str(error)
    return f"{os.fsdecode(path)}: {reason}" if isinstance(path, str | bytes) else reason


class StagewrightError(Exception):
    """Base of all errors that are shown to a user: one message, where it came from, and what to do.

    `message` is one sentence without a full stop. `hint` says what to do about it, where there is something. Names that
    are not UTF-8 can be part of both: what no encoding knows is replaced.
    """

    def __init__(self, message: str, *, location: SourceRange | None = None, hint: str | None = None) -> None:
        self.message = _encodable(message)
        self.location = location
        if hint is None and message.endswith(_NO_ROOM):
            hint = _MAKE_ROOM
        self.hint = hint and _encodable(hint)
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors travel between processes; the inherited way calls the class with the message alone.
        return _restore, (type(self), self.args, self.__dict__)

    def put_before(self, what: str) -> None:
        """Let the message begin with what it is about."""
        self.message = f"{_encodable(what)}: {self.message}"
        self.args = (self.message,)

    def render(self) -> str:
        """The whole text for a terminal: place, message, hint and the lines of the source, without escape sequences."""
        message = clean_block(self.message)
        if self.location is not None:
            message = f"{clean_name(self.location.source.filename)}:{self.location.start}: {message}"
        parts = [message]
        if self.hint:
            parts.append(f"hint: {clean_block(self.hint)}")
        if self.location is not None:
            parts += ["-" * 20, clean_block(self.location.excerpt()), "-" * 20]
        return "\n".join(parts)


def _restore(kind: type[StagewrightError], args: tuple[Any, ...], values: dict[str, Any]) -> StagewrightError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(values)
    return error


class UsageError(StagewrightError):
    """The command line, the configuration or the arguments of an API call are wrong."""


class DockerfileError(StagewrightError):
    """The Dockerfile is wrong, or uses what this builder cannot run."""


class NotFoundError(StagewrightError):
    """Something that was named does not exist: a file, an image, a blob, a stage."""


class RegistryError(StagewrightError):
    """A registry refused, could not be reached, or sent what it must not."""


class LostLayerError(StagewrightError):
    """A layer that an imported cache has named can't be fetched from it: the build must do without that cache."""


class IntegrityError(StagewrightError):
    """Bytes are not what their digest or format says they are."""


class SandboxError(StagewrightError):
    """A step could not be started, or this machine lacks something that it needs."""


class PrivilegeNeededError(SandboxError):
    """What was asked for takes root, or a user namespace of which this process is root."""

    def __init__(self, message: str = "this takes root or a user namespace", *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)


class StoreError(StagewrightError):
    """The state directory cannot be used: permissions, version, damage or space."""


class DamagedMetadataError(StoreError):
    """The metadata file of the state directory is not what was written to it; `file` is which one that was (device and
    inode), since another process may put a new one in its place."""

    def __init__(self, message: str, *, file: tuple[int, int], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.file = file


class LostSnapshotError(StoreError):
    """The folder of a snapshot is missing, or was missed by another build, which has forgotten the snapshot."""


class DamagedBlobError(IntegrityError):
    """A blob of the state directory is not what its digest says any more; it has been removed."""


class LostBlobError(NotFoundError):
    """A blob is not in the state directory, perhaps since another build has just found it damaged."""


# What a build that meets one of these does without: it runs once more (see `recovery`).
LOST = (DamagedBlobError, DamagedMetadataError, LostBlobError, LostLayerError, LostSnapshotError)


class CanceledError(StagewrightError):
    """The build was stopped before its end."""

    def __init__(self, message: str = "build canceled") -> None:
        super().__init__(message)


class StepFailedError(StagewrightError):
    """A RUN step's process ended with a status other than 0."""

    def __init__(
        self,
        message: str,
        *,
        exit_code: int,
        step: str,
        stage: str | None = None,
        log_tail: str = "",
        location: SourceRange | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, location=location, hint=hint)
        self.exit_code = exit_code
        self.step = step
        self.stage = stage
        self.log_tail = log_tail


class SecretLeakError(StagewrightError):
    """The value of a secret is where it would leave the build.

    `secret` is its ID, `places` the paths of files and the parts of the image that hold it, `step` the step that put
    it there where that is known.
    """

    def __init__(
        self,
        message: str,
        *,
        secret: str,
        places: tuple[str, ...],
        step: str = "",
        location: SourceRange | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, location=location, hint=hint)
        self.secret = secret
        self.places = places
        self.step = step
