"""Turns what USER and --chown take into numbers, by an image's own passwd and group files.

The rules are those of runc and BuildKit: a number is always an ID and never a name, a user needs no entry if it is a
number, and supplementary groups are those that list the user's name, unless a group is asked for. A user's own group is
one of them, too.
"""

from __future__ import annotations

import io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_ID = (1 << 31) - 1
_ROOT = "root"

User = tuple[int, int, tuple[int, ...], str]
"""UID, GID, supplementary GIDs, home directory."""


def resolve_user(spec: str, passwd_text: str, group_text: str) -> User:
    """Who runs a process, for a spec as in `USER name`, `1000`, `name:group`, `1000:1000`, `:group` or "" (root).

    Raises SandboxError where a name has no entry or a number is out of range.
    """
    user, _, group = spec.partition(":")
    user = user or "0"
    number = _number(user)
    name, uid, gid, home = "", number, 0, "/"
    for row in _rows(passwd_text, 7):
        row_uid, row_gid = _number(row[2]), _number(row[3])
        if row_uid is None or row_gid is None:
            continue
        if row_uid == number if number is not None else row[0] == user:
            name, uid, gid, home = row[0], row_uid, row_gid, row[5] or "/"
            break
    if uid is None:
        raise _lookup_error(f"unable to find user {user}: no matching entries in passwd file")
    groups: list[int] = []
    if group:
        gid = _group_id(group, group_text)
    else:
        for row in _rows(group_text, 4):
            row_gid = _number(row[2])
            if row_gid is not None and name and name in row[3].split(","):
                groups.append(_checked(row_gid))
    if gid not in groups:
        groups.insert(0, gid)
    return _checked(uid), _checked(gid), tuple(groups), home


def resolve_owner(spec: str, passwd_text: str, group_text: str) -> tuple[int, int]:
    """The (UID, GID) of files copied with `--chown=spec`, or of a folder that WORKDIR makes for a user.

    Without a group, a name brings its own primary group and a number is the GID as well. As in BuildKit, `root` is 0
    whatever the files say, a user without an entry counts as root, and a group without one is as good as none. Raises
    SandboxError where a number is out of range.
    """
    user, _, group = spec.partition(":")
    number = _owner_number(user)
    uid = gid = number or 0
    if number is None:
        for row in _rows(passwd_text, 7):
            row_uid, row_gid = _number(row[2]), _number(row[3])
            if row[0] == user and row_uid is not None and row_gid is not None:
                uid, gid = row_uid, row_gid
                break
    named = None
    if group:
        named = 0 if group == _ROOT else _find_group(group, group_text)
    return _checked(uid), _checked(gid if named is None else named)


def needs_files(spec: str) -> bool:
    """Whether an owner is named in a way that only passwd and group files can explain."""
    return any(part and _owner_number(part) is None for part in spec.split(":", 1))


def _owner_number(text: str) -> int | None:
    return 0 if text == _ROOT else _number(text)


def _group_id(group: str, group_text: str) -> int:
    gid = _find_group(group, group_text)
    if gid is None:
        raise _lookup_error(f"unable to find group {group}: no matching entries in group file")
    return _checked(gid)


def _find_group(group: str, group_text: str) -> int | None:
    number = _number(group)
    if number is not None:
        return number
    gids = (_number(row[2]) for row in _rows(group_text, 4) if row[0] == group)
    return next((gid for gid in gids if gid is not None), None)


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    """The colon-separated lines of a passwd or group file, one at a time; missing columns are empty."""
    for line in io.StringIO(text, newline="\n"):
        line = line.strip()
        if line and not line.startswith("#"):
            row = line.split(":")
            yield row + [""] * (columns - len(row))


def _number(text: str) -> int | None:
    digits = text[1:] if text[:1] in ("-", "+") else text
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None


def _checked(number: int) -> int:
    if not 0 <= number <= _MAX_ID:
        raise _lookup_error(f"uids and gids must be in range 0-{_MAX_ID}, not {number}")
    return number


def _lookup_error(message: str) -> Exception:
    # Late, since the launcher imports this module and its start-up time counts.
    from stagewright.errors import SandboxError

    return SandboxError(message)
