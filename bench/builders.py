"""The builders that are compared: how each is started, emptied, asked to build, and stopped."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.05
_NO_OUTPUT = "type=cacheonly"
# The first release of the engine that can keep images as containerd does.
_DOCKER_WITH_CONTAINERD = 24

Compression = Literal["gzip", "zstd"]


class BuilderError(Exception):
    """A builder could not be started or emptied."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a build shall make: only the result, an OCI archive at the path `archive`, or an image pushed as `push`."""

    build_args: Mapping[str, str] = field(default_factory=dict)
    archive: Path | None = None
    compression: Compression = "gzip"
    push: str | None = None


def _output_of(wish: Wish) -> str:
    """The wish as BuildKit's and Stagewright's clients take it."""
    if wish.archive:
        return f"type=oci,dest={wish.archive},compression={wish.compression}"
    return f"type=image,name={wish.push},push=true" if wish.push else _NO_OUTPUT


class Builder(ABC):
    """One builder with a state of its own below `folder`. `registries` are addresses that speak plain HTTP."""

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path, env: Mapping[str, str], registries: Sequence[str]) -> None:
        self.folder = folder
        self.env = dict(env)
        self.registries = registries

    @classmethod
    def is_installed(cls) -> bool:
        """Whether all programs that it takes are there."""
        return all(shutil.which(program) for program in cls.programs)

    def start(self) -> None:
        """Make it ready to build. Raises BuilderError."""
        self.folder.mkdir()

    def stop(self) -> None:  # noqa: B027 - most have nothing to end
        """End what `start` has started."""

    @property
    def daemons(self) -> tuple[int, ...]:
        """The process IDs of what `start` has started."""
        return ()

    @abstractmethod
    def version(self) -> str:
        """The version, as it names it."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all images, layers and results. Raises BuilderError."""

    @abstractmethod
    def command(self, context: Path, wish: Wish) -> list[str] | None:
        """The command line of a build; None where the builder has none for that wish."""

    def run(self, *command: str) -> str:
        """What a command of the builder prints. Raises BuilderError where it fails."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuilderError(f"{shlex.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout


class Stagewright(Builder):
    """The command beside this interpreter, or the one that the variable STAGEWRIGHT names."""

    name = "stagewright"
    programs = (os.environ.get("STAGEWRIGHT", os.path.join(os.path.dirname(sys.executable), "stagewright")),)

    def start(self) -> None:
        super().start()
        tables = [f'[registry."{address}"]\nhttp = true\n' for address in self.registries]
        (self.folder / "stagewright.toml").write_text("".join(tables))
        self._flags = ["--root", str(self.folder / "root"), "--config", str(self.folder / "stagewright.toml")]

    def version(self) -> str:
        return self.run(self.programs[0], "version").split("\n")[0].split()[-1]

    def reset(self) -> None:
        self.run(self.programs[0], "prune", "--all", "--force", *self._flags)

    def command(self, context: Path, wish: Wish) -> list[str]:
        arguments = [f"--build-arg={name}={value}" for name, value in wish.build_args.items()]
        build = [self.programs[0], "build", *self._flags, "--progress=plain", f"--output={_output_of(wish)}"]
        return [*build, *arguments, str(context)]


class _DaemonBuilder(Builder):
    """A builder whose work is done by a server process, which is given back with all its children."""

    _daemon: subprocess.Popen[bytes] | None = None

    def _start_daemon(self, command: Sequence[str], is_ready: Sequence[str]) -> None:
        log = self.folder / "daemon.log"
        with open(log, "wb") as out:
            daemon = subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self._daemon = daemon
        deadline = time.monotonic() + _START_TIMEOUT_S
        while subprocess.run(is_ready, env=self.env, capture_output=True, check=False).returncode != 0:
            if daemon.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BuilderError(f"{command[0]} did not start: {log.read_text(errors='replace')[-1000:]}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        if self._daemon is None:
            return
        self._daemon.terminate()
        try:
            self._daemon.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._daemon.pid, signal.SIGKILL)
            self._daemon.wait()

    @property
    def daemons(self) -> tuple[int, ...]:
        return (self._daemon.pid,) if self._daemon is not None else ()


class Docker(_DaemonBuilder):
    """A Docker engine of its own and the BuildKit within it; it keeps images as containerd does where it can.

    An engine that cannot has no archives of images in OCI's form, and pushes by a command of its own.
    """

    name = "docker"
    programs = ("/usr/bin/docker", "dockerd")

    def start(self) -> None:
        super().start()
        (self.folder / "client").mkdir()
        engine = self.run(self.programs[1], "--version").split()[2]
        self._has_outputs = int(engine.partition(".")[0]) >= _DOCKER_WITH_CONTAINERD
        features = {"containerd-snapshotter": True} if self._has_outputs else {}
        (self.folder / "daemon.json").write_text(json.dumps({"features": features}))
        socket = f"unix://{self.folder}/docker.sock"
        self.env |= {"DOCKER_HOST": socket, "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": str(self.folder / "client")}
        command = [self.programs[1], "--iptables=false", "--bridge=none", "--ip-forward=false", f"--host={socket}"]
        command += [f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec"]
        command += [f"--pidfile={self.folder}/docker.pid", f"--config-file={self.folder}/daemon.json"]
        command += [f"--insecure-registry={address}" for address in self.registries]
        self._start_daemon(command, [self.programs[0], "version"])

    def version(self) -> str:
        return self.run(self.programs[0], "version", "--format={{.Server.Version}}").strip()

    def reset(self) -> None:
        self.run(self.programs[0], "system", "prune", "--all", "--force")
        self.run(self.programs[0], "builder", "prune", "--all", "--force")

    def command(self, context: Path, wish: Wish) -> list[str] | None:
        docker = self.programs[0]
        arguments = [f"--build-arg={name}={value}" for name, value in wish.build_args.items()]
        build = [docker, "build", "--progress=plain", "--network=host", *arguments]
        if self._has_outputs:
            return [*build, f"--output={_output_of(wish)}", str(context)]
        if wish.archive:
            return None
        if not wish.push:
            return [*build, str(context)]
        steps = [[*build, f"--tag={wish.push}", str(context)], [docker, "push", "--quiet", wish.push]]
        return ["sh", "-c", " && ".join(map(shlex.join, steps))]


class BuildKit(_DaemonBuilder):
    """A BuildKit daemon of its own, and its plain client."""

    name = "buildkit"
    programs = ("buildctl", "buildkitd")

    def start(self) -> None:
        super().start()
        tables = [f'[registry."{address}"]\nhttp = true\n' for address in self.registries]
        (self.folder / "buildkitd.toml").write_text("".join(tables))
        socket = f"unix://{self.folder}/buildkitd.sock"
        self.env |= {"BUILDKIT_HOST": socket}
        command = ["buildkitd", f"--addr={socket}", f"--root={self.folder}/root"]
        command += [f"--config={self.folder}/buildkitd.toml", "--containerd-worker=false", "--oci-worker-net=host"]
        self._start_daemon(command, ["buildctl", "debug", "workers"])

    def version(self) -> str:
        return self.run("buildctl", "--version").split()[2]

    def reset(self) -> None:
        self.run("buildctl", "prune", "--all")

    def command(self, context: Path, wish: Wish) -> list[str]:
        command = ["buildctl", "build", "--progress=plain", "--frontend=dockerfile.v0"]
        command += [f"--local=context={context}", f"--local=dockerfile={context}"]
        command += [f"--opt=build-arg:{name}={value}" for name, value in wish.build_args.items()]
        return command if _output_of(wish) == _NO_OUTPUT else [*command, f"--output={_output_of(wish)}"]


class Buildah(Builder):
    """Buildah, with layers cached and as many stages at once as the workloads have."""

    name = "buildah"
    programs = ("buildah", "runc")
    # Its default asks for limits that only a process with CAP_SYS_RESOURCE may set.
    _LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")

    def start(self) -> None:
        super().start()
        self._buildah = ["buildah", "--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run"]

    def version(self) -> str:
        return self.run("buildah", "--version").split()[2]

    def reset(self) -> None:
        self.run(*self._buildah, "rm", "--all")
        self.run(*self._buildah, "rmi", "--all", "--force")

    def command(self, context: Path, wish: Wish) -> list[str] | None:
        if wish.archive and wish.compression == "zstd":
            return None
        build = [*self._buildah, "build", "--layers", "--jobs=8", "--network=host", "--tls-verify=false", *self._LIMITS]
        build += [f"--runtime={shutil.which('runc')}", "--tag=result"]
        build += [f"--build-arg={name}={value}" for name, value in wish.build_args.items()]
        build.append(str(context))
        if not wish.archive and not wish.push:
            return build
        destination = f"docker://{wish.push}" if wish.push else f"oci-archive:{wish.archive}"
        push = [*self._buildah, "push", "--quiet", "--tls-verify=false", "result", destination]
        return ["sh", "-c", f"{shlex.join(build)} && {shlex.join(push)}"]


BUILDERS: tuple[type[Builder], ...] = (Stagewright, Docker, BuildKit, Buildah)
