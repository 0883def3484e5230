#!/usr/bin/env python3
"""Hands this machine's package settings (apt, pip, npm, proxies) to a build as secrets and build arguments.

`package_settings.py FOLDER` writes the files to FOLDER and prints the flags of `stagewright build`, one a line. Steps
take them with `--mount=type=secret,id=apt.conf|pip.conf|npmrc`, so that none of it gets into an image. Settings that
name files of this machine are left out: a step could not open them.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

DEBIAN_MIRROR = "http://deb.debian.org/debian"
APT_SETTING = re.compile(r'Acquire::(?:https?::[\w.:-]+|Check-Valid-Until|Check-Date|Retries|ForceIPv[46]) "([^"]+)";')
PIP_SETTINGS = {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries"}
NPM_SETTING = re.compile(r"(?:(?:@[^:=]+:)?registry|//[^=]+|strict-ssl|(?:https-)?proxy|noproxy)\s*=")
PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def flags(folder: Path) -> list[str]:
    """Write the settings that this machine has to `folder` and return the flags that give them to a build."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    result = ["--host-ca"]
    for name, text in (("apt.conf", apt_conf()), ("pip.conf", pip_conf()), ("npmrc", npmrc())):
        if text:
            path = folder / name
            path.touch(mode=0o600)
            path.write_text(text)
            result.append(f"--secret=id={name},src={path}")
    result += [f"--build-arg={name}" for name in PROXY_VARIABLES if name in os.environ]
    return result


def apt_conf() -> str:
    """How apt fetches here: proxies, retries and what it checks."""
    lines = output_of("apt-config", "dump").splitlines()
    found = [(line, match[1]) for line in lines if (match := APT_SETTING.fullmatch(line))]
    return "".join(f"{line}\n" for line, value in found if not value.startswith("/"))


def debian_mirror() -> str:
    """The URL of the Debian archive that this machine uses, or Debian's own."""
    targets = output_of("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian")
    for uri in targets.split():
        address = urlsplit(uri)
        if address.scheme in ("http", "https") and address.password is None:
            return uri.rstrip("/")
    return DEBIAN_MIRROR


def pip_conf() -> str:
    """Where pip fetches from here; a setting of the environment goes before one of a file, as it does for pip."""
    chosen: dict[str, str] = {}
    for line in output_of(sys.executable, "-m", "pip", "config", "list").splitlines():
        key, _, quoted = line.partition("=")
        section, _, name = key.rpartition(".")
        if name not in PIP_SETTINGS or (name in chosen and section != ":env:"):
            continue
        value = " ".join(word for word in str(ast.literal_eval(quoted)).split() if not is_local(word))
        if value:
            chosen[name.removeprefix("default-")] = value
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in chosen.items()) if chosen else ""


def npmrc() -> str:
    """Where npm fetches from here, and its credentials for it."""
    own = Path(os.environ.get("npm_config_userconfig", "~/.npmrc")).expanduser()  # noqa: SIM112 (npm's own spelling)
    lines = [line.strip() for path in (Path("/etc/npmrc"), own) if path.is_file() for line in path.open()]
    registry = os.environ.get("NPM_CONFIG_REGISTRY", os.environ.get("npm_config_registry"))  # noqa: SIM112
    if registry:
        lines.append(f"registry={registry}")
    return "".join(f"{os.path.expandvars(line)}\n" for line in lines if NPM_SETTING.match(line))


def is_local(word: str) -> bool:
    """Whether a pip setting's word names something on this machine's disk."""
    return word.startswith(("/", "file:"))


def output_of(*command: str) -> str:
    """What a program prints, or nothing where this machine does not have it or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print("\n".join(flags(Path(sys.argv[1]).resolve())))
