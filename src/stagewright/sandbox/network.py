"""A network of a build's own for its steps, made with the first step that needs it, by pasta or slirp4netns.

Both are programs that give a network namespace a way out by ordinary sockets of the host. `network_child` is what runs
in the launcher, which ends it all with the build.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable
from typing import Any

from stagewright.errors import SandboxError
from stagewright.records import dataclass
from stagewright.sandbox import network_child, resolver, wire
from stagewright.sandbox.launching import LauncherProcess

_PROGRAMS = ("pasta", "slirp4netns")
_TUN = "/dev/net/tun"

_START_TIMEOUT_S = 10
_SHARED = "steps share the host's network, with its loopback addresses and abstract sockets"


@dataclass(frozen=True, slots=True)
class JoinedNetwork:
    """What steps join: a descriptor of a network namespace, and the text of their /etc/resolv.conf.

    Both are None for the network that the step itself names.
    """

    namespace: int | None = None
    resolv_conf: str | None = None


class BuildNetwork:
    """The network of one build. `notify` gets one line, once, if steps must do with the host's."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._lock = threading.Lock()
        self._started = False
        self._joined = JoinedNetwork()
        self._plan: _Plan | None = None

    def plan(self, network: str) -> None:
        """Find out ahead how the network for steps in `network` can be made, for which nothing else is needed yet."""
        if network == "default":
            with self._lock:
                self._plan = self._plan or _plan()

    def join(self, network: str, launcher: LauncherProcess) -> JoinedNetwork:
        """The network for a step in `network`, which is started if need be and there is a program for it."""
        if network != "default":
            return JoinedNetwork()
        with self._lock:
            if not self._started:
                self._started = True
                self._joined = self._start(launcher)
            return self._joined

    def close(self) -> None:
        """Let go of the network, which lasts no longer than the launcher. Further calls do nothing."""
        with self._lock:
            if self._joined.namespace is not None:
                os.close(self._joined.namespace)
                self._joined = JoinedNetwork()

    def _start(self, launcher: LauncherProcess) -> JoinedNetwork:
        plan = self._plan or _plan()
        if plan.lacking is not None:
            self._notify(f"{plan.lacking}: {_SHARED}")
            return JoinedNetwork()
        failures = []
        for program, request, resolv_conf in plan.ways:
            try:
                return JoinedNetwork(_start_child(launcher, request), resolv_conf)
            except SandboxError as error:
                failures.append(f"{program}: {error.message}")
        self._notify(f"{'; '.join(failures)}: {_SHARED}")
        return JoinedNetwork()


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is lacking, or (program, request, resolv.conf) for each program that may do, the best one first."""

    lacking: str | None
    ways: tuple[tuple[str, dict[str, Any], str], ...] = ()


def _plan() -> _Plan:
    if (lacking := missing_means()) is not None:
        return _Plan(lacking)
    host_text, ipv6 = resolver.host_resolver(), has_ipv6_route()
    ways = [(program, *network_request(program, host_text, ipv6)) for program in available_programs()]
    return _Plan(None, tuple(ways))


def available_programs() -> list[str]:
    """The paths of the programs on PATH, the best one first."""
    found = [path for name in _PROGRAMS if (path := _which(name)) is not None]
    if len(found) > 1 and _is_old_pasta(found[0]):
        found.reverse()
    return found


def _which(name: str) -> str | None:
    """As `shutil.which`, which takes as long to import as a network to make."""
    for folder in os.get_exec_path():
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def missing_means() -> str | None:
    """What this machine lacks for a network of a build's own; None if it has all."""
    if not any(_which(name) for name in _PROGRAMS):
        return "neither pasta nor slirp4netns is installed"
    if not os.path.exists(_TUN):
        return f"there is no {_TUN}"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"this user may not open {_TUN}"
    return None


