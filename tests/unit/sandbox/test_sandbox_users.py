"""Who USER and --chown name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.errors import SandboxError
from stagewright.sandbox.users import needs_files, resolve_owner, resolve_user

PASSWD = """# comment
root:x:0:0:root:/root:/bin/sh

bob:x:1000:1001:Bob:/home/bob:/bin/sh
12:x:77:78::/twelve:
staffer:x:7:50::/:
bad:x:y:z::/:
"""
GROUP = "root:x:0:\nbob:x:1001:\nstaff:x:50:alice,bob,staffer\nwheel:x:10:root,bob,staffer\n34:x:99:\nbad:x:q:bob\n"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", (0, 0, (0, 10), "/root")),
        ("root", (0, 0, (0, 10), "/root")),
        ("bob", (1000, 1001, (1001, 50, 10), "/home/bob")),
        ("1000", (1000, 1001, (1001, 50, 10), "/home/bob")),
        ("bob:", (1000, 1001, (1001, 50, 10), "/home/bob")),
        ("bob:staff", (1000, 50, (50,), "/home/bob")),
        ("bob:0", (1000, 0, (0,), "/home/bob")),
        ("5", (5, 0, (0,), "/")),
        ("5:6", (5, 6, (6,), "/")),
        ("5:staff", (5, 50, (50,), "/")),
        (":staff", (0, 50, (50,), "/root")),
        (":7", (0, 7, (7,), "/root")),
        ("1000:", (1000, 1001, (1001, 50, 10), "/home/bob")),
        ("staffer", (7, 50, (50, 10), "/")),
    ],
)
def test_users(spec: str, expected: object) -> None:
    assert resolve_user(spec, PASSWD, GROUP) == expected


def test_a_number_is_never_a_name() -> None:
    assert resolve_user("12", PASSWD, GROUP)[:2] == (12, 0)
    assert resolve_user("12:34", PASSWD, GROUP)[:2] == (12, 34)


def test_without_files_root_and_numbers_are_known() -> None:
    assert resolve_user("", "", "") == (0, 0, (0,), "/")
    assert resolve_user("1000:1000", "", "") == (1000, 1000, (1000,), "/")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("eve", "unable to find user eve: no matching entries in passwd file"),
        ("bad", "unable to find user bad"),
        ("bob:eve", "unable to find group eve: no matching entries in group file"),
        ("-1", "must be in range"),
        ("2147483648", "must be in range"),
        ("0:2147483648", "must be in range"),
        ("²", "unable to find user"),
    ],
)
def test_what_is_refused(spec: str, message: str) -> None:
    with pytest.raises(SandboxError, match=message):
        resolve_user(spec, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("bob", (1000, 1001)),
        ("bob:staff", (1000, 50)),
        ("7", (7, 7)),
        ("1000", (1000, 1000)),
        ("7:8", (7, 8)),
        (":staff", (0, 50)),
        ("root:root", (0, 0)),
        ("nosuch", (0, 0)),
        ("nosuch:staff", (0, 50)),
        ("bob:nosuch", (1000, 1001)),
        ("7:nosuch", (7, 7)),
        ("7:root", (7, 0)),
    ],
)
def test_owners(spec: str, expected: tuple[int, int]) -> None:
    assert resolve_owner(spec, PASSWD, GROUP) == expected


def test_root_owns_as_0_whatever_the_files_say() -> None:
    passwd, group = "root:x:55:66:::\nbob:x:1:2:::\n", "root:x:77:\n"
    assert resolve_owner("root", passwd, group) == (0, 0)
    assert resolve_owner("bob:root", passwd, group) == (1, 0)


@pytest.mark.parametrize(
    ("spec", "needed"),
    [("bob", True), ("7:staff", True), (":staff", True), ("root:root", False), ("7:8", False), ("", False)],
)
def test_which_owners_only_files_explain(spec: str, needed: bool) -> None:
    assert needs_files(spec) is needed


@pytest.mark.parametrize("spec", ["-1", "2147483648", "root:2147483648"])
def test_owners_out_of_range(spec: str) -> None:
    with pytest.raises(SandboxError, match="must be in range"):
        resolve_owner(spec, PASSWD, GROUP)


@given(st.text(max_size=20), st.text(max_size=200), st.text(max_size=200))
def test_any_text_gives_numbers_in_range_or_our_error(spec: str, passwd: str, group: str) -> None:
    try:
        uid, gid, groups, _ = resolve_user(spec, passwd, group)
    except SandboxError:
        return
    assert all(0 <= number < 1 << 31 for number in (uid, gid, *groups))
