"""Turns a Step into the request that the launcher takes: plain values, with the files that every container gets."""

from __future__ import annotations

from typing import Any

from stagewright.errors import SandboxError
from stagewright.sandbox.resolver import host_resolver, reachable
from stagewright.sandbox.spec import BindMount, Mount, Root, SecretMount, SshMount, Step, TmpfsMount

HOST_CA_PATH = "/run/stagewright/ca-certificates.crt"

# What OpenSSL (and with it uv, Go and Ruby), pip, requests, Node, git, curl, Cargo, Deno and the AWS tools read.
HOST_CA_VARIABLES = (
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CURL_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
    "AWS_CA_BUNDLE",
)
_APT_CONFIG_PATH = "/run/stagewright/apt.conf"
_HOSTS, _RESOLVER = "/etc/hosts", "/etc/resolv.conf"

_PUBLIC_FILE = (0o644, 0, 0)


def build_request(step: Step, resolver: str | None = None) -> dict[str, Any]:
    """The request for a step, in the types of `marshal`. Raises SandboxError where the step makes no sense.

    `resolver` is the text of /etc/resolv.conf in a network of the build's own. A mount is (kind, target, is optional,
    details of the kind); an optional one is left out where a root that is read-only has no place for it.
    "descriptors" are mounts that travel beside the request.
    """
    if not step.args:
        raise SandboxError("the step has no program to run")
    if not step.cwd.startswith("/"):
        raise SandboxError(f"the working directory {step.cwd!r} is not an absolute path")
    descriptors: list[int] = []
    if resolver is None:
        resolver = host_resolver() if step.network != "none" else reachable(host_resolver())
    mounts = [
        ("file", _HOSTS, True, hosts_file(step).encode(), *_PUBLIC_FILE),
        ("file", _RESOLVER, True, resolver.encode(errors="surrogateescape"), *_PUBLIC_FILE),
        *(_mount_request(mount, descriptors) for mount in step.mounts),
    ]
    environment = list(step.env)
    if step.host_ca is not None:
        files, variables = _host_ca(step.host_ca, environment)
        mounts += files
        environment += variables
    _refuse_nul([*step.args, step.cwd, step.user, step.hostname])
    for entry in environment:
        if "\0" in entry:
            # Its value may be a secret.
            raise SandboxError(f"a NUL character in the environment variable {entry.partition('=')[0]}")
    return {
        "args": list(step.args),
        "env": environment,
        "cwd": step.cwd,
        "user": step.user,
        "hostname": step.hostname,
        "insecure": step.security == "insecure",
        "private_network": step.network == "none",
        "root": _root_request(step.root, descriptors),
        "descriptors": descriptors,
        "mounts": sorted(mounts, key=lambda mount: _depth(mount[1])),
        "limits": [_limit(*limit) for limit in step.ulimits],
        "shm_size": step.shm_size,
    }


def own_files(host_ca: str | None) -> tuple[str, ...]:
    """Upon which files something is mounted in each step, which trusts the host's certificates or (None) does not."""
    return (_HOSTS, _RESOLVER) if host_ca is None else (_HOSTS, _RESOLVER, HOST_CA_PATH, _APT_CONFIG_PATH)


def hosts_file(step: Step) -> str:
    """The text of the step's /etc/hosts."""
    lines = [
        f"127.0.0.1\tlocalhost {step.hostname}",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        *(f"{address}\t{name}" for name, address in step.extra_hosts),
    ]
    return "\n".join(lines) + "\n"


def _depth(target: str) -> int:
    return len([part for part in target.split("/") if part not in ("", ".")])


def _root_request(
    root: Root, descriptors: list[int]
) -> tuple[list[str], str | None, str | None, int | None]:
    """The root as plain values; a mount that is there already is the place of its descriptor among `descriptors`."""
    if (root.upper is None) != (root.work is None):
        raise SandboxError("a root has an upper and a work directory, or neither")
    if root.merged is None:
        return list(root.lowers), root.upper, root.work, None
    descriptors.append(root.merged)
    return list(root.lowers), root.upper, root.work, len(descriptors) - 1


def _mount_request(mount: Mount, descriptors: list[int]) -> tuple[Any, ...]:
    if not mount.target.startswith("/"):
        raise SandboxError(f"the mount target {mount.target!r} is not an absolute path")
    if _depth(mount.target) == 0:
        raise SandboxError("a mount cannot take the place of the root directory")
    _refuse_nul([mount.target])
    match mount:
        case BindMount():
            source = mount.source if isinstance(mount.source, str) else _root_request(mount.source, descriptors)
            return "bind", mount.target, False, source, mount.subpath, mount.readonly
        case TmpfsMount():
            return "tmpfs", mount.target, False, mount.size, mount.mode
        case SecretMount():
            return "file", mount.target, False, mount.data, mount.mode, mount.uid, mount.gid
        case SshMount():
            return "ssh", mount.target, False, mount.socket, mount.mode, mount.uid, mount.gid


def _host_ca(path: str, environment: list[str]) -> tuple[list[tuple[Any, ...]], list[str]]:
    """The files and the variables by which programs trust the host's CA certificates.

    The image's own bundles stay as they are: a mount there would break `update-ca-certificates`, which renames a new
    bundle over the old one.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise SandboxError(f"cannot read the host's CA certificates: {path}: {error.strerror}") from None
    apt = f'Acquire::https::CaInfo "{HOST_CA_PATH}";\n'
    variables = {**dict.fromkeys(HOST_CA_VARIABLES, HOST_CA_PATH), "APT_CONFIG": _APT_CONFIG_PATH}
    present = {entry.partition("=")[0] for entry in environment}
    files: list[tuple[Any, ...]] = [
        ("file", HOST_CA_PATH, False, data, *_PUBLIC_FILE),
        ("file", _APT_CONFIG_PATH, False, apt.encode(), *_PUBLIC_FILE),
    ]
    return files, [f"{name}={value}" for name, value in variables.items() if name not in present]


def _limit(name: str, soft: int, hard: int) -> tuple[int, int, int]:
    import resource

    number = getattr(resource, f"RLIMIT_{name.upper()}", None)
    if not isinstance(number, int):
        raise SandboxError(f"there is no resource limit {name!r}")
    if hard != -1 and (soft == -1 or soft > hard):
        raise SandboxError(f"the soft limit of {name} is above its hard limit")
    return number, soft, hard


def _refuse_nul(values: list[str]) -> None:
    for value in values:
        if "\0" in value:
            raise SandboxError(f"a NUL character in {value!r}")
