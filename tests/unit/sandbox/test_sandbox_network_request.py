"""How the programs that make a network are started."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagewright.sandbox import network


def fake(folder: Path, name: str, output: str = "") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("version", "first"),
    [
        ("pasta 2024_09_06.6b38f07", "pasta"),
        ("pasta 0.0~git20250503.587980c-2", "pasta"),
        ("pasta 0.0~git20230309.7c7625d-1", "slirp4netns"),
        ("pasta unknown version", "slirp4netns"),
    ],
)
def test_an_old_pasta_comes_last(version: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, "pasta", version)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(network, "_which", lambda name: str(tmp_path / name))
    assert Path(network.available_programs()[0]).name == first


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert network.missing_means() == "neither pasta nor slirp4netns is installed"
    fake(tmp_path, "pasta")
    monkeypatch.setattr(network, "_TUN", str(tmp_path / "tun"))
    assert network.missing_means() == f"there is no {tmp_path}/tun"
    (tmp_path / "tun").touch()
    assert network.missing_means() is None
    monkeypatch.setattr(network.os, "access", lambda path, mode: "pasta" in path)
    assert network.missing_means() == f"this user may not open {tmp_path}/tun"


@pytest.mark.parametrize("program", ["/usr/bin/pasta", "/usr/bin/slirp4netns"])
def test_the_hosts_resolver_is_asked_directly_where_that_works(program: str) -> None:
    request, resolv_conf = network.network_request(program, "nameserver 10.0.0.1\nnameserver 127.0.0.1\n", ipv6=False)
    assert resolv_conf == "nameserver 10.0.0.1\n"
    assert "--dns-forward" not in request["command"]


@pytest.mark.parametrize(
    ("program", "host", "expected"),
    [
        ("/usr/bin/pasta", "127.0.0.53", "10.91.64.3"),
        ("/usr/bin/pasta", "::1", "fd5b:40::3"),
        ("/usr/bin/slirp4netns", "127.0.0.53", "10.91.64.3"),
        ("/usr/bin/slirp4netns", "::1", "10.91.64.3"),
    ],
)
def test_a_resolver_on_the_hosts_loopback_is_forwarded_to(program: str, host: str, expected: str) -> None:
    request, resolv_conf = network.network_request(program, f"nameserver {host}\nsearch x\n", ipv6=True)
    assert resolv_conf == f"nameserver {expected}\nsearch x\n"
    if program.endswith("pasta"):
        assert request["command"][request["command"].index("--dns-forward") + 1] == expected


def test_ipv6_is_left_to_pasta_where_the_host_has_it() -> None:
    assert network.network_request("pasta", "", ipv6=True)[0]["ipv6"] is True
    assert "--ipv4-only" in network.network_request("pasta", "", ipv6=False)[0]["command"]
    assert network.network_request("slirp4netns", "", ipv6=True)[0]["ipv6"] is False
