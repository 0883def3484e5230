"""The port specifications of EXPOSE."""

from __future__ import annotations

from collections.abc import Iterable

from stagewright.errors import DockerfileError

_PROTOCOLS = ("tcp", "udp", "sctp")


def parse_ports(specs: Iterable[str]) -> list[str]:
    """`PORT/PROTOCOL` strings for specifications like `80`, `53/udp` and `8000-8010/tcp`, ranges written out.

    Docker's `[IP:]HOST:CONTAINER` form is read and only its container part counts. Raises DockerfileError.
    """
    ports = []
    for spec in specs:
        container, host = _container_part(spec)
        number, _, protocol = container.partition("/")
        if not number:
            raise DockerfileError(f"no port specified: {spec}<empty>")
        protocol = protocol.lower() or "tcp"
        if protocol not in _PROTOCOLS:
            raise DockerfileError(f"invalid proto: {protocol}")
        first, last = _range(number, f"invalid containerPort: {number}")
        if host:
            host_first, host_last = _range(host, f"invalid hostPort: {host}")
            if host_last - host_first != last - first != 0:
                raise DockerfileError(f"invalid ranges specified for container and host Ports: {number} and {host}")
        ports += [f"{port}/{protocol}" for port in range(first, last + 1)]
    return ports


def _container_part(spec: str) -> tuple[str, str]:
    *address, container = spec.split(":")
    if not address:
        return container, ""
    *ip, host = address
    if ip and (text := ":".join(ip)):
        import ipaddress

        try:
            ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise DockerfileError(f"invalid IP address: {text}") from None
    return container, host


def _range(text: str, message: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    numbers = (first, last) if dash else (first, first)
    if not all(number.isascii() and number.isdigit() and int(number) < 1 << 16 for number in numbers):
        raise DockerfileError(message)
    low, high = int(numbers[0]), int(numbers[1])
    if high < low:
        raise DockerfileError(message)
    return low, high
