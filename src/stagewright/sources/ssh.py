"""SSH agents for `RUN --mount=type=ssh`: the user's own, or one of OpenSSH's that holds key files for one build."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stagewright.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    import subprocess

# An agent that ends and leaves nothing when this process does, however that comes: then standard input ends.
_AGENT = 'ssh-agent -D -a "$0" & exec > /dev/null; cat; kill "$!"; wait; rm -r "${0%/*}"'


class SshAgents:
    """The sockets that a build may forward, by ID; `close` ends the agents that were started for key files.

    `sources` maps an ID to paths: none for the agent of `$SSH_AUTH_SOCK`, one socket, or private key files.
    Thread-safe.
    """

    def __init__(self, sources: Mapping[str, tuple[str, ...]], env: Mapping[str, str]) -> None:
        self._sources = dict(sources)
        self._env = env
        self._sockets: dict[str, str] = {}
        self._agents: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise NotFoundError or UsageError for a source that cannot work, before anything is built."""
        for id, paths in self._sources.items():
            if not paths:
                self._user_agent(id)
                continue
            sockets = [path for path in paths if stat.S_ISSOCK(_stat(path).st_mode)]
            if sockets and len(paths) > 1:
                raise UsageError(f"--ssh {id}: give one agent socket or key files, not both")

    def socket(self, id: str) -> str | None:
        """The path of the agent's socket for an ID, None where the build was given none."""
        if id not in self._sources:
            return None
        with self._lock:
            if id not in self._sockets:
                paths = self._sources[id]
                if not paths:
                    self._sockets[id] = self._user_agent(id)
                elif stat.S_ISSOCK(_stat(paths[0]).st_mode):
                    self._sockets[id] = paths[0]
                else:
                    self._sockets[id] = self._start_agent(id, paths)
            return self._sockets[id]

    def _user_agent(self, id: str) -> str:
        path = self._env.get("SSH_AUTH_SOCK", "")
        if not path:
            raise UsageError(
                f"--ssh {id}: SSH_AUTH_SOCK is not set", hint="start an ssh-agent, or name a socket or a key file"
            )
        _stat(path)
        return path

    def _start_agent(self, id: str, keys: tuple[str, ...]) -> str:
        import subprocess
        import tempfile

        socket = os.path.join(tempfile.mkdtemp(prefix="stagewright-ssh-"), "agent")
        process = subprocess.Popen(
            ["sh", "-c", _AGENT, socket],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._agents.append(process)
        assert process.stdout is not None
        if not process.stdout.readline():
            raise UsageError(f"--ssh {id}: ssh-agent cannot be started", hint="install openssh-client")
        for key in keys:
            # Without a terminal and a pass phrase program, a key that is locked is refused instead of asked for.
            env = {**self._env, "SSH_AUTH_SOCK": socket, "SSH_ASKPASS_REQUIRE": "never"}
            try:
                with open(key, "rb") as file:
                    added = subprocess.run(
                        ["ssh-add", "-q", "-"],
                        stdin=file,
                        env=env,
                        capture_output=True,
                        text=True,
                        start_new_session=True,
                    )
            except OSError as error:
                raise UsageError(f"--ssh {id}: the key {key} cannot be used: {error.strerror}") from error
            if added.returncode != 0:
                raise UsageError(
                    f"--ssh {id}: the key {key} cannot be used: {added.stderr.strip() or 'ssh-add refused it'}",
                    hint="a key with a pass phrase must be in an agent",
                )
        return socket

    def close(self) -> None:
        """End the agents that this object started, and remove their sockets."""
        for process in self._agents:
            process.communicate()
        self._agents.clear()


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise NotFoundError(f"--ssh: {path}: {error.strerror}") from None
