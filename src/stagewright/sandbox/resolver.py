"""The host's /etc/resolv.conf, and what of it holds in another network than the host's own."""

from __future__ import annotations

import ipaddress

_HOST_RESOLV_CONF = "/etc/resolv.conf"


def host_resolver() -> str:
    """The text of the host's file, "" where there is none."""
    try:
        with open(_HOST_RESOLV_CONF, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def local_nameserver(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The first name server of a resolv.conf, if it only answers on the host itself; None if it is any other."""
    first = next((address for line in text.splitlines() if (address := _nameserver(line)) is not None), None)
    return first if first is not None and _is_local(first) else None


def reachable(text: str, forwarder: str | None = None) -> str:
    """A resolv.conf for a network of its own: name servers that only answer on the host itself are left out.

    `forwarder` is an address that stands for the first of them.
    """
    lines = []
    for line in text.splitlines(keepends=True):
        address = _nameserver(line)
        if address is None or not _is_local(address):
            lines.append(line)
        elif forwarder is not None:
            lines.append(f"nameserver {forwarder}\n")
            forwarder = None
    return "".join(lines)


def _nameserver(line: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    words = line.split()
    if len(words) < 2 or words[0] != "nameserver":
        return None
    try:
        return ipaddress.ip_address(words[1])
    except ValueError:
        return None


def _is_local(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Loopback addresses, and those of IPv6 that need to be told a device of the host."""
    return address.is_loopback or (address.version == 6 and address.is_link_local)
