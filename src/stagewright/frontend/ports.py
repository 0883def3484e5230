"""The port specifications of EXPOSE."""

from __future__ import annotations

from collections.abc import Iterable

from stagewright.dockerfile.golang import parse_uint32, quote
from stagewright.errors import DockerfileError
from stagewright.records import dataclass

_PROTOCOLS = ("tcp", "udp", "sctp")


@dataclass(frozen=True, slots=True)
class PortSpec:
    """One specification, `[[IP:]HOST:]CONTAINER[/PROTOCOL]`, in its parts as they are written."""

    ip: str
    host: str
    container: str
    protocol: str


def split_port(text: str) -> PortSpec:
    """The parts of a specification; without a protocol it is tcp. Raises DockerfileError."""
    *address, last = text.split(":")
    host = address.pop() if address else ""
    container, _, protocol = last.partition("/")
    if not container:
        raise DockerfileError(f"invalid port: {quote(text)}: no port specified")
    if protocol and protocol.lower() not in _PROTOCOLS:
        raise DockerfileError(f"invalid port: {quote(text)}: invalid proto: {protocol}")
    return PortSpec(":".join(address), host, container, protocol or "tcp")


def parse_ports(texts: Iterable[str]) -> list[str]:
    """`PORT/PROTOCOL` strings for specifications like `80`, `53/udp` and `8000-8010/tcp`, ranges written out.

    Of Docker's `IP:HOST:CONTAINER` form only the container's part counts, but all of it is checked. Raises
    DockerfileError.
    """
    ports = []
    for text in texts:
        spec = split_port(text)
        if spec.ip:
            _check_ip(spec.ip)
        first, last = _range(spec.container, f"invalid containerPort: {spec.container}")
        if spec.host:
            host_first, host_last = _range(spec.host, f"invalid hostPort: {spec.host}")
            if host_last - host_first != last - first != 0:
                raise DockerfileError(
                    f"invalid ranges specified for container and host Ports: {spec.container} and {spec.host}"
                )
        ports += [f"{port}/{spec.protocol.lower()}" for port in range(first, last + 1)]
    return ports


def _check_ip(text: str) -> None:
    import ipaddress

    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise DockerfileError(f"invalid IP address: {text}") from None


def _range(text: str, message: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    low = _number(first, message)
    high = _number(last, message) if dash else low
    if high < low:
        raise DockerfileError(message)
    return low, high


def _number(text: str, message: str) -> int:
    try:
        number = parse_uint32(text, 10)
    except ValueError:
        raise DockerfileError(message) from None
    if number >= 1 << 16:
        raise DockerfileError(message)
    return number
