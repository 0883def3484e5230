"""Entitlements: what a Dockerfile's steps may ask for only if the user of the build has granted it."""

from __future__ import annotations

from collections.abc import Iterable

from stagewright.dockerfile import ast
from stagewright.errors import DockerfileError, UsageError

NETWORK_HOST = "network.host"
SECURITY_INSECURE = "security.insecure"
_DEVICE = "device"
ALL = (NETWORK_HOST, SECURITY_INSECURE, _DEVICE)


def granted(allow: Iterable[str], network: str) -> frozenset[str]:
    """The entitlements of a build from the values of `--allow` and the network mode of `--network`.

    Who asks for the host's network for all steps has granted it, as with buildx. Raises UsageError for others.
    """
    found = set()
    for text in allow:
        name = text.partition("=")[0] if text.startswith(f"{_DEVICE}=") else text
        if name not in ALL:
            hint = f"the entitlements are {', '.join(ALL)}"
            raise UsageError(f"invalid entitlement: {text}", hint=hint)
        found.add(name)
    if network == "host":
        found.add(NETWORK_HOST)
    return frozenset(found)


def check(run: ast.Run, entitlements: frozenset[str]) -> None:
    """Raise DockerfileError where a RUN asks for what it was not granted, or for a device, which steps can't have."""
    if run.devices:
        raise DockerfileError("RUN --device is not supported", hint="no device can be given to a step")
    for asked, name in ((run.network == "host", NETWORK_HOST), (run.security == "insecure", SECURITY_INSECURE)):
        if asked and name not in entitlements:
            raise DockerfileError(f"{name} is not allowed", hint=f"grant it with --allow {name}")
