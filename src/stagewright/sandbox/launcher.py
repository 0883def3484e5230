"""The helper process that starts steps: a small program of one thread, which can fork safely and quickly.

It is the first process of a PID namespace of its own, in a mount namespace of its own: whatever ends it, the kernel
ends all steps with it and no mount is left. `native` is the side that calls, `wire` says what goes to and fro.

From the first step on there is always a process ready for the next one, forked, contained and in the network of the
last one while others run: a step that comes waits for none of that.
"""

from __future__ import annotations

import gc
import os
import select
from _socket import socket, socketpair

from stagewright import privilege
from stagewright.sandbox import coredumps, devices_bpf, groups, kernel, leftovers, process, wire
from stagewright.sandbox.child import Child, NativeChild

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

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


class _Newborn:
    """A forked process that waits on a socket for what to be.

    `number` is that of its control groups, `network` the namespace that it has entered (see `_identity`).
    """

    def __init__(self, pid: int, number: int, sock: socket, network: tuple[int, int] | None) -> None:
        self.pid = pid
        self.number = number
        self.socket = sock
        self.network = network


class _Launcher:
    def __init__(
        self, control: socket, program: bytes, with_bundles: bool, build_groups: list[BuildGroup]
    ) -> None:
        self._control = control
        self._groups = build_groups
        self._steps = 0
        self._device_rules = devices_bpf.load_for(build_groups)
        self._common_is_ruled = False
        for group in build_groups:
            if group.is_common:
                self._common_is_ruled = self._rule(group.add_common())
        self._privileges = process.Privileges(kernel.SeccompProgram(program))
        # Found out once for all children.
        privilege.in_user_namespace()
        privilege.has_one_id()
        self._child_type: type[Child] = NativeChild
        if with_bundles:
            from stagewright.sandbox.bundle import BundleChild

            self._child_type = BundleChild
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self._children: dict[int, tuple[int, socket, int]] = {}
        self._spare: _Newborn | None = None
        self._network: int | None = None
        self._beginning: dict[int, socket] = {}
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
                if fd in self._beginning:
                    self._poll.unregister(fd)
                    self._beginning.pop(fd).close()
                    self._bear_ahead()
                    continue
                kind, descriptors = wire.receive(self._control, 1, 4)
                if not kind:
                    os._exit(0)
                self._obey(kind, descriptors)

    def _obey(self, kind: bytes, descriptors: list[int]) -> None:
        outputs = [] if kind == wire.AHEAD else descriptors[:3]
        network = descriptors[len(outputs)] if len(descriptors) > len(outputs) else None
        if outputs:
            self._start(kind, outputs, network)
        if kind != wire.OTHER:
            network, self._network = self._network, network
        if network is not None:
            os.close(network)
        if kind == wire.AHEAD:
            self._bear_ahead()

    def _start(self, kind: bytes, descriptors: list[int], network: int | None) -> None:
        status = socket(fileno=descriptors[0])
        try:
            spare = self._take_spare(network) if kind == wire.STEP else None
            born = self._hand_over(spare, descriptors) or self._hand_over(self._bear(kind, network), descriptors)
            if born is None:
                raise ChildProcessError(0, "it has died")
            if kind == wire.STEP:
                self._beginning[born.socket.fileno()] = born.socket
                self._poll.register(born.socket, select.POLLIN)
            else:
                born.socket.close()
            pidfd = os.pidfd_open(born.pid)
            self._children[pidfd] = (born.pid, status, born.number)
            self._poll.register(pidfd, select.POLLIN)
            self._tell(status, (wire.STARTED,), [pidfd])
        except OSError as error:
            self._tell(status, (wire.FAILED, f"cannot start a process: {error.strerror}"))
            status.close()
        finally:
            for fd in descriptors[1:]:
                os.close(fd)

    def _take_spare(self, network: int | None) -> _Newborn | None:
        """The process that is ready, if it is for a step in this network."""
        if self._spare is None or self._spare.network != _identity(network):
            return None
        spare, self._spare = self._spare, None
        return spare

    def _bear_ahead(self) -> None:
        """Have a process ready for a step that is like the last one."""
        if self._spare is None:
            try:
                self._spare = self._bear(wire.STEP, self._network)
            except OSError:
                # The step that needs it will say why.
                return

    def _bear(self, kind: bytes, network: int | None) -> _Newborn:
        """Fork a process that waits for what to be, in a network namespace or the machine's. Raises OSError."""
        self._steps += 1
        number = self._steps
        ours, theirs = socketpair()
        try:
            places = [(group, group.add_step(number)) for group in self._groups if not group.is_common]
            kernel.unshare(kernel.CLONE_NEWPID)
            pid = os.fork()
            if not pid:
                ours.close()
                self._live(kind, number, theirs, places, network)
            kernel.setns(self._pid_namespace, kernel.CLONE_NEWPID)
        except OSError:
            self._remove_groups(number)
            ours.close()
            raise
        finally:
            theirs.close()
        return _Newborn(pid, number, ours, _identity(network))

    def _hand_over(self, born: _Newborn | None, descriptors: list[int]) -> _Newborn | None:
        """Have a process be what the descriptors are of; None where there is none, or it is dead."""
        if born is None:
            return None
        try:
            wire.send_descriptors(born.socket, descriptors)
        except OSError:
            born.socket.close()
            os.waitpid(born.pid, 0)
            self._remove_groups(born.number)
            return None
        return born

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

    def _live(
        self, kind: bytes, number: int, waiting: socket, places: list[tuple[BuildGroup, str]], network: int | None
    ) -> NoReturn:
        """What a forked process does: get ready, wait for what to be, and be that."""
        child: Child | None = None
        failure: Exception | None = None
        try:
            self._let_go()
            if kind == wire.STEP:
                child = self._contained(places)
                child.get_ready(network)
        except Exception as error:
            failure = error
        data, descriptors = wire.receive(waiting, 1, 3)
        if not data:
            os._exit(1)
        status = socket(fileno=descriptors[0])
        try:
            if failure is not None:
                raise failure
            request = wire.receive_request(status)
            if child is None:
                self._leave_common(number)
                if "command" in request:
                    from stagewright.sandbox.network_child import NetworkChild

                    waiting.close()
                    NetworkChild(request, status, self._privileges.bounding).run()
                child = self._insecure(places)
                child.get_ready(network)
            child.take(request, status)
            os.dup2(descriptors[1], 1)
            os.dup2(descriptors[2], 2)
            child.run()
        except process.CannotRunError as error:
            os.write(2, "".join(f"{line}\n" for line in error.args if line).encode(errors="surrogateescape"))
            os._exit(error.exit_code)
        except EOFError:
            os._exit(1)
        except Exception as error:
            self._tell(status, (wire.FAILED, child.explain(error) if child is not None else str(error)))
        os._exit(1)

    def _let_go(self) -> None:
        """Close what the launcher has open for others."""
        self._control.close()
        for pidfd, (_, status, _) in self._children.items():
            os.close(pidfd)
            status.close()
        for sock in self._beginning.values():
            sock.close()

    def _contained(self, places: list[tuple[BuildGroup, str]]) -> Child:
        """Move to the groups of a step that is contained."""
        ruled = self._common_is_ruled
        for group, place in places:
            group.join(place)
            if group.is_v2:
                ruled = self._rule(place)
        return self._child_type(self._privileges, insecure=False, devices_ruled=ruled)

    def _insecure(self, places: list[tuple[BuildGroup, str]]) -> Child:
        """Move to the groups of an insecure step, for which there are no rules on devices."""
        for group, place in places:
            group.join(place)
        return self._child_type(self._privileges, insecure=True, devices_ruled=False)

    def _leave_common(self, number: int) -> None:
        """Move what the rules on devices are not for to a group of its own."""
        for group in self._groups:
            if group.is_common:
                group.join(group.add_step(number))

    def _rule(self, place: str) -> bool:
        """Whether the rules on devices hold in a group now."""
        return self._device_rules is not None and devices_bpf.attach(self._device_rules, place)


def _identity(network: int | None) -> tuple[int, int] | None:
    """What tells the namespace of a descriptor from others; None for the machine's network."""
    if network is None:
        return None
    found = os.fstat(network)
    return found.st_dev, found.st_ino


def _be_killable() -> None:
    """Steps have no share in a protection from the kernel's OOM killer that the builder may have."""
    with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
        if int(file.read()) < 0:
            file.seek(0)
            file.write("0")
