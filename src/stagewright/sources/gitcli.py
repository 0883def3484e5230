"""The machine's git, run so that neither a repository nor the user's configuration can make it run anything else.

A repository is hostile: it must not choose programs (hooks, `ext::`, `!commands` of submodules), other protocols
(`file://`, a path), or questions at a terminal. So git gets an environment of its own: no configuration of the system
or the user, protocols by name, and settings through variables, which its own helpers inherit and nobody sees in a list
of processes.
"""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from stagewright.errors import CanceledError, NotFoundError, StagewrightError
from stagewright.records import dataclass, field
from stagewright.redaction import redact_text

if TYPE_CHECKING:
    import subprocess

T = TypeVar("T")

# What a repository and its submodules may be fetched by.
_PROTOCOLS = "git:http:https:ssh"
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.logAllRefUpdates": "false",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "credential.helper": "",
    "advice.detachedHead": "false",
    "init.defaultBranch": "master",
    "gc.auto": "0",
    "maintenance.auto": "false",
}
_ADVICE = (
    ("could not read Username", "a private repository wants credentials: --secret id=GIT_AUTH_TOKEN,env=..."),
    ("Authentication failed", "check the secret GIT_AUTH_TOKEN or GIT_AUTH_HEADER"),
    ("Permission denied", "the agent given with --ssh has no key that the server takes"),
    ("not allowed", "repositories and their submodules are fetched by https, http, ssh and git alone"),
)
_SSH_FAILED = "Could not read from remote repository"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
_MAX_OUTPUT = 16 << 20
_KEPT_ERRORS = 16 << 10
_LOOK_INTERVAL_S = 0.1
_BLOCK = 64 << 10


class GitFailedError(StagewrightError):
    """git ended with a status other than 0; `said` is the end of what it wrote to its standard error."""

    def __init__(self, message: str, *, said: str) -> None:
        super().__init__(message)
        self.said = said


@dataclass(frozen=True, slots=True)
class GitRunner:
    """Runs git for one build. `env` is the process's environment, of which only what is named here reaches git.

    `settings` are more settings, such as authorization; `ssh_socket` is the agent that ssh may ask. `local` lets git
    fetch from folders, and from nowhere else.
    """

    env: Mapping[str, str]
    cancel: threading.Event
    settings: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ssh_socket: str | None = None
    local: bool = False

    def run(self, *arguments: str, git_dir: str | None = None, work_tree: str | None = None, index: str = "") -> str:
        """What git prints. `index` is the index file to use instead of the repository's.

        Raises GitFailedError, NotFoundError without a git, and CanceledError once `cancel` is set, having killed it.
        """
        import subprocess

        command = ["git"]
        command += [f"--git-dir={git_dir}"] if git_dir else []
        command += [f"--work-tree={work_tree}"] if work_tree else []
        environment = self._environment()
        if index:
            environment["GIT_INDEX_FILE"] = index
        try:
            process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd=work_tree or git_dir or "/",
                start_new_session=True,
                umask=0o022,
            )
        except FileNotFoundError:
            raise NotFoundError("git is not installed here", hint="git repositories are fetched with it") from None
        with process:
            try:
                output, errors = self._read(process)
            except BaseException:
                _kill(process)
                raise
        if process.returncode:
            said = redact_text(errors.decode(errors="replace")).strip()
            raise GitFailedError(f"git {arguments[0]} failed: {_essence(said)}", said=said)
        return output.decode(errors="surrogateescape")

    def _read(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        """All that git prints, within bounds, and the end of what it complains of."""
        import selectors

        output, errors = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            assert process.stdout is not None and process.stderr is not None
            selector.register(process.stdout, selectors.EVENT_READ, output)
            selector.register(process.stderr, selectors.EVENT_READ, errors)
            while selector.get_map():
                # Nothing can wait for a pipe and for an event.
                for key, _ in selector.select(_LOOK_INTERVAL_S):
                    data = os.read(key.fd, _BLOCK)
                    if not data:
                        selector.unregister(key.fileobj)
                    key.data.extend(data)
                if self.cancel.is_set():
                    raise CanceledError
                if len(output) > _MAX_OUTPUT:
                    raise StagewrightError(f"git printed more than {_MAX_OUTPUT >> 20} MiB: a server sends too much")
                del errors[:-_KEPT_ERRORS]
        return bytes(output), bytes(errors)

    def _environment(self) -> dict[str, str]:
        found = {
            "PATH": self.env.get("PATH") or os.defpath,
            "HOME": "/dev/null",
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "false",
            "GIT_SSH_COMMAND": self._ssh_command(),
            "GIT_SSH_VARIANT": "ssh",
            "GIT_ALLOW_PROTOCOL": "file" if self.local else _PROTOCOLS,
        }
        for name in _PROXIES:
            found |= {spelt: self.env[spelt] for spelt in (name, name.lower()) if spelt in self.env}
        # git's own TLS library does not look at the variable that everything else here does.
        authorities = self.env.get("GIT_SSL_CAINFO") or self.env.get("SSL_CERT_FILE")
        if authorities:
            found["GIT_SSL_CAINFO"] = authorities
        if self.ssh_socket is not None:
            found["SSH_AUTH_SOCK"] = self.ssh_socket
        settings = [*_SETTINGS.items(), *self.settings]
        found["GIT_CONFIG_COUNT"] = str(len(settings))
        for number, (name, value) in enumerate(settings):
            found[f"GIT_CONFIG_KEY_{number}"], found[f"GIT_CONFIG_VALUE_{number}"] = name, value
        return found

    def _ssh_command(self) -> str:
        """ssh with the build's agent and no other key, and no configuration.

        A host key that the user's known hosts have must be that one. One that they don't have is taken as it comes, as
        BuildKit does, and not kept.
        """
        home = self.env.get("HOME", "")
        known = [path for path in (f"{home}/.ssh/known_hosts", f"{home}/.ssh/known_hosts2") if os.path.isfile(path)]
        # ssh adds keys to the first of these files.
        files = " ".join(["/dev/null", *(f'"{path}"' for path in known if '"' not in path)])
        options = {
            "UserKnownHostsFile": files,
            "StrictHostKeyChecking": "accept-new",
            "IdentityFile": "none",
            "BatchMode": "yes",
            "ConnectTimeout": "30",
        }
        words = ["ssh", "-F", "/dev/null", "-a", "-x"]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        return shlex.join(words)


def failing(what: str, run: Callable[[], T]) -> T:
    """What `run` answers; where git fails, why, behind what could not be done, and what may help."""
    try:
        return run()
    except GitFailedError as error:
        hint = next((advice for sign, advice in _ADVICE if sign in error.said), None)
        raise StagewrightError(f"{what}: {error.message}", hint=hint) from error


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End git and the helpers that it started."""
    import signal

    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _essence(said: str) -> str:
    """The line that says what went wrong, of all that git says."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("Warning: ")]
    for said_before, line in pairwise(lines):
        if _SSH_FAILED in line:
            return said_before
    for mark in ("fatal: ", "error: ", "remote: "):
        found = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
        if found:
            return found[0]
    return lines[-1] if lines else "it did not say why"
