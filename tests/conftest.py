"""Lets all tests import what lies beside this file."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Let SIGTERM end a run as Ctrl-C does: with the end of all that fixtures have started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
