"""The build checks that look at one instruction and at what its stage is by then."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from stagewright.dockerfile import ast
from stagewright.dockerfile.golang import quote
from stagewright.dockerfile.ignore import Matcher, Pattern
from stagewright.dockerfile.mounts import parse_mount
from stagewright.dockerfile.shell import Lexer
from stagewright.dockerfile.suggest import suggest
from stagewright.errors import DockerfileError, SourceRange
from stagewright.frontend import rules
from stagewright.frontend.ports import split_port
from stagewright.frontend.remote import is_remote
from stagewright.frontend.rules import Findings, Rule
from stagewright.frontend.state import StageState
from stagewright.patterns import pattern

_SECRET = pattern(r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE)
_NO_SECRET = pattern(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
# No step sees these, so nothing is amiss where they are not set.
_FOR_THE_BUILDER = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})
_ONCE = (ast.Cmd, ast.Entrypoint, ast.Healthcheck)
_EVERYTHING = ("*", "**", "**/*")


class StageChecks:
    """Checks a stage's instructions in their order. `workdir_set` says that a stage below has a WORKDIR."""

    def __init__(
        self,
        findings: Findings,
        lexer: Lexer,
        build_args: Mapping[str, str],
        ignored: Callable[[str], bool],
        *,
        workdir_set: bool,
    ) -> None:
        self._findings = findings
        self._lexer = lexer
        self._build_args = build_args
        self._ignored = ignored
        self.workdir_set = workdir_set
        self._last: dict[type[ast.Instruction], SourceRange] = {}
        self._declared: set[str] = set()
        self._arguments_seen = 0

    def check(self, state: StageState, instruction: ast.Instruction) -> None:
        """Look at the next instruction, before it changes the stage."""
        self._check_variables(state, instruction)
        if isinstance(instruction, _ONCE):
            self._check_once(instruction)
        match instruction:
            case ast.Cmd() | ast.Entrypoint():
                if instruction.shell_form and not state.config.shell:
                    message = (
                        f"JSON arguments recommended for {instruction.keyword} to prevent unintended behavior related"
                        " to OS signals"
                    )
                    self._add(rules.JSON_ARGS_RECOMMENDED, message, instruction)
            case ast.Env() | ast.Label():
                self._check_pairs(state, instruction)
            case ast.Arg():
                for definition in instruction.definitions:
                    self._check_secret("ARG", definition.name, instruction)
            case ast.Workdir():
                self._check_workdir(state, instruction)
            case ast.Expose():
                self._check_ports(state, instruction)
            case ast.Copy() | ast.Add():
                self._check_ignored(state, instruction)

    def _add(self, rule: Rule, message: str, instruction: ast.Instruction) -> None:
        self._findings.add(rule, message, instruction.location, instruction.comments)

    def _expanded(self, word: str, state: StageState) -> str:
        """A word's value; what is wrong with it is said where it is used."""
        try:
            return self._lexer.process_word(word, state.env)
        except DockerfileError:
            return word

    def _check_once(self, instruction: ast.Instruction) -> None:
        before = self._last.get(type(instruction))
        if before is not None:
            message = (
                f"Multiple {instruction.keyword} instructions should not be used in the same stage because only the"
                " last one will be used"
            )
            self._findings.add(rules.MULTIPLE_INSTRUCTIONS_DISALLOWED, message, before, instruction.comments)
        self._last[type(instruction)] = instruction.location

    def _check_pairs(self, state: StageState, instruction: ast.PairsInstruction) -> None:
        keyword = instruction.keyword
        for pair in instruction.pairs:
            if pair.legacy:
                message = f'"{keyword} key=value" should be used instead of legacy "{keyword} key value" format'
                self._add(rules.LEGACY_KEY_VALUE_FORMAT, message, instruction)
            if isinstance(instruction, ast.Env):
                self._check_secret("ENV", self._expanded(pair.name, state), instruction)

    def _check_secret(self, keyword: str, name: str, instruction: ast.Instruction) -> None:
        if _SECRET.search(name) and not _NO_SECRET.search(name):
            message = f"Do not use ARG or ENV instructions for sensitive data ({keyword} {quote(name)})"
            self._add(rules.SECRETS_USED_IN_ARG_OR_ENV, message, instruction)

    def _check_workdir(self, state: StageState, workdir: ast.Workdir) -> None:
        path = self._expanded(workdir.text, state)
        if not self.workdir_set and not path.startswith("/"):
            message = f"Relative workdir {quote(path)} can have unexpected results if the base image changes"
            self._add(rules.WORKDIR_RELATIVE_PATH, message, workdir)
        self.workdir_set = True

    def _check_ports(self, state: StageState, expose: ast.Expose) -> None:
        try:
            ports = [port for word in expose.words for port in self._lexer.process_words(word, state.env)]
        except DockerfileError:
            return
        for port in ports:
            try:
                spec = split_port(port)
            except DockerfileError:
                return
            if spec.protocol != spec.protocol.lower():
                message = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                self._add(rules.EXPOSE_PROTO_CASING, message, expose)
            if spec.ip or spec.host:
                message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                self._add(rules.EXPOSE_INVALID_FORMAT, message, expose)

    def _check_ignored(self, state: StageState, instruction: ast.TransferInstruction) -> None:
        if isinstance(instruction, ast.Copy) and instruction.from_name:
            return
        verb = "Add" if isinstance(instruction, ast.Add) else "Copy"
        for word in instruction.sources:
            source = self._expanded(word, state)
            path = posixpath.normpath(source)
            if not is_remote(source) and self._ignored(path):
                message = f"Attempting to {verb} file {quote(path)} that is excluded by .dockerignore"
                self._add(rules.COPY_IGNORED_FILE, message, instruction)

    def _check_variables(self, state: StageState, instruction: ast.Instruction) -> None:
        # A stage's arguments only ever become more.
        self._declared.update(name for name, _ in state.build_args[self._arguments_seen :])
        self._arguments_seen = len(state.build_args)
        env = dict(state.env)
        for name in self._unset(instruction, env, self._declared):
            message = f"Usage of undefined variable '${name}'"
            if best := suggest(name, env):
                message += f" (did you mean ${best}?)"
            self._add(rules.UNDEFINED_VAR, message, instruction)

    def _unset(self, instruction: ast.Instruction, env: dict[str, str], declared: set[str]) -> list[str]:
        """The names that an instruction uses and nothing has set, word by word; its own ARGs come to `env`."""
        unset: dict[str, None] = {}

        def expand(word: str, lexer: Lexer = self._lexer) -> str:
            expansion = lexer.expand(word, env)
            unset.update(dict.fromkeys(sorted(expansion.unset - declared - _FOR_THE_BUILDER)))
            return expansion.text

        try:
            if isinstance(instruction, ast.Arg):
                for definition in instruction.definitions:
                    value = self._build_args.get(definition.name)
                    if value is None and definition.default is not None:
                        value = expand(definition.default)
                    declared.add(definition.name)
                    if value is not None and definition.name not in _FOR_THE_BUILDER:
                        env[definition.name] = value
            elif isinstance(instruction, ast.Run):
                for mount in instruction.mounts:
                    parse_mount(mount.text, expand)
            else:
                for word in _words(instruction):
                    expand(word)
            if isinstance(instruction, ast.TransferInstruction):
                for content in instruction.contents:
                    if content.expand:
                        expand(content.text, Lexer(skip_quotes=True, budget=self._lexer.budget))
        except DockerfileError:
            # Applying the instruction will say so.
            pass
        return list(unset)


def _words(instruction: ast.Instruction) -> Iterable[str]:
    """What of an instruction is expanded word by word, but for ARG and RUN."""
    match instruction:
        case ast.Env() | ast.Label():
            return [word for pair in instruction.pairs for word in (pair.name, pair.value)]
        case ast.Copy() | ast.Add():
            checksum = [instruction.checksum] if isinstance(instruction, ast.Add) else []
            return [instruction.chown, instruction.chmod, *checksum, *instruction.sources, instruction.destination]
        case ast.Workdir() | ast.User() | ast.StopSignal():
            return [instruction.text]
        case ast.Volume():
            return instruction.words
        case _:
            return []


def ignored_by(patterns: Sequence[Pattern]) -> Callable[[str], bool]:
    """Whether .dockerignore surely hides a clean source path from COPY.

    With exceptions among the patterns nobody can tell: what is in an excluded folder may be brought back.
    """
    if not patterns or any(pattern.exception for pattern in patterns):
        return lambda path: False
    hides_all = any(pattern.text in _EVERYTHING for pattern in patterns)
    matcher = Matcher(patterns)
    return lambda path: (path not in (".", "/") or hides_all) and matcher.matches(path)
