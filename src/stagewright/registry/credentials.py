"""Registry credentials from Docker's `config.json` and from the credential helpers that it names."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

from stagewright.errors import RegistryError, UsageError
from stagewright.records import dataclass, field
from stagewright.redaction import redact_text
from stagewright.registry.dockerconfig import docker_config_path, read_docker_config

_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_MAX_SAID = 200
_HELPER_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Credential:
    """A user name with a password, or an identity token (an OAuth2 refresh token)."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


class CredentialStore:
    """The credentials of one user. `env` says where they are: DOCKER_CONFIG or HOME, and PATH for the helpers.

    The file is read when a registry first asks for credentials. Safe for use by several threads.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._lock = threading.Lock()
        self._document: dict[str, Any] | None = None
        self._found: dict[str, Credential | None] = {}

    def get(self, host: str) -> Credential | None:
        """The credential for a registry HOST[:PORT], None where there is none.

        Raises UsageError for a `config.json` that cannot be understood and RegistryError for a helper that fails.
        """
        with self._lock:
            if host not in self._found:
                if self._document is None:
                    self._document = read_docker_config(self._env)
                self._found[host] = self._look_up(host, self._document)
            return self._found[host]

    def _look_up(self, host: str, document: dict[str, Any]) -> Credential | None:
        key = _HUB_KEY if host in _HUB_HOSTS else host
        helpers = document.get("credHelpers")
        helper = helpers.get(key, helpers.get(host)) if isinstance(helpers, dict) else None
        helper = helper or document.get("credsStore")
        if isinstance(helper, str) and helper:
            return self._ask_helper(helper, key)
        auths = document.get("auths")
        if not isinstance(auths, dict):
            return None
        entry = auths.get(key)
        if entry is None:
            entry = next((value for name, value in auths.items() if _hostname(name) == _hostname(key)), None)
        return self._from_entry(entry, host) if isinstance(entry, dict) else None

    def _from_entry(self, entry: dict[str, Any], host: str) -> Credential | None:
        import base64

        username, password = _text(entry, "username"), _text(entry, "password")
        if _text(entry, "auth"):
            try:
                decoded = base64.b64decode(_text(entry, "auth"), validate=True).decode()
            except ValueError:
                raise UsageError(f"{docker_config_path(self._env)}: auth of {host} is not valid base64") from None
            username, _, password = decoded.partition(":")
            password = password.rstrip("\0")
        token = _text(entry, "identitytoken")
        return Credential(username, password, token) if username or token else None

    def _ask_helper(self, helper: str, server: str) -> Credential | None:
        import subprocess

        program = f"docker-credential-{helper}"
        if "/" in helper:
            raise UsageError(f'{docker_config_path(self._env)}: "{helper}" is not the name of a credential helper')
        try:
            done = subprocess.run(
                [program, "get"], input=server.encode(), capture_output=True, timeout=_HELPER_TIMEOUT_S, env=self._env
            )
        except FileNotFoundError:
            raise RegistryError(
                f"credential helper {program} is not installed",
                hint=f"install it, or take it out of {docker_config_path(self._env)}",
            ) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RegistryError(f"credential helper {program} failed: {type(error).__name__}") from None
        if done.returncode != 0:
            said = done.stdout.decode(errors="replace").strip()
            if "credentials not found" in said:
                return None
            # A helper that fails after all may have said what was asked for.
            reason = "" if "Secret" in said else f": {redact_text(said[:_MAX_SAID])}"
            raise RegistryError(f"credential helper {program} failed for {server}{reason}")
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise RegistryError(f"credential helper {program} did not answer with a JSON object")
        username, secret = _text(answer, "Username"), _text(answer, "Secret")
        if username == "<token>":
            return Credential(identity_token=secret)
        return Credential(username, secret) if username else None


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _hostname(key: str) -> str:
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]
