"""The typed form of a Dockerfile: stages and their instructions, with values as written, before any expansion.

Two instructions are equal when they say the same; where they stand and how they are laid out does not count. Classes
with the same fields share one dataclass: making one takes about a millisecond of every start.
"""

from __future__ import annotations

from stagewright.dockerfile.arguments import KeyValue
from stagewright.dockerfile.directives import Directives
from stagewright.dockerfile.heredoc import Heredoc
from stagewright.dockerfile.mounts import MountSpec, RunDevice
from stagewright.errors import SourceRange, SourceText
from stagewright.records import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What all instructions have.

    `keyword` is as written. `original` is the instruction's text with continued lines joined, without here-document
    bodies; history entries quote it. `comments` are the comment lines before it.
    """

    keyword: str = field(compare=False)
    original: str = field(compare=False, repr=False)
    location: SourceRange = field(compare=False, repr=False)
    comments: tuple[str, ...] = field(default=(), compare=False, repr=False)
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class ArgDefinition:
    """One name of an ARG. `default` is None where there is none; `description` is its comment."""

    name: str
    default: str | None
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """ARG name[=default] ..."""

    definitions: tuple[ArgDefinition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsInstruction(Instruction):
    """An instruction of names with values."""

    pairs: tuple[KeyValue, ...]


class Env(PairsInstruction):
    """ENV name=value ..."""

    __slots__ = ()


class Label(PairsInstruction):
    """LABEL name=value ..."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandInstruction(Instruction):
    """An instruction with a command: in shell form one string for the shell, else the arguments of a program."""

    command: tuple[str, ...]
    shell_form: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(CommandInstruction):
    """RUN, with its here-documents. `network` is default, none or host; `security` sandbox or insecure."""

    mounts: tuple[MountSpec, ...] = ()
    devices: tuple[RunDevice, ...] = ()
    network: str = "default"
    security: str = "sandbox"


class Cmd(CommandInstruction):
    """CMD"""

    __slots__ = ()


class Entrypoint(CommandInstruction):
    """ENTRYPOINT"""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class SourceContent:
    """A file that a COPY or ADD holds in itself: its name, its text, and whether variables in it are expanded."""

    path: str
    text: str
    expand: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferInstruction(Instruction):
    """What COPY and ADD share. Empty strings stand for flags that were not given."""

    sources: tuple[str, ...]
    contents: tuple[SourceContent, ...]
    destination: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(TransferInstruction):
    """COPY. `from_name` is a stage's name or index, a named context or an image; empty for the build context."""

    from_name: str = ""
    parents: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(TransferInstruction):
    """ADD. `keep_git_dir` and `unpack` are None where the flag was not given."""

    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInstruction(Instruction):
    """An instruction of one text."""

    text: str


class Workdir(TextInstruction):
    """WORKDIR path"""

    __slots__ = ()


class User(TextInstruction):
    """USER user[:group]"""

    __slots__ = ()


class StopSignal(TextInstruction):
    """STOPSIGNAL signal"""

    __slots__ = ()


class Maintainer(TextInstruction):
    """MAINTAINER name"""

    __slots__ = ()


class Onbuild(TextInstruction):
    """ONBUILD: the text is the instruction for later, with the bodies of its here-documents."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsInstruction(Instruction):
    """An instruction of several words."""

    words: tuple[str, ...]


class Expose(WordsInstruction):
    """EXPOSE port ..., the words sorted"""

    __slots__ = ()


class Volume(WordsInstruction):
    """VOLUME path ..."""

    __slots__ = ()


class Shell(WordsInstruction):
    """SHELL ["program", "argument" ...]"""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """HEALTHCHECK. `test` begins with NONE, CMD or CMD-SHELL; times are in nanoseconds, 0 where not given."""

    test: tuple[str, ...]
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A FROM and the instructions up to the next.

    `name` is in lower case and empty without AS; `name_as_written` and `as_keyword` keep their case. `description`
    is the comment that begins with the name. `location` is that of the FROM.
    """

    base_name: str
    name: str = ""
    platform: str = ""
    description: str = ""
    instructions: tuple[Instruction, ...] = ()
    keyword: str = field(compare=False)
    as_keyword: str = field(default="", compare=False)
    name_as_written: str = field(default="", compare=False)
    original: str = field(compare=False, repr=False)
    location: SourceRange = field(compare=False, repr=False)
    comments: tuple[str, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """A whole file. `meta_args` are the ARGs before the first FROM; there is at least one stage.

    `blank_continuations` are the last lines of instructions in which empty lines are continued over.
    """

    source: SourceText = field(compare=False, repr=False)
    directives: Directives = field(compare=False)
    meta_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    blank_continuations: tuple[SourceRange, ...] = field(default=(), compare=False)