def _is_old_pasta(path: str) -> bool:
    """Whether it is from before 2024: then a step waits in vain where a connection is refused, and some stall."""
    import subprocess

    try:
        run = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_START_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return True
    released = re.search(r"(20\d\d)_?\d\d", run.stdout)
    return released is None or int(released[1]) < 2024


def has_ipv6_route() -> bool:
    """Whether the host has a way out by IPv6."""
    try:
        with open("/proc/net/ipv6_route", encoding="ascii") as file:
            routes = [line.split() for line in file]
    except FileNotFoundError:
        return False
    return any(route[0] == "0" * 32 and route[1] == "00" and route[9] != "lo" for route in routes)


def network_request(program: str, host_text: str, ipv6: bool) -> tuple[dict[str, Any], str]:
    """What `network_child` shall start for a program's path, and the steps' resolv.conf for the host's."""
    forwarder = None
    if (local := resolver.local_nameserver(host_text)) is not None:
        forwarder = network_child.FORWARDER
    if os.path.basename(program) == "pasta":
        if local is not None and local.version == 6:
            forwarder = network_child.FORWARDER6
        arguments = _pasta_arguments(forwarder, ipv6)
    else:
        # Its support of IPv6 is an experiment.
        ipv6 = False
        arguments = _slirp4netns_arguments()
    tells_ready = os.path.basename(program) != "pasta"
    request = {"command": [program, *arguments], "ipv6": ipv6, "tells_ready": tells_ready}
    return request, resolver.reachable(host_text, forwarder)


def _pasta_arguments(forwarder: str | None, ipv6: bool) -> list[str]:
    # Ports are forwarded in neither direction, and no address stands for the host's loopback.
    arguments = ["--quiet", "--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none"]
    arguments += ["--no-dhcp", "--no-dhcpv6", "--no-ra", "-I", network_child.TAP, "-m", str(network_child.MTU)]
    arguments += ["-a", network_child.STEPS, "-n", "24", "-g", network_child.GATEWAY]
    arguments += ["-a", network_child.STEPS6, "-g", network_child.GATEWAY6] if ipv6 else ["--ipv4-only"]
    if forwarder is not None:
        arguments += ["--dns-forward", forwarder]
    # As another user it could not enter a namespace of ours.
    return [*arguments, "--runas", "0", "--netns", network_child.OUTER_NAMESPACE]


def _slirp4netns_arguments() -> list[str]:
    arguments = ["--disable-host-loopback", "--enable-sandbox", "--enable-seccomp", f"--mtu={network_child.MTU}"]
    arguments += [f"--cidr={network_child.NETWORK}/24", f"--ready-fd={network_child.READY_FD}"]
    return [*arguments, "--netns-type=path", network_child.OUTER_NAMESPACE, network_child.TAP]


def _start_child(launcher: LauncherProcess, request: dict[str, Any]) -> int:
    """Have the network made; gives a descriptor of its namespace. Raises SandboxError."""
    status, theirs = socket.socketpair()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        launcher.start(wire.OTHER, theirs.fileno(), null, null)
        theirs.close()
        status.settimeout(_START_TIMEOUT_S)
        status.sendall(wire.pack(request))
        return _await_namespace(status)
    except TimeoutError:
        raise SandboxError(f"not ready after {_START_TIMEOUT_S} seconds") from None
    except OSError as error:
        raise SandboxError(error.strerror or str(error)) from None
    finally:
        os.close(null)
        theirs.close()
        status.close()


def _await_namespace(status: socket.socket) -> int:
    inbox = wire.Inbox()
    held: list[int] = []
    try:
        while True:
            data, descriptors = wire.receive(status, 1 << 16, 4)
            held += descriptors
            if not data:
                raise SandboxError("the launcher of steps has gone")
            for message in inbox.feed(data):
                match message:
                    case (wire.NETWORK,):
                        return held.pop()
                    case (wire.FAILED, text):
                        raise SandboxError(text)
                    case (wire.EXITED, code, *_):
                        raise SandboxError(f"ended with exit code {code}")
    finally:
        for fd in held:
            os.close(fd)
