"""Which hosts serve a repository: the mirrors of its domain in order, then the domain's own registry."""

from __future__ import annotations

import ipaddress

from stagewright.config import Config, RegistryTable
from stagewright.errors import UsageError
from stagewright.records import dataclass
from stagewright.redaction import redact_host
from stagewright.registry.reference import DEFAULT_DOMAIN

_HUB_ADDRESS = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Host:
    """One registry to talk to.

    `name` is HOST[:PORT] as configuration and credentials know it, `address` is the one to connect to. `prefix` is put
    before repository paths ("" or "hub/"). `schemes` are tried in order until one works. `namespace` is the domain
    that a mirror stands in for, None for the domain's own registry.
    """

    name: str
    address: str
    prefix: str = ""
    schemes: tuple[str, ...] = ("https",)
    namespace: str | None = None

    def repository(self, path: str) -> str:
        """The repository's path on this host."""
        return self.prefix + path


def registry_host(config: Config, domain: str) -> Host:
    """The domain's own registry: the one that images are pushed to."""
    table = config.registries.get(domain, RegistryTable())
    address = _address(domain)
    return Host(domain, address, schemes=_schemes(address, table))


def pull_hosts(config: Config, domain: str) -> list[Host]:
    """The hosts to pull from, the first to try first.

    Raises UsageError for a mirror that is not HOST[:PORT][/PREFIX].
    """
    table = config.registries.get(domain, RegistryTable())
    return [_mirror(config, text, domain) for text in table.mirrors] + [registry_host(config, domain)]


def tables_by_address(config: Config) -> dict[str, RegistryTable]:
    """The configuration's registry tables, keyed by the HOST[:PORT] that is connected to."""
    return {_address(name): table for name, table in config.registries.items()}


def is_loopback(hostname: str) -> bool:
    """Whether a host name or address (IPv6 with or without brackets) is this machine's loopback interface."""
    if hostname == "localhost" or hostname.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(hostname.strip("[]")).is_loopback
    except ValueError:
        return False


def _mirror(config: Config, text: str, domain: str) -> Host:
    _, separator, rest = text.partition("://")
    bare = rest if separator else text
    name, _, prefix = bare.strip("/").partition("/")
    if not name or any(char.isspace() or char in "@?#" for char in bare):
        raise UsageError(
            f'invalid mirror "{redact_host(text)}" of {domain}', hint="a mirror is written HOST[:PORT][/PREFIX]"
        )
    table = config.registries.get(name, RegistryTable())
    return Host(
        name=name,
        address=_address(name),
        prefix=f"{prefix}/" if prefix else "",
        schemes=_schemes(name, table),
        namespace=domain,
    )


def _address(name: str) -> str:
    return _HUB_ADDRESS if name == DEFAULT_DOMAIN else name


def _schemes(address: str, table: RegistryTable) -> tuple[str, ...]:
    if table.http is not None:
        return ("http",) if table.http else ("https",)
    hostname = address.rpartition("]")[0] + "]" if address.startswith("[") else address.partition(":")[0]
    if is_loopback(hostname):
        return ("http", "https")
    # As in BuildKit: who trusts any certificate trusts plain HTTP as well.
    return ("https", "http") if table.insecure else ("https",)
