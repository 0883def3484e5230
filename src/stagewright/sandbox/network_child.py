"""The process that makes a build's network and keeps it: two network namespaces and the program that links them out.

Steps are in the inner namespace. The outer one is a router between them and the program's tap device: a step with
CAP_NET_RAW, or merely one that binds a socket to a device, can send packets to 127.0.0.1 out of its own namespace,
and the programs would open them a connection to the host's loopback. The router's kernel takes such packets for what
they are and drops them. It all goes when this process ends, the first one of a PID namespace.
"""

from __future__ import annotations

import os
import struct
from _socket import AF_PACKET, SOCK_RAW, if_nametoindex, socket

from stagewright.sandbox import kernel, netlink, process, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

TAP, _INNER, _OUTER = "tap0", "eth0", "steps"
MTU = 65520
"""What pasta and slirp4netns take at most: the fewer packets, the less work for them."""

NETWORK = "10.91.64.0"
"""The /24 that slirp4netns gives its own addresses from, with these meanings of the last byte."""
GATEWAY, FORWARDER, STEPS = "10.91.64.2", "10.91.64.3", "10.91.64.100"
_ROUTER = "10.91.64.1"
GATEWAY6, FORWARDER6, STEPS6 = "fd5b:40::2", "fd5b:40::3", "fd5b:40::100"
_ROUTER6 = "fd5b:40::1"
READY_FD = 3
"""Where a program can write that it is ready."""

# What the kernel itself does not refuse to forward, though a program's socket would take it for the host's loopback.
_IPV4_MAPPED = ("::ffff:0:0", 96)

# Where a mount namespace of our own has the outer network namespace, for the programs, which want a path.
_PLACE = "/sys"
OUTER_NAMESPACE = f"{_PLACE}/net"

_PROGRAM_CAPABILITIES = process.capabilities("SETGID SETUID SETPCAP NET_BIND_SERVICE NET_ADMIN SYS_CHROOT SYS_ADMIN")


class NetworkChild:
    """Makes the network. `request` is what `network.network_request` makes.

    It reports the inner namespace as soon as the program is ready.
    """

    def __init__(self, request: dict[str, Any], status: socket, bounding: int) -> None:
        self._request = request
        self._status = status
        self._bounding = bounding
        self._ipv6 = request["ipv6"]

    def run(self) -> NoReturn:
        """Serve until the program ends. Raises OSError and ValueError."""
        os.setsid()
        kernel.unshare(kernel.CLONE_NEWNS)
        place = kernel.new_filesystem("tmpfs", [("mode", "700"), ("size", "64k")])
        kernel.move_mount_to(place, _PLACE)
        program = _Program(self._request, self._bounding)
        inner = _new_namespace()
        _new_namespace()
        os.close(os.open(OUTER_NAMESPACE, os.O_CREAT | os.O_WRONLY, 0o600))
        kernel.mount("/proc/self/ns/net", OUTER_NAMESPACE, "", kernel.MS_BIND)
        program.start()
        self._configure_outer(inner)
        kernel.setns(inner, kernel.CLONE_NEWNET)
        self._configure_inner()
        wire.send(self._status, (wire.NETWORK,), [inner])
        while True:
            try:
                os.wait()
            except ChildProcessError:
                os._exit(1)

    def _configure_outer(self, inner: int) -> None:
        netlink.set_loopback_up()
        _set("net/ipv4/ip_forward", "1")
        netlink.add_veth(_OUTER, _INNER, inner, MTU)
        tap, steps = if_nametoindex(TAP), if_nametoindex(_OUTER)
        netlink.set_up(tap, MTU)
        netlink.set_up(steps)
        netlink.add_address(steps, _ROUTER)
        netlink.add_host_route(STEPS, steps)
        netlink.add_host_route(GATEWAY, tap)
        netlink.add_default_route(GATEWAY, tap)
        if self._ipv6:
            _set("net/ipv6/conf/all/forwarding", "1")
            netlink.add_address(steps, _ROUTER6)
            netlink.add_host_route(STEPS6, steps)
            netlink.add_unreachable_route(*_IPV4_MAPPED)
            netlink.add_host_route(GATEWAY6, tap)
            netlink.add_default_route(GATEWAY6, tap)
        _announce(STEPS, TAP)

    def _configure_inner(self) -> None:
        netlink.set_loopback_up()
        device = if_nametoindex(_INNER)
        netlink.set_up(device)
        netlink.add_address(device, STEPS)
        netlink.add_host_route(_ROUTER, device)
        netlink.add_default_route(_ROUTER, device)
        if self._ipv6:
            netlink.add_address(device, STEPS6)
            netlink.add_host_route(_ROUTER6, device)
            netlink.add_default_route(_ROUTER6, device)


class _Program:
    """The program's process, which waits in the host's network: nobody but the machine's root could go back there."""

    def __init__(self, request: dict[str, Any], bounding: int) -> None:
        self._request = request
        self._words = os.memfd_create("words")
        waiting, self._go = os.pipe()
        self._ready, theirs = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._go)
            os.read(waiting, 1)
            self._become(bounding, theirs)
        os.close(waiting)
        os.close(theirs)

    def _become(self, bounding: int, ready: int) -> NoReturn:
        command = self._request["command"]
        try:
            process.drop_from_bounding(bounding, _PROGRAM_CAPABILITIES)
            os.dup2(self._words, 1)
            os.dup2(self._words, 2)
            os.dup2(ready, READY_FD)
            os.closerange(READY_FD + 1, 1 << 30)
            kernel.default_signals()
            os.execve(command[0], command, {})  # noqa: S606 -- no shell is wanted
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}".encode())
        finally:
            os._exit(1)

    def start(self) -> None:
        """Come back when it serves the tap device. Raises ValueError with its last words if it does not."""
        os.close(self._go)
        if self._request["tells_ready"]:
            is_ready = bool(os.read(self._ready, 1))
        else:
            # It goes to the background when it is ready.
            is_ready = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1]) == 0
        os.close(self._ready)
        if not is_ready:
            raise ValueError(_last_line(os.pread(self._words, 1 << 16, 0)))
        os.close(self._words)


def _new_namespace() -> int:
    kernel.unshare(kernel.CLONE_NEWNET)
    return os.open("/proc/self/ns/net", os.O_RDONLY)


def _set(name: str, value: str) -> None:
    with open(f"/proc/sys/{name}", "w", encoding="ascii") as file:
        file.write(value)


def _announce(address: str, device: str) -> None:
    """Tell slirp4netns, which sends to no address whose owner it does not know, that the steps' is behind `device`."""
    link = socket(AF_PACKET, SOCK_RAW)
    try:
        link.bind((device, 0))
        own = link.getsockname()[4]
        packed = bytes(int(part) for part in address.split("."))
        arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, own, packed, b"\0" * 6, packed)
        link.send(b"\xff" * 6 + own + struct.pack("!H", 0x0806) + arp)
    finally:
        link.close()


def _last_line(data: bytes) -> str:
    """The program's last words, less pasta's complaints of a machine without syslog."""
    lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
    told = [line for line in lines if line and "bytes to syslog" not in line]
    return told[-1] if told else "it ended without a word"
