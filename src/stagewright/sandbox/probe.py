"""Finds out what this machine can do for steps, for `stagewright info`."""

from __future__ import annotations

import os
import tempfile
import threading

from stagewright import privilege
from stagewright.records import dataclass

_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_OCI_RUNTIMES = ("runc", "crun", "runsc")
_VERSION_TIMEOUT_S = 10
_ID_MAPPED_MOUNTS_SINCE = (5, 12)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing about this machine: `missing` says what does not work without it, None where all is well."""

    name: str
    value: str
    missing: str | None = None


def probe() -> tuple[Fact, ...]:
    """What there is and what is missing; takes some ten milliseconds a runtime that is installed."""
    return (
        Fact("kernel", f"{os.uname().release} {os.uname().machine}"),
        _namespaces(),
        _overlay(),
        _seccomp(),
        _id_mapped_mounts(),
        Fact("cgroups", cgroup_version()),
        _limits(),
        _network(),
        *_oci_runtimes(),
    )


def cgroup_version() -> str:
    """How control groups are mounted: "v2", "hybrid", "v1" or "none"."""
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
        mounts = [line.split(" ")[1:3] for line in file]
    kinds = {kind for target, kind in mounts if target.startswith("/sys/fs/cgroup")}
    if kinds >= {"cgroup", "cgroup2"}:
        return "hybrid"
    return "v2" if "cgroup2" in kinds else "v1" if "cgroup" in kinds else "none"


def _namespaces() -> Fact:
    found = [name for name in _NAMESPACES if os.path.exists(f"/proc/self/ns/{name}")]
    lacking = [name for name in _NAMESPACES if name not in found]
    return Fact("namespaces", " ".join(found), f"steps need {' '.join(lacking)} too" if lacking else None)


def _overlay() -> Fact:
    """Mount an overlay in a mount namespace that ends with the thread, with layers one by one and then at once."""
    from stagewright.sandbox import kernel

    answers: list[Fact] = []

    def attempt(directory: str) -> None:
        lower, upper, work = (os.path.join(directory, name) for name in ("lower", "upper", "work"))
        for path in (lower, upper, work):
            os.mkdir(path)
        writable: list[tuple[str, str | None]] = [("upperdir", upper), ("workdir", work)]
        if privilege.in_user_namespace():
            writable.append(("userxattr", None))
        try:
            kernel.unshare(kernel.CLONE_NEWNS)
        except OSError as error:
            answers.append(Fact("overlayfs", "not tried", f"no mount namespace: {error.strerror}"))
            return
        for key, value in (("lowerdir+", "layers one by one"), ("lowerdir", "layers in one option")):
            try:
                os.close(kernel.new_filesystem("overlay", [(key, lower), *writable]))
            except OSError as error:
                failure = error.strerror or str(error)
                continue
            answers.append(Fact("overlayfs", value))
            return
        answers.append(Fact("overlayfs", "refused", f"no step can run: {failure}"))

    with tempfile.TemporaryDirectory(prefix="stagewright-probe-") as directory:
        thread = threading.Thread(target=attempt, args=(directory,), name="probe-overlay")
        thread.start()
        thread.join()
    return answers[0]


def _seccomp() -> Fact:
    from stagewright.errors import SandboxError
    from stagewright.sandbox import seccomp

    actions = _read("/proc/sys/kernel/seccomp/actions_avail")
    if "errno" not in actions.split():
        return Fact("seccomp", "none", "no step can run without a filter")
    try:
        program = seccomp.default_filter(os.uname().machine)
    except SandboxError as error:
        return Fact("seccomp", "no profile", error.message)
    return Fact("seccomp", f"Docker's default profile, {len(program) // seccomp.INSTRUCTION_SIZE} instructions")


def _id_mapped_mounts() -> Fact:
    version = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2] if part.isdigit())
    return Fact("ID-mapped mounts", "yes" if version >= _ID_MAPPED_MOUNTS_SINCE else "no")


def _limits() -> Fact:
    """Which limits steps can have: the groups for all of them are made, and taken away again."""
    from stagewright.options import StepLimits
    from stagewright.sandbox import cgroups, groups

    wanted = StepLimits(memory=1, cpu_shares=2, cpuset_cpus="0", pids=1)
    made = groups.make(f"stagewright-probe-{os.getpid()}", cgroups.plan(wanted))
    controllers = {controller for group in made for controller, _, _ in group.settings}
    for group in made:
        group.remove()
    lacking = cgroups.asked_for(wanted) - controllers
    value = ", ".join(sorted(controllers)) or "none"
    if not lacking:
        return Fact("limits of steps", value)
    why = "this user has no control groups of version 2" if cgroup_version() == "v2" else "they take cgroups v2"
    return Fact("limits of steps", value, f"no limits of {', '.join(sorted(lacking))}: {why}")


def _network() -> Fact:
    from stagewright.sandbox import network

    lacking = network.missing_means()
    if lacking is not None:
        return Fact("network of steps", "the host's", f"{lacking}: steps reach the host's loopback addresses")
    program = network.available_programs()[0]
    return Fact("network of steps", f"one of the build's own by {program}")


def _oci_runtimes() -> list[Fact]:
    import shutil
    import subprocess

    facts = []
    for name in _OCI_RUNTIMES:
        path = shutil.which(name)
        if path is None:
            continue
        try:
            command = [path, "--version"]
            run = subprocess.run(command, capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            facts.append(Fact(f"OCI runtime {name}", path, f"it does not start: {error}"))
            continue
        version = run.stdout.split("\n", 1)[0].removeprefix(f"{name} version ")
        missing = None
        if name == "crun" and cgroup_version() == "hybrid":
            missing = "crun does not run with hybrid control groups"
        facts.append(Fact(f"OCI runtime {name}", f"{version} at {path}", missing))
    return facts or [Fact("OCI runtimes", "none found", "--oci-runtime needs runc, crun or runsc")]


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
