"""Which proxy a URL goes through, as HTTP_PROXY, HTTPS_PROXY and NO_PROXY say it to Go programs."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from stagewright.errors import UsageError
from stagewright.records import dataclass, field
from stagewright.registry.hosts import is_loopback


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; `authorization` is the value of its Proxy-Authorization header, "" for none."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)


def proxy_for(scheme: str, host: str, port: int, env: Mapping[str, str]) -> Proxy | None:
    """The proxy for `scheme`://`host`:`port`, None to connect directly. Loopback hosts never go through one.

    Raises UsageError for a proxy that is not a plain HTTP one.
    """
    text = _variable(env, f"{scheme}_proxy")
    if not text or is_loopback(host) or _bypassed(host, port, _variable(env, "no_proxy")):
        return None
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        name, number = url.hostname, url.port or 80
    except ValueError:
        name, number = None, 0
    if not name or url.scheme != "http":
        raise UsageError(
            f"{scheme.upper()}_PROXY does not name a proxy that can be used", hint="write it as http://HOST:PORT"
        )
    authorization = ""
    if url.username is not None:
        import base64

        secret = f"{unquote(url.username)}:{unquote(url.password or '')}"
        authorization = "Basic " + base64.b64encode(secret.encode()).decode()
    return Proxy(name, number, authorization)


def _variable(env: Mapping[str, str], name: str) -> str:
    return env.get(name.upper()) or env.get(name) or ""


def _bypassed(host: str, port: int, no_proxy: str) -> bool:
    host = host.lower().strip("[]")
    for entry in no_proxy.lower().split(","):
        rule = entry.strip()
        if rule == "*" or (rule and _rule_matches(rule, host, port)):
            return True
    return False


def _rule_matches(rule: str, host: str, port: int) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is not None:
        try:
            if address in ipaddress.ip_network(rule.strip("[]"), strict=False):
                return True
        except ValueError:
            pass
    name, colon, rule_port = rule.rpartition(":")
    if colon and rule_port.isdigit() and ("]" in name or ":" not in name):
        if int(rule_port) != port:
            return False
        rule = name.strip("[]")
        if rule == host:
            return True
    rule = rule.removeprefix("*")
    if rule.startswith("."):
        return address is None and host.endswith(rule)
    return host == rule or (address is None and host.endswith(f".{rule}"))
