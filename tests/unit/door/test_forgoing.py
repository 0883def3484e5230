"""Doing without mounts and namespaces: when a process may, and what it says where it may not."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from stagewright import privilege
from stagewright.door import outer, passage
from stagewright.errors import PrivilegeNeededError
from stagewright.sandbox.process import DEFAULT_CAPABILITIES

REFUSED = PrivilegeNeededError("no user namespace can be made: not here")


@pytest.fixture(autouse=True)
def unprivileged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is root of a container with its default capabilities, and may make no namespace."""

    def refuse(self: outer.Passage, function: str, arguments: tuple[Any, ...]) -> Any:
        raise REFUSED

    monkeypatch.setattr(privilege, "_forgone", [])
    monkeypatch.setattr(privilege, "is_privileged", lambda: False)
    monkeypatch.setattr(privilege, "capabilities", lambda: DEFAULT_CAPABILITIES)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(outer.Passage, "__init__", lambda self, sink, cancel: None)
    monkeypatch.setattr(outer.Passage, "run", refuse)


def needs_privilege(sink: object, cancel: threading.Event) -> str | None:
    privilege.require()
    return privilege.forgone()


def call() -> Any:
    return passage.call(f"{__name__}:needs_privilege", (), None, threading.Event())


def test_what_is_refused_is_done_without() -> None:
    assert privilege.forgone() is None
    assert call() == REFUSED.message
    privilege.require()


def test_capabilities_that_lack_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privilege, "capabilities", lambda: DEFAULT_CAPABILITIES & ~(1 << 18) & ~1)
    with pytest.raises(PrivilegeNeededError) as caught:
        call()
    assert caught.value.message == REFUSED.message
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("lacking: CAP_CHOWN, CAP_SYS_CHROOT")
    assert privilege.forgone() is None


def test_another_user_is_told_what_the_door_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(privilege, "capabilities", lambda: 0)
    REFUSED.hint = "have some allowed"
    with pytest.raises(PrivilegeNeededError) as caught:
        call()
    assert caught.value.hint == "have some allowed"
