"""Docker's `config.json`: where it is, and what of it concerns more than credentials."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from stagewright.errors import UsageError

_PROXIES = {
    "httpProxy": "HTTP_PROXY",
    "httpsProxy": "HTTPS_PROXY",
    "noProxy": "NO_PROXY",
    "ftpProxy": "FTP_PROXY",
    "allProxy": "ALL_PROXY",
}


def docker_config_path(env: Mapping[str, str]) -> str | None:
    """The file's path by DOCKER_CONFIG or HOME; None where neither is set."""
    directory = env.get("DOCKER_CONFIG")
    if not directory and env.get("HOME"):
        directory = os.path.join(env["HOME"], ".docker")
    return os.path.join(directory, "config.json") if directory else None


def read_docker_config(env: Mapping[str, str]) -> dict[str, Any]:
    """The file's content; empty where there is none. Raises UsageError where it cannot be understood."""
    path = docker_config_path(env)
    if path is None:
        return {}
    try:
        with open(path, "rb") as file:
            document = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        # The decoder's own message could quote a secret.
        raise UsageError(f"{path} is not valid JSON") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path} is not a JSON object")
    return document


def proxy_arguments(env: Mapping[str, str]) -> dict[str, str]:
    """The proxies for steps that the user has set there, as build arguments, which buildx makes of them.

    Each has its name in both cases. Raises UsageError as `read_docker_config`.
    """
    proxies = read_docker_config(env).get("proxies")
    default = proxies.get("default") if isinstance(proxies, dict) else None
    arguments: dict[str, str] = {}
    if isinstance(default, dict):
        for key, name in _PROXIES.items():
            value = default.get(key)
            if isinstance(value, str) and value:
                arguments |= {name: value, name.lower(): value}
    return arguments
