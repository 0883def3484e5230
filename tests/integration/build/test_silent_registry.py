"""A registry that takes a request and never answers: a build that waits for it can be stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def test_an_interrupt_ends_the_wait_for_a_silent_registry(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        port = server.getsockname()[1]
        (tmp_path / "Dockerfile").write_text(f"FROM 127.0.0.1:{port}/silent:latest\n")
        command = [sys.executable, "-m", "stagewright", "build", "--root", f"{tmp_path}/root", str(tmp_path)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ})
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1 << 16)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=15)
    assert process.returncode == 130
    assert b"canceled" in errors
