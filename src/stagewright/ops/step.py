"""Runs the command of an exec op in the sandbox, with the mounts that it asks for."""

from __future__ import annotations

import os
from collections import deque
from contextlib import ExitStack
from functools import partial
from operator import itemgetter

from stagewright.dockerfile.suggest import suggest
from stagewright.errors import SandboxError, StepFailedError
from stagewright.graph.ops import ExecOp, Mount
from stagewright.graph.vertex import Vertex
from stagewright.ops.copy import Copier
from stagewright.ops.exec import cache_identity, snapshot_of
from stagewright.ops.result import Result
from stagewright.ops.target import Target
from stagewright.ops.worker import Worker
from stagewright.progress.reporter import Reporter
from stagewright.redaction import redact_text
from stagewright.sandbox import spec
from stagewright.sandbox.request import own_files
from stagewright.snapshots import owners
from stagewright.snapshots.overlay import MAX_LOWERS
from stagewright.snapshots.store import Draft
from stagewright.sources.tree import Tree

_TAIL_BYTES = 16 << 10
_TAIL_LINES = 20
# From the one that waits for least to the one that waits for most.
_DEMANDS = ("private", "shared", "locked")


class Step:
    """One run of a command. What it has mounted is held until `stack` ends."""

    def __init__(self, worker: Worker, inputs: tuple[Result, ...], stack: ExitStack) -> None:
        self._worker = worker
        self._inputs = inputs
        self._stack = stack

    def run(self, op: ExecOp, draft: Draft, reporter: Reporter) -> tuple[spec.Outcome, str]:
        """Run the command in the draft; returns how it ended, and the end of its log."""
        env = [*op.env, *op.proxy_env]
        mounts: list[spec.Mount] = []
        caches = self._hold_caches(op)
        for mount in op.mounts:
            if mount.target == "/" and mount.kind == "bind":
                continue
            if mount.kind == "secret":
                self._add_secret(mount, mounts, env)
            elif mount.kind == "ssh":
                self._add_ssh(mount, mounts, env)
            elif mount.kind == "tmpfs":
                mounts.append(spec.TmpfsMount(mount.target, size=mount.size))
            elif mount.kind == "cache":
                folder = caches[cache_identity(mount, snapshot_of(mount, self._inputs))]
                mounts.append(spec.BindMount(mount.target, folder, readonly=mount.readonly, is_kept=True))
            else:
                mounts.append(self._bind_mount(mount))
        step = spec.Step(
            args=op.args,
            env=tuple(env),
            cwd=op.cwd,
            user=op.user,
            root=self._root(draft, own_files(self._worker.host_ca) if op.security != "insecure" else ()),
            mounts=tuple(mounts),
            network=op.network,
            security=op.security,
            hostname=op.hostname or spec.DEFAULT_HOSTNAME,
            extra_hosts=op.extra_hosts,
            ulimits=op.ulimits,
            shm_size=op.shm_size or spec.DEFAULT_SHM_SIZE,
            host_ca=self._worker.host_ca,
        )
        tail = _Tail()

        def on_output(stream: int, data: bytes) -> None:
            tail.add(reporter.log(stream, data))

        outcome = self._worker.runtime().run(step, on_output, self._worker.cancel)
        tail.add(reporter.end_log())
        return outcome, tail.text()

    def _root(self, draft: Draft, mountpoints: tuple[str, ...] = ()) -> spec.Root:
        """The merged tree of a draft, as this machine's way of merging has it, until the stack ends.

        Files at `mountpoints` that the step will not see itself may be in it as well.
        """
        snapshots = self._worker.snapshots
        lent = self._stack.enter_context(snapshots.lend(draft))
        if isinstance(lent, str):
            return spec.Root((), lent, draft.work)
        lowers = snapshots.lowers(draft.parent)
        if lent is None and mountpoints and 0 < len(lowers) < MAX_LOWERS:
            lowers = (*lowers, snapshots.mountpoints(mountpoints))
        return spec.Root(lowers, draft.fs, draft.work, merged=lent)

    def _bind_mount(self, mount: Mount) -> spec.BindMount:
        snapshots = self._worker.snapshots
        snapshot = snapshot_of(mount, self._inputs)
        if mount.readonly:
            lent = self._stack.enter_context(snapshots.lend_view(snapshot))
            source = lent if isinstance(lent, str) else spec.Root(snapshots.lowers(snapshot), merged=lent)
            return spec.BindMount(mount.target, source, mount.selector, readonly=True)
        # What a step writes to such a mount is thrown away with the draft.
        draft = snapshots.prepare(snapshot)
        self._stack.callback(snapshots.discard, draft)
        return spec.BindMount(mount.target, self._root(draft), mount.selector)

    def _hold_caches(self, op: ExecOp) -> dict[str, str]:
        """The folders of the step's cache mounts by their identity, held until the stack ends.

        A step that has one mounted twice holds it once, as its most demanding mount asks. They are taken in the order
        of their identities, so that no two steps wait for each other.
        """
        mounts: dict[str, Mount] = {}
        for mount in op.mounts:
            if mount.kind == "cache":
                identity = cache_identity(mount, snapshot_of(mount, self._inputs))
                known = mounts.setdefault(identity, mount)
                if _DEMANDS.index(mount.sharing) > _DEMANDS.index(known.sharing):
                    mounts[identity] = mount
        folders = {}
        for identity, mount in sorted(mounts.items(), key=itemgetter(0)):
            create = partial(self._fill_cache, mount=mount, snapshot=snapshot_of(mount, self._inputs))
            sharing = mount.sharing
            if sharing == "shared" and not self._worker.runtime().shares_folders:
                sharing = "locked"
            use = self._worker.cache_mounts.use(identity, sharing, create, self._worker.cancel)
            folders[identity] = self._stack.enter_context(use)
        return folders

    def _fill_cache(self, folder: str, mount: Mount, snapshot: int | None) -> None:
        os.chmod(folder, 0o755 if mount.mode is None else mount.mode)
        owners.change(folder, mount.uid, mount.gid)
        if snapshot is None:
            return
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with self._worker.snapshots.view(snapshot) as root, Tree(root).at_hand() as tree:
                top = tree.entry(tree.resolve(mount.selector))
                if not top.is_dir:
                    raise SandboxError(f"cache mount {mount.target}: its source {mount.selector} is not a folder")
                copier = Copier(tree, Target(handle, None), self._worker.check_canceled)
                copier.copy_contents(top, "", take_metadata=mount.mode is None)
        finally:
            os.close(handle)

    def _add_secret(self, mount: Mount, mounts: list[spec.Mount], env: list[str]) -> None:
        data = self._worker.secrets.get(mount.id)
        if data is None:
            if mount.required:
                best = suggest(mount.id, self._worker.secrets)
                advice = f"give it with --secret id={mount.id},src=FILE" + (f"; it is not {best}" if best else "")
                raise SandboxError(f"secret {mount.id}: not found", hint=advice)
            return
        if mount.env is not None:
            if b"\0" in data:
                raise SandboxError(f"secret {mount.id}: the variable {mount.env} cannot hold its NUL bytes")
            env.append(f"{mount.env}={data.decode(errors='surrogateescape')}")
        if mount.target:
            mode = 0o400 if mount.mode is None else mount.mode
            mounts.append(spec.SecretMount(mount.target, data, mode, mount.uid, mount.gid))

    def _add_ssh(self, mount: Mount, mounts: list[spec.Mount], env: list[str]) -> None:
        socket = self._worker.ssh_socket(mount.id)
        if socket is None:
            if mount.required:
                raise SandboxError(
                    f"no SSH agent or key was given for {mount.id}", hint=f"give one with --ssh {mount.id}"
                )
            return
        mode = 0o600 if mount.mode is None else mount.mode
        mounts.append(spec.SshMount(mount.target, socket, mode, mount.uid, mount.gid))
        if not any(value.startswith("SSH_AUTH_SOCK=") for value in env):
            env.append(f"SSH_AUTH_SOCK={mount.target}")


def failure(vertex: Vertex, op: ExecOp, outcome: spec.Outcome, log_tail: str) -> StepFailedError:
    """The error of a step whose command did not end well."""
    reason = f"exit code: {outcome.exit_code}"
    if outcome.signal is not None:
        reason += f" (killed by signal {outcome.signal})"
    hint = None
    if outcome.out_of_memory:
        reason += ": out of memory"
        hint = "the kernel killed it, or a process of it, at the step's memory limit"
    return StepFailedError(
        f'process "{redact_text(" ".join(op.args))}" did not complete successfully: {reason}',
        exit_code=outcome.exit_code,
        step=vertex.meta.name,
        stage=vertex.meta.stage,
        log_tail=log_tail,
        location=vertex.meta.location,
        hint=hint,
    )


class _Tail:
    """The end of a step's log."""

    def __init__(self) -> None:
        self._blocks: deque[bytes] = deque()
        self._size = 0

    def add(self, data: bytes) -> None:
        self._blocks.append(data)
        self._size += len(data)
        while self._size - len(self._blocks[0]) > _TAIL_BYTES:
            self._size -= len(self._blocks.popleft())

    def text(self) -> str:
        lines = b"".join(self._blocks).decode(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])
