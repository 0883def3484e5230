"""The helper process that starts steps: a small program of one thread, which can fork safely and quickly.

It is the first process of a PID namespace of its own, in a mount namespace of its own: whatever ends it, the kernel
ends all steps with it and no mount is left. `native` is the side that calls, `wire` says what goes to and fro.
"""

from __future__ import annotations

import gc
import os
import select
from _socket import socket

from stagewright.sandbox import coredumps, devices_bpf, groups, kernel, leftovers, process, wire
from stagewright.sandbox.child import Child, NativeChild

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from stagewright.sandbox.groups import BuildGroup

_SIGKILL = 9


def main(control_fd: int) -> NoReturn:
    """Serve the socket `control_fd` until its other end is closed."""
    control = socket(fileno=control_fd)
    os.set_inheritable(control_fd, False)
    try:
        program, bundles, name, hierarchies = wire.receive_message(control)
        build_groups = groups.make(name, hierarchies)
        _enter_pid_namespace(bundles, build_groups)
        launcher = _Launcher(control, program, bundles is not None, build_groups)
    except (OSError, EOFError) as error:
        wire.send(control, (wire.FAILED, f"cannot start the launcher of steps: {error}"))
        os._exit(1)
    launcher.serve()


def _enter_pid_namespace(bundles: tuple[str, str] | None, build_groups: list[BuildGroup]) -> None:
    """Come back as the first process of a new PID namespace; the old process stays to clean up after it."""
    kernel.unshare(kernel.CLONE_NEWPID)
    pid = os.fork()
    if pid:
        os.closerange(0, 1 << 16)
        os.waitpid(pid, 0)
        if bundles is not None:
            leftovers.remove(*bundles)
        for group in build_groups:
            group.remove()
        os._exit(0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, _SIGKILL)


class _Launcher:
    def __init__(
        self, control: socket, program: bytes, with_bundles: bool, build_groups: list[BuildGroup]
    ) -> None:
        self._control = control
        self._groups = build_groups
        self._steps = 0
        self._device_rules = devices_bpf.load_for(build_groups)
        self._steps_are_ruled = False
        for group in build_groups:
            if group.is_common:
                self._steps_are_ruled = self._rule(group.add_common())
        self._privileges = process.Privileges(kernel.SeccompProgram(program))
        self._child_type: type[Child] = NativeChild
        if with_bundles:
            from stagewright.sandbox.bundle import BundleChild

            self._child_type = BundleChild
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self._null = os.open("/dev/null", os.O_RDONLY)
        self._children: dict[int, tuple[int, socket, int]] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        os.umask(0)
        coredumps.forgo_core_dumps()
        _be_killable()
        gc.disable()
        gc.freeze()
        wire.send(control, (wire.READY, sorted({name for group in build_groups for name, _, _ in group.settings})))

    def serve(self) -> NoReturn:
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._children:
                    self._reap(fd)
                    continue
                data, descriptors = wire.receive(self._control, 1, 4)
                if not data:
                    os._exit(0)
                self._start(*descriptors)

    def _start(self, status_fd: int, stdout: int, stderr: int, network: int | None = None) -> None:
        status = socket(fileno=status_fd)
        self._steps += 1
        number = self._steps
        try:
            places = [(group, group.add_step(number)) for group in self._groups if not group.is_common]
            kernel.unshare(kernel.CLONE_NEWPID)
            pid = os.fork()
            if not pid:
                self._run(number, status, stdout, stderr, network, places)
            kernel.setns(self._pid_namespace, kernel.CLONE_NEWPID)
            pidfd = os.pidfd_open(pid)
            self._children[pidfd] = (pid, status, number)
            self._poll.register(pidfd, select.POLLIN)
            self._tell(status, (wire.STARTED,), [pidfd])
        except OSError as error:
            self._tell(status, (wire.FAILED, f"cannot start a process: {error.strerror}"))
            self._remove_groups(number)
            status.close()
        finally:
            for fd in (stdout, stderr, network):
                if fd is not None:
                    os.close(fd)

    def _reap(self, pidfd: int) -> None:
        pid, status, number = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out_of_memory = any(group.has_run_out_of_memory(number) for group in self._groups)
        self._remove_groups(number)
        self._tell(status, (wire.EXITED, code if code >= 0 else 128 - code, max(0, -code), out_of_memory))
        status.close()

    def _remove_groups(self, number: int) -> None:
        for group in self._groups:
            group.remove_step(number)

    def _tell(self, status: socket, message: tuple[object, ...], descriptors: tuple[int, ...] | list[int] = ()) -> None:
        try:
            wire.send(status, message, descriptors)
        except OSError:
            # Nobody waits for this step any more.
            return

    def _run(
        self,
        number: int,
        status: socket,
        stdout: int,
        stderr: int,
        network: int | None,
        places: list[tuple[BuildGroup, str]],
    ) -> NoReturn:
        child: Child | None = None
        try:
            request = wire.receive_request(status)
            if "command" in request:
                from stagewright.sandbox.network_child import NetworkChild

                self._leave_common(number)
                NetworkChild(request, status, self._privileges.bounding).run()
            self._contain(number, request, places)
            child = self._child_type(request, status, self._privileges)
            if network is not None:
                child.join_network(network)
            os.dup2(self._null, 0)
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            child.run()
        except process.CannotRunError as error:
            os.write(2, "".join(f"{line}\n" for line in error.args if line).encode(errors="surrogateescape"))
            os._exit(error.exit_code)
        except EOFError:
            os._exit(1)
        except Exception as error:
            self._tell(status, (wire.FAILED, child.explain(error) if child is not None else str(error)))
        os._exit(1)

    def _contain(self, number: int, request: dict[str, Any], places: list[tuple[BuildGroup, str]]) -> None:
        """Move to the step's groups, and tell the child whether one of them keeps it off the machine's devices."""
        ruled = self._steps_are_ruled
        for group, place in places:
            group.join(place)
            if group.is_v2 and not request["insecure"]:
                ruled = self._rule(place)
        if request["insecure"]:
            self._leave_common(number)
            ruled = False
        request["devices_ruled"] = ruled

    def _leave_common(self, number: int) -> None:
        """Move what the rules on devices are not for to a group of its own."""
        for group in self._groups:
            if group.is_common:
                group.join(group.add_step(number))

    def _rule(self, place: str) -> bool:
        """Whether the rules on devices hold in a group now."""
        return self._device_rules is not None and devices_bpf.attach(self._device_rules, place)


def _be_killable() -> None:
    """Steps have no share in a protection from the kernel's OOM killer that the builder may have."""
    with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
        if int(file.read()) < 0:
            file.seek(0)
            file.write("0")
