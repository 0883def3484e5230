"""Network devices, addresses and routes by rtnetlink: the few requests that a build's network takes.

All act upon the network namespace of the calling process and raise OSError.
"""

from __future__ import annotations

import os
import struct
from _socket import AF_INET, AF_INET6, AF_NETLINK, SOCK_RAW, inet_pton, socket

_NETLINK_ROUTE = 0
_ERROR = 2
_NEW_LINK, _NEW_ADDRESS, _NEW_ROUTE = 16, 20, 24
_REQUEST, _ACK, _EXCL, _CREATE = 0x1, 0x4, 0x200, 0x400
_UP = 1

_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 4, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_TABLE_MAIN, _PROTOCOL_STATIC = 254, 4
_SCOPE_GLOBAL, _SCOPE_LINK = 0, 253
_UNICAST, _UNREACHABLE = 1, 7
_LOOPBACK_INDEX = 1


def set_up(index: int, mtu: int | None = None) -> None:
    """Switch a device on, with an MTU in bytes."""
    attributes = b"" if mtu is None else _attribute(_IFLA_MTU, struct.pack("=I", mtu))
    _request(_NEW_LINK, 0, _link_header(index, _UP) + attributes)


def set_loopback_up() -> None:
    """Switch the loopback device on, which is the first of every network namespace."""
    set_up(_LOOPBACK_INDEX)


def add_veth(name: str, peer: str, peer_namespace: int, mtu: int) -> None:
    """Make a pair of devices: `name` here and `peer` in the network namespace of the descriptor `peer_namespace`."""
    size = _attribute(_IFLA_MTU, struct.pack("=I", mtu))
    other = _link_header(0, 0) + _name(peer) + size
    other += _attribute(_IFLA_NET_NS_FD, struct.pack("=I", peer_namespace))
    kind = _attribute(_INFO_KIND, b"veth") + _attribute(_INFO_DATA, _attribute(_VETH_PEER, other))
    _request(_NEW_LINK, _CREATE | _EXCL, _link_header(0, 0) + _name(name) + size + _attribute(_IFLA_LINKINFO, kind))


def add_address(index: int, address: str) -> None:
    """Give a device an address of its own, without a network around it."""
    family, packed = _packed(address)
    header = struct.pack("=BBBBI", family, 8 * len(packed), _IFA_F_NODAD, _SCOPE_GLOBAL, index)
    _request(_NEW_ADDRESS, _CREATE | _EXCL, header + _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed))


def add_host_route(address: str, index: int) -> None:
    """Say that an address is a direct neighbour on a device."""
    family, packed = _packed(address)
    attributes = _attribute(_RTA_DST, packed) + _attribute(_RTA_OIF, struct.pack("=I", index))
    scope = _SCOPE_LINK if family == AF_INET else _SCOPE_GLOBAL
    _request(_NEW_ROUTE, _CREATE | _EXCL, _route_header(family, 8 * len(packed), scope, _UNICAST) + attributes)


def add_default_route(gateway: str, index: int) -> None:
    """Send all that has no other route to the neighbour `gateway` on a device."""
    family, packed = _packed(gateway)
    attributes = _attribute(_RTA_GATEWAY, packed) + _attribute(_RTA_OIF, struct.pack("=I", index))
    _request(_NEW_ROUTE, _CREATE | _EXCL, _route_header(family, 0, _SCOPE_GLOBAL, _UNICAST) + attributes)


def add_unreachable_route(network: str, bits: int) -> None:
    """Refuse to forward to a network; `bits` is the length of its prefix."""
    family, packed = _packed(network)
    attributes = _attribute(_RTA_DST, packed)
    if family == AF_INET6:
        attributes += _attribute(_RTA_OIF, struct.pack("=I", _LOOPBACK_INDEX))
    _request(_NEW_ROUTE, _CREATE | _EXCL, _route_header(family, bits, _SCOPE_GLOBAL, _UNREACHABLE) + attributes)


def _packed(address: str) -> tuple[int, bytes]:
    family = AF_INET6 if ":" in address else AF_INET
    return family, inet_pton(family, address)


def _link_header(index: int, flags: int) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, flags)


def _route_header(family: int, bits: int, scope: int, kind: int) -> bytes:
    return struct.pack("=BBBBBBBBI", family, bits, 0, 0, _TABLE_MAIN, _PROTOCOL_STATIC, scope, kind, 0)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _name(name: str) -> bytes:
    return _attribute(_IFLA_IFNAME, name.encode() + b"\0")


def _request(kind: int, flags: int, body: bytes) -> None:
    link = socket(AF_NETLINK, SOCK_RAW, _NETLINK_ROUTE)
    try:
        link.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, 1, 0) + body)
        answer = link.recv(1 << 16)
    finally:
        link.close()
    _, answered = struct.unpack_from("=IH", answer)
    number = -struct.unpack_from("=i", answer, 16)[0] if answered == _ERROR else 0
    if number:
        raise OSError(number, os.strerror(number))
