"""What a RUN may ask for only if it is granted."""

from __future__ import annotations

import pytest

from stagewright.dockerfile import ast
from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError, UsageError
from stagewright.frontend.entitlements import check, granted


def run(flags: str) -> ast.Run:
    (instruction,) = parse(f"FROM scratch\nRUN {flags} true\n".encode(), "Dockerfile").stages[0].instructions
    assert isinstance(instruction, ast.Run)
    return instruction


def test_what_is_granted() -> None:
    assert granted((), "default") == frozenset()
    assert granted(("network.host", "security.insecure"), "none") == {"network.host", "security.insecure"}
    assert granted(("device", "device=vendor.com/gpu,alias=x"), "default") == {"device"}
    assert granted((), "host") == {"network.host"}


@pytest.mark.parametrize("text", ["", "network", "network.none", "network.host=1", "security.insecure,network.host"])
def test_unknown_entitlements(text: str) -> None:
    with pytest.raises(UsageError, match="invalid entitlement: ") as caught:
        granted((text,), "default")
    assert "network.host, security.insecure, device" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("flags", "needed"), [("--network=host", "network.host"), ("--security=insecure", "security.insecure")]
)
def test_what_is_not_granted_is_refused(flags: str, needed: str) -> None:
    check(run(flags), frozenset({needed}))
    with pytest.raises(DockerfileError, match=f"^{needed} is not allowed$") as caught:
        check(run(flags), frozenset({"network.host", "security.insecure"} - {needed}))
    assert caught.value.hint == f"grant it with --allow {needed}"


@pytest.mark.parametrize("flags", ["", "--network=none", "--network=default", "--security=sandbox"])
def test_all_else_needs_nothing(flags: str) -> None:
    check(run(flags), frozenset())


def test_devices_are_refused_in_any_case() -> None:
    with pytest.raises(DockerfileError, match="RUN --device is not supported"):
        check(run("--device=vendor.com/gpu"), frozenset({"device"}))
