"""The other runtime: steps run by an OCI runtime such as runc, crun or runsc."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from stagewright import privilege
from stagewright.errors import SandboxError
from stagewright.options import StepLimits
from stagewright.sandbox import cgroups, kernel_mounts, seccomp
from stagewright.sandbox.launched import LaunchedRuntime
from stagewright.sandbox.launching import LauncherSlot
from stagewright.sandbox.network import BuildNetwork
from stagewright.sandbox.request import build_request
from stagewright.sandbox.running import StepRun
from stagewright.sandbox.spec import Cancellation, Outcome, OutputSink, Step

_LOCKED = ["nosuid", "noexec", "nodev"]
_NAMESPACES = ("pid", "mount", "ipc", "uts", "cgroup")
_CGROUP_MOUNTS = "/sys/fs/cgroup"


class OciRuntime(LaunchedRuntime):
    """Runs steps by the OCI runtime at `path`, or of that name in PATH. Raises SandboxError where there is none.

    `notify` gets a line on what steps must do without on this machine.
    """

    shares_folders = True

    def __init__(
        self, path: str, limits: StepLimits | None = None, notify: Callable[[str], None] = lambda text: None
    ) -> None:
        found = shutil.which(path)
        if found is None:
            raise SandboxError(f"there is no OCI runtime {path!r}")
        self._path = os.path.abspath(found)
        # Only ever a place to mount upon, in the namespace of one step.
        self._directory = tempfile.mkdtemp(prefix="stagewright-oci-")
        self._limits = limits or StepLimits()
        self._cgroup = os.path.join(self._limits.cgroup_parent or "", os.path.basename(self._directory))
        super().__init__(LauncherSlot((self._directory, self._cgroup)), BuildNetwork(notify))
        if privilege.in_user_namespace() and (complaint := cgroups.complaint(self._limits, frozenset())) is not None:
            notify(complaint)
        self._numbers = itertools.count(1)

    def run(self, step: Step, on_output: OutputSink, cancel: Cancellation) -> Outcome:
        """See `Runtime.run`."""
        launcher = self._launcher.get()
        joined = self._network.join(step.network, launcher)
        if privilege.in_user_namespace():
            step = cgroups.contained(step, self._limits, frozenset())
        request = build_request(step, joined.resolv_conf)
        number = next(self._numbers)
        cgroup = f"{self._cgroup}/step{number}"
        resources = cgroups.oci_resources(self._limits)
        config = bundle_config(
            step, request["limits"], cgroup, joined=joined.namespace is not None, resources=resources
        )
        request["oci"] = {
            "runtime": self._path,
            "directory": self._directory,
            "id": f"step{number}",
            "config": config,
        }
        return StepRun(step, request, on_output, cancel).run(launcher, joined.namespace)

    def close(self) -> None:
        """See `Runtime.close`."""
        super().close()
        # The launcher has done so, if it was ever started.
        shutil.rmtree(self._directory, ignore_errors=True)


def bundle_config(
    step: Step,
    limits: list[tuple[int, int, int]],
    cgroup: str,
    *,
    joined: bool = False,
    resources: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The config.json of a step, less what only its root file system tells: user, environment, root, own mounts.

    `joined` says that the runtime is started in a network of the build's own, which the step has with it. `resources`
    are the limits of the step's control group, which it only has outside of user namespaces.
    """
    insecure = step.security == "insecure"
    namespaces = [*_NAMESPACES, *(["network"] if step.network == "none" else [])]
    rlimits = [
        {"type": f"RLIMIT_{name.upper()}", "soft": _unsigned(soft), "hard": _unsigned(hard)}
        for (name, _, _), (_, soft, hard) in zip(step.ulimits, limits, strict=True)
    ]
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in namespaces],
        "resources": {"devices": [{"allow": insecure, "access": "rwm"}]},
    }
    if not privilege.in_user_namespace():
        # In one there may be no groups to make; a runtime that is given no path does without.
        linux["cgroupsPath"] = cgroup
        linux["resources"].update(resources or {})
    if insecure:
        linux["devices"] = _host_devices()
    else:
        linux["seccomp"] = seccomp.oci_profile(os.uname().machine)
        linux["maskedPaths"] = [
            *(f"/proc/{path}" for path in kernel_mounts.MASKED_IN_PROC),
            *(f"/sys/{path}" for path in kernel_mounts.masked_in_sys()),
        ]
        linux["readonlyPaths"] = [f"/proc/{path}" for path in kernel_mounts.READONLY_IN_PROC]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "args": list(step.args),
            "cwd": step.cwd,
            "rlimits": rlimits,
            "noNewPrivileges": False,
        },
        "hostname": step.hostname,
        "mounts": _kernel_mounts(step.shm_size, insecure, own_network=joined or step.network == "none"),
        "linux": linux,
    }


def _kernel_mounts(shm_size: int, insecure: bool, *, own_network: bool) -> list[dict[str, Any]]:
    nodev = [] if insecure else ["nodev"]
    sys_options = [*_LOCKED] if insecure else [*_LOCKED, "ro"]
    tty_group = [] if privilege.has_one_id() else [f"gid={kernel_mounts.TTY_GROUP}"]
    found = [
        _mount("/proc", "proc", _LOCKED),
        _sys_mount(sys_options, own_network),
        _mount("/dev", "tmpfs", ["nosuid", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *tty_group]),
        _mount("/dev/shm", "tmpfs", ["nosuid", "noexec", *nodev, "mode=1777", f"size={shm_size}"], "shm"),
        _mount("/dev/mqueue", "mqueue", _LOCKED),
    ]
    if kernel_mounts.is_cgroup2(_CGROUP_MOUNTS):
        found.append(_mount(_CGROUP_MOUNTS, "cgroup", sys_options))
    return found


def _sys_mount(options: list[str], own_network: bool) -> dict[str, Any]:
    """A new /sys, or in a user namespace on the machine's network, of which it may make none, the machine's own."""
    if own_network or not privilege.in_user_namespace():
        return _mount("/sys", "sysfs", options)
    whole = ["rbind", *("rro" if option == "ro" else option for option in options)]
    return {"destination": "/sys", "type": "bind", "source": "/sys", "options": whole}


def _mount(destination: str, fstype: str, options: list[str], source: str | None = None) -> dict[str, Any]:
    return {"destination": destination, "type": fstype, "source": source or fstype, "options": options}


def _host_devices() -> list[dict[str, Any]]:
    """An insecure step sees the host's device nodes."""
    devices = []
    for entry in os.scandir("/dev"):
        status = entry.stat(follow_symlinks=False)
        kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
        if kind:
            device = status.st_rdev
            devices.append(
                {
                    "path": entry.path,
                    "type": kind,
                    "major": os.major(device),
                    "minor": os.minor(device),
                    "fileMode": stat.S_IMODE(status.st_mode),
                    "uid": status.st_uid,
                    "gid": status.st_gid,
                }
            )
    return devices


def _unsigned(limit: int) -> int:
    return limit if limit >= 0 else (1 << 64) - 1
