"""A step run by an OCI runtime: the bundle is made in memory, in a mount namespace that goes with the step.

The runtime and everything it starts live in a PID namespace whose first process is ours, so killing that one kills all.
"""

from __future__ import annotations

import json
import os
import re

from stagewright import privilege
from stagewright.sandbox import kernel, process, wire
from stagewright.sandbox.child import MAX_USER_FILE, USER_FILES, Child
from stagewright.sandbox.kernel_mounts import protect_devices
from stagewright.sandbox.mounts import FileSystem
from stagewright.sandbox.stage import Stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_LOG = "log.json"
_STATE = "state"
_CONFIG = "config.json"


class BundleChild(Child):
    """Makes a bundle and waits for the runtime. `request["oci"]` has what `oci.bundle_request` makes."""

    def run(self) -> NoReturn:
        """See `Child.run`."""
        oci = self._request["oci"]
        kernel.unshare(kernel.CLONE_NEWNS)
        self.doing = "mount /proc"
        # The runtime looks for its children there by their numbers in our PID namespace.
        kernel.move_mount_to(kernel.new_filesystem("proc", []), "/proc")
        if privilege.in_user_namespace():
            self.doing = "protect the devices"
            protect_devices()
        bundle = oci["directory"]
        config = self._make_bundle(bundle, oci["config"])
        with open(f"{bundle}/{_CONFIG}", "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(config, file)
        os.mkdir(f"{bundle}/{_STATE}", 0o700)
        self.doing = f"run {oci['runtime']}"
        code = self._run_runtime(oci["runtime"], bundle, oci["id"])
        if code:
            _explain_failure(f"{bundle}/{_LOG}")
        os._exit(code)

    def _make_bundle(self, bundle: str, config: dict[str, Any]) -> dict[str, Any]:
        """Mount the sources of all mounts and complete the configuration."""
        request = self._request
        self.doing = "mount the root file system"
        nodev = 0 if self._insecure else kernel.MOUNT_ATTR_NODEV
        files = FileSystem(request["root"], request["descriptors"], Stage(bundle), nodev=nodev)
        try:
            for target in ("/proc", "/sys", "/dev"):
                self.doing = f"make {target}"
                files.reserve(target)
            for path, name in self._attach_mounts(files):
                source = f"{bundle}/{name}"
                config["mounts"].append({"destination": path, "type": "bind", "source": source, "options": ["bind"]})
            self._check_user_files(files)
            uid, gid, groups, home = self._find_user(files)
            self.doing = f"make the working directory {request['cwd']}"
            files.make_directory(request["cwd"], uid, gid)
        finally:
            wire.send(self._status, (wire.STUBS, *files.stubs.report()))
        config["root"] = {"path": f"{bundle}/{files.root_name}"}
        settings = config["process"]
        additional = [] if privilege.has_one_id() else list(groups)
        settings["user"] = {"uid": uid, "gid": gid, "additionalGids": additional, "umask": 0o022}
        settings["env"] = [f"{key}={value}" for key, value in self._environment(home).items()]
        kept = self._kept_capabilities()
        names = [name for number, name in enumerate(process.CAPABILITY_NAMES) if kept >> number & 1]
        settings["capabilities"] = {"bounding": names, "effective": names, "permitted": names}
        if self._insecure:
            settings["capabilities"].update(inheritable=names, ambient=names)
        return config

    def _check_user_files(self, files: FileSystem) -> None:
        """A runtime reads these too, whatever their size, by way of links into /proc as well, and waits at a FIFO."""
        for path in USER_FILES:
            if not files.is_plain(path, MAX_USER_FILE):
                raise ValueError(f"{path} of the image is not a regular file of up to {MAX_USER_FILE >> 20} MiB")

    def _run_runtime(self, runtime: str, bundle: str, container_id: str) -> int:
        pid = os.fork()
        if not pid:
            self._become_runtime(runtime, bundle, container_id)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code if code >= 0 else 128 - code

    def _become_runtime(self, runtime: str, bundle: str, container_id: str) -> NoReturn:
        logging = ["--log", f"{bundle}/{_LOG}", "--log-format", "json"]
        command = [runtime, "--root", f"{bundle}/{_STATE}", *logging, "run", "--bundle", bundle, container_id]
        os.closerange(3, 1 << 30)
        kernel.default_signals()
        try:
            os.execve(runtime, command, os.environ)  # noqa: S606 -- no shell is wanted
        except OSError as error:
            with open(f"{bundle}/{_LOG}", "w", encoding="utf-8") as file:
                json.dump({"level": "error", "msg": f"cannot run {runtime}: {error.strerror}"}, file)
            os._exit(process.NOT_FOUND)


def _explain_failure(log: str) -> None:
    """Tell a runtime that could not start the step from a step that failed: only the former logs an error.

    The runtime has written the message to the step's standard error already.
    """
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            entries = [json.loads(line) for line in file if line.strip()]
    except (FileNotFoundError, ValueError):
        return
    errors = [str(entry.get("msg", "")) for entry in entries if entry.get("level") == "error"]
    if not errors:
        return
    message = errors[-1]
    about_program = re.search(r"exec:? |executable file ", message)
    if about_program and re.search(r"not found|no such file", message, re.IGNORECASE):
        raise process.CannotRunError(process.NOT_FOUND, "")
    if about_program and re.search(r"permission denied", message, re.IGNORECASE):
        raise process.CannotRunError(process.NOT_EXECUTABLE, "")
    raise ValueError(message)
