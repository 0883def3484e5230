"""resolv.conf in other networks than the host's."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagewright.sandbox import resolver

MIXED = "# nameserver 127.0.0.1\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 10.0.0.1\nsearch x\n"


def test_the_hosts_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(MIXED)
    monkeypatch.setattr(resolver, "_HOST_RESOLV_CONF", str(file))
    assert resolver.host_resolver() == MIXED
    file.unlink()
    assert resolver.host_resolver() == ""


def test_what_only_answers_on_the_host_is_left_out() -> None:
    assert resolver.reachable(MIXED) == "# nameserver 127.0.0.1\nnameserver 10.0.0.1\nsearch x\n"


def test_a_forwarder_stands_for_the_first_of_them() -> None:
    forwarded = resolver.reachable(MIXED, "10.9.9.3")
    assert forwarded == "# nameserver 127.0.0.1\nnameserver 10.9.9.3\nnameserver 10.0.0.1\nsearch x\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MIXED, "127.0.0.53"),
        ("nameserver ::1\nnameserver 127.0.0.1\n", "::1"),
        ("nameserver fe80::1%eth0\n", "fe80::1%eth0"),
        ("nameserver 10.0.0.1\nnameserver 127.0.0.1\n", None),
        ("nameserver\nnameserver nonsense\nnameservers 127.0.0.1\noptions edns0\n", None),
        ("", None),
    ],
)
def test_whether_the_first_name_server_is_the_hosts_own(text: str, expected: str | None) -> None:
    found = resolver.local_nameserver(text)
    assert (found and str(found)) == expected
