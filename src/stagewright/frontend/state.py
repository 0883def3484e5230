"""What is known of a stage while its instructions are read: its files so far, environment, config and history."""

from __future__ import annotations

from stagewright.errors import DockerfileError, SourceRange
from stagewright.frontend.paths import absolute
from stagewright.graph.ops import SourceOp
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.image.config import ContainerConfig, History, ImageConfig
from stagewright.image.platform import Platform
from stagewright.records import dataclass, field, replace
from stagewright.redaction import redact_text

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
HISTORY_COMMENT = "buildkit.dockerfile.v0"
# Each instruction copies what the image has of a kind: without an end to it, a small file takes hours.
_MOST_OF_A_KIND = 5000


@dataclass(slots=True)
class StageState:
    """One stage in the making.

    `vertex` is its files so far (None: none). `env` is what a RUN sees and variables expand to: the image's ENV and the
    ARGs so far, in the order in which they were last set. `build_args` are the ARGs so far with their values.
    `history_lines` are the lines that each entry of the image's history comes from, None for those of its base image.
    """

    platform: Platform
    name: str
    image: ImageConfig
    vertex: Vertex | None = None
    env: dict[str, str] = field(default_factory=dict)
    build_args: list[tuple[str, str | None]] = field(default_factory=list)
    history_lines: tuple[SourceRange | None, ...] = ()
    cmd_set: bool = False
    steps: int = 0
    steps_total: int = 0
    ignore_cache: bool = False
    epoch: int | None = None

    @property
    def config(self) -> ContainerConfig:
        return self.image.config

    def placed_at(self, location: SourceRange | None) -> None:
        """Note that the entries of the history since the last call come from these lines."""
        self.history_lines += (location,) * (len(self.image.history) - len(self.history_lines))

    def configure(self, **changes: object) -> None:
        """Replace fields of the image's container config. Raises DockerfileError where a list becomes too long."""
        config = replace(self.image.config, **changes)
        for what, count in (
            ("labels", len(config.labels)),
            ("volumes", len(config.volumes)),
            ("ONBUILD triggers", len(config.on_build)),
        ):
            if count > _MOST_OF_A_KIND:
                raise _too_many(what)
        self.image = replace(self.image, config=config)

    def commit(self, text: str, *, layer: bool) -> None:
        """Add an entry to the image's history, in which no URL has credentials: others read it."""
        created = format_time(self.epoch) if self.epoch is not None else None
        entry = History(created=created, created_by=redact_text(text), comment=HISTORY_COMMENT, empty_layer=not layer)
        self.image = replace(self.image, history=(*self.image.history, entry))

    def set_env(self, name: str, value: str) -> None:
        """Set a variable of the image; one that exists keeps its place."""
        env = list(self.config.env)
        for index, item in enumerate(env):
            if item.partition("=")[0] == name:
                env[index] = f"{name}={value}"
                break
        else:
            env.append(f"{name}={value}")
        self.configure(env=tuple(env))
        self.see(name, value)

    def see(self, name: str, value: str) -> None:
        """Set a variable that steps see, the image or not; as in BuildKit it moves to the end."""
        self.env.pop(name, None)
        self.env[name] = value
        if len(self.env) > _MOST_OF_A_KIND:
            raise _too_many("variables")

    def see_image_env(self) -> None:
        """Let steps see the image's variables; they win over ARGs of the same names."""
        for item in self.config.env:
            name, _, value = item.partition("=")
            self.see(name, value)

    def change_folder(self, path: str) -> None:
        """Set the working folder. An absolute path is kept as it is written, as in BuildKit."""
        if not path.startswith("/"):
            path = absolute(path, self.config.working_dir)
        self.configure(working_dir=path)

    @property
    def cwd(self) -> str:
        """The folder that steps work in."""
        return self.config.working_dir or "/"

    def step_name(self, text: str, *, trigger: bool = False) -> str:
        """The display name of the next step: `[stage 2/4] TEXT`."""
        text = redact_text(text)
        if not self.steps_total:
            return text
        self.steps += 1
        width = len(str(self.steps_total))
        stage = f"{self.name} " if self.name else ""
        return f"[{stage}{self.steps:>{width}}/{self.steps_total}] {'ONBUILD ' if trigger else ''}{text}"

    def shell_form(self, command: str) -> tuple[str, ...]:
        """A shell-form command line with the stage's shell in front."""
        return (*(self.config.shell or DEFAULT_SHELL), command)


def _too_many(what: str) -> DockerfileError:
    return DockerfileError(f"the image has more than {_MOST_OF_A_KIND} {what}")


def empty_image(platform: Platform) -> ImageConfig:
    """The config that `FROM scratch` starts from."""
    return ImageConfig(platform=platform, config=ContainerConfig(env=(f"PATH={DEFAULT_PATH}",), working_dir="/"))


def image_vertex(pinned: str, platform: Platform, meta: Metadata) -> Vertex:
    """The vertex of an image's files; `pinned` is its name with the manifest's digest."""
    # The name is for people: two names of one image are one piece of work.
    digest = pinned.rpartition("@")[2]
    return Vertex(SourceOp(f"docker-image://image@{digest}"), platform=str(platform), meta=meta)


def format_time(seconds: float) -> str:
    """An RFC 3339 time in UTC as Go writes it: no trailing zeros in the fraction."""
    from datetime import UTC, datetime

    text = datetime.fromtimestamp(seconds, UTC).isoformat()
    whole, _, rest = text.partition("+")[0].partition(".")
    fraction = rest.rstrip("0")
    return f"{whole}{'.' + fraction if fraction else ''}Z"
