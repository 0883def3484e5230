"""`RUN --mount` and `RUN --device`: their comma-separated options."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from stagewright.dockerfile.golang import parse_bool, parse_uint32, quote, ram_in_bytes, split_csv
from stagewright.dockerfile.suggest import with_suggestion
from stagewright.errors import DockerfileError
from stagewright.records import dataclass

Expand = Callable[[str], str]
_M = TypeVar("_M", bound=Enum)


class MountType(Enum):
    """What a RUN step can have mounted."""

    BIND = "bind"
    CACHE = "cache"
    TMPFS = "tmpfs"
    SECRET = "secret"  # noqa: S105
    SSH = "ssh"


class Sharing(Enum):
    """What happens to a cache mount that two steps want at once."""

    SHARED = "shared"
    PRIVATE = "private"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True)
class MountSpec:
    """A mount as it is written, with variables, and the stage or image that it names, which may hold none."""

    text: str
    from_name: str


@dataclass(frozen=True, slots=True)
class RunMount:
    """A mount with all its options.

    Strings are empty and numbers None where they were not given; what a type then takes instead is not decided here.
    `size_bytes` 0 is no limit; `id` is that of a cache, a secret or an SSH agent.
    """

    type: MountType = MountType.BIND
    from_name: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = True
    id: str = ""
    sharing: Sharing | None = None
    required: bool = False
    env: str | None = None
    size_bytes: int = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class RunDevice:
    """A device that a step asks for by its CDI name."""

    name: str
    required: bool = False


_KEYS = (
    "type", "from", "source", "target", "readonly", "id", "sharing", "required", "size", "mode", "uid", "gid", "src",
    "dst", "destination", "ro", "rw", "readwrite", "env",
)  # fmt: skip
_HAVE_OWNERS = (MountType.CACHE, MountType.SECRET, MountType.SSH)


def parse_mount_spec(text: str) -> MountSpec:
    """What is known of a mount before variables are expanded. Raises DockerfileError."""
    from_name = ""
    for field in _fields(text, "mounts"):
        key, separator, value = field.partition("=")
        if separator and key.lower() == "from":
            if "$" in value[:-1]:
                raise DockerfileError("'from' doesn't support variable expansion, define alias stage instead")
            from_name = value
    return MountSpec(text, from_name)


def parse_mount(text: str, expand: Expand) -> RunMount:
    """A mount from the value of `--mount`; `expand` is called with the value of each option.

    Raises DockerfileError (without a location) for options that are unknown, malformed or do not go together.
    """
    mount = _MountParser(expand)
    for field in _fields(text, "mounts"):
        mount.add(field)
    return mount.finish()


class _MountParser:
    """Takes the options one by one: some depend on the type that was named before them."""

    def __init__(self, expand: Expand) -> None:
        self._expand = expand
        self._type = MountType.BIND
        self._read_only: bool | None = None
        self._sharing: Sharing | None = None
        self._required = False
        self._size_bytes = 0
        self._env: str | None = None
        self._texts = {"from": "", "source": "", "target": "", "id": ""}
        self._numbers: dict[str, int | None] = {"mode": None, "uid": None, "gid": None}

    def add(self, field: str) -> None:
        name, separator, value = field.partition("=")
        key = name.lower()
        if not separator:
            if key not in ("readonly", "ro", "readwrite", "rw", "required"):
                raise DockerfileError(f"invalid field '{field}' must be a key=value pair")
            value = "true"
        else:
            value = self._expand(value)
        match key:
            case "type":
                self._type = _member(MountType, value, "mount type")
            case "sharing":
                self._sharing = _member(Sharing, value, "sharing value")
            case "src":
                self._texts["source"] = value
            case "dst" | "destination":
                self._texts["target"] = value
            case "from" | "source" | "target" | "id":
                self._texts[key] = value
            case "env":
                self._env = value
            case "readonly" | "ro":
                self._read_only = _boolean(key, value)
            case "readwrite" | "rw":
                self._read_only = not _boolean(key, value)
            case "required":
                self._only_for(key, MountType.SECRET, MountType.SSH)
                self._required = _boolean(key, value)
            case "size":
                self._only_for(key, MountType.TMPFS)
                try:
                    self._size_bytes = ram_in_bytes(value)
                except ValueError:
                    raise DockerfileError(f"invalid value for {key}: {value}") from None
            case "mode" | "uid" | "gid":
                try:
                    self._numbers[key] = parse_uint32(value, 8 if key == "mode" else 10)
                except ValueError:
                    raise DockerfileError(f"invalid value {value} for {key}") from None
            case _:
                raise DockerfileError(with_suggestion(f"unexpected key '{key}' in '{field}'", key, _KEYS))

    def _only_for(self, key: str, *types: MountType) -> None:
        if self._type not in types:
            raise DockerfileError(f"unexpected key '{key}' for mount type '{self._type.value}'")

    def finish(self) -> RunMount:
        kind, texts = self._type, self._texts
        if kind not in _HAVE_OWNERS:
            for key, number in self._numbers.items():
                if number is not None:
                    raise DockerfileError(f"{key} not allowed for {quote(kind.value)} type mounts")
        if kind is MountType.SECRET:
            if texts["from"]:
                raise DockerfileError("secret mount should not have a from")
            if self._sharing is not None:
                raise DockerfileError("secret mount should not define sharing")
            if not (texts["source"] or texts["target"] or texts["id"]):
                raise DockerfileError("invalid secret mount. one of source, target required")
            if texts["source"] and texts["id"]:
                raise DockerfileError("both source and id can't be set")
        if self._sharing is not None and kind is not MountType.CACHE:
            raise DockerfileError(f"invalid cache sharing set for {kind.value} mount")
        read_only = self._read_only
        if read_only is None:
            read_only = kind not in (MountType.CACHE, MountType.TMPFS)
        return RunMount(
            type=kind,
            from_name=texts["from"],
            source=texts["source"],
            target=texts["target"],
            read_only=read_only,
            id=texts["id"],
            sharing=self._sharing,
            required=self._required,
            env=self._env,
            size_bytes=self._size_bytes,
            mode=self._numbers["mode"],
            uid=self._numbers["uid"],
            gid=self._numbers["gid"],
        )


def parse_device(text: str) -> RunDevice:
    """A device from the value of `--device`: its name and whether it is required. Raises DockerfileError."""
    name, required = "", False
    for field in _fields(text, "devices"):
        written, separator, value = field.partition("=")
        key = written.lower()
        if key == "required":
            required = _boolean(key, value) if separator else True
        elif separator and key == "name":
            if name:
                raise DockerfileError(f"device name already set to {name}")
            name = value
        elif not name:
            name = field
        elif separator:
            raise DockerfileError(with_suggestion(f"unexpected key '{key}' in '{field}'", key, ("name", "required")))
        else:
            raise DockerfileError(f"invalid field '{field}' must be a key=value pair")
    return RunDevice(name, required)


def _fields(text: str, what: str) -> list[str]:
    try:
        return split_csv(text)
    except ValueError as error:
        raise DockerfileError(f"failed to parse csv {what}: {error}") from None


def _boolean(key: str, value: str) -> bool:
    try:
        return parse_bool(value)
    except ValueError:
        raise DockerfileError(f"invalid value for {key}: {value}") from None


def _member(kind: type[_M], value: str, what: str) -> _M:
    try:
        return kind(value.lower())
    except ValueError:
        names = [str(member.value) for member in kind]
        raise DockerfileError(with_suggestion(f"unsupported {what} {quote(value)}", value, names)) from None
