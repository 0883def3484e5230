"""Advice on secrets that a Dockerfile bakes into its image, its history or its cache."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from stagewright.dockerfile.ast import Add, Arg, Copy, Env, Instruction, Run, Stage, Workdir
from stagewright.lint.commands import commands_of, pieces_of
from stagewright.lint.findings import Edit, LintFinding, LintRule
from stagewright.lint.source import Source
from stagewright.lint.tools import HARMLESS
from stagewright.patterns import pattern

BAKED_SECRET = LintRule(
    "baked-secret",
    "Give secrets to steps by mounts",
    "What an ARG, an ENV, a COPY or the text of a RUN holds stays readable in the image's history or layers, also when"
    " a later step removes it. A secret mount is there while its step runs, and nowhere else.",
)

_SECRET_NAME = pattern(
    r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|SECRET|APIKEY|API_KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY|CREDENTIALS?)(?:_|$)",
    re.IGNORECASE,
)
_NO_SECRET_NAME = pattern(
    r"(?:^|_)(?:PUBLIC|FILE|PATH|DIR|URL|URI|NAME|ID|VERSION|TTL|LENGTH|EXPIRY|EXPIRES|HASH|ARN|ENABLED)(?:_|$)",
    re.IGNORECASE,
)
_NO_SECRET_VALUE = pattern(
    r"|true|false|yes|no|none|null|\d+|<.*>|\S*(?:change.?me|changeit|example|dummy|placeholder|insecure|fake|xxx|your.)"
    r".*|.*(?:not.?a.?(?:real.?)?secret|for.?build|build.?only|build.?time)",
    re.IGNORECASE,
)
# What people set for one command; the names of frameworks' own keys are not among them, as builds take any value.
_GIVEN_NAME = pattern(r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|APIKEY|API_KEY|ACCESS_KEY)(?:_|$)", re.IGNORECASE)
_GIVEN = pattern(r"([A-Za-z_][A-Za-z0-9_]*)=([^$]{8,})")
_CREDENTIAL_FILES = {
    ".npmrc": pattern(r"(?m)^\s*(?:[^#;\s=]*:)?_(?:authToken|auth|password)\s*=\s*(?!\$\{)\S"),
    ".netrc": pattern(r"password"),
    ".pypirc": pattern(r"password"),
    ".git-credentials": pattern(r"@"),
    ".dockerconfigjson": pattern(r"auth"),
}
_KEY_FILES = pattern(r"id_(?:rsa|dsa|ecdsa|ed25519)")
# Files by these names may be harmless: what is in them tells.
_TOLD_BY_CONTENT = (
    (pattern(r".*\.(?:pem|key)"), pattern(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")),
    (pattern(r".*\.json"), pattern(r'"private_key"\s*:\s*"-----BEGIN')),
    (pattern(r"\.yarnrc\.yml"), pattern(r"(?m)^\s*npmAuth(?:Token|Ident)\s*:\s*(?![\"']?\$\{)\S")),
)
_CREDENTIAL_PATHS = (".aws/credentials", ".docker/config.json", ".kube/config", ".config/gcloud")
# Forms that tokens have by their makers' own rules, so that nothing else looks like them.
_TOKENS = (
    ("a GitHub token", r"\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{50,}\b"),
    ("a GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("an npm token", r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("a PyPI token", r"\bpypi-AgEI[A-Za-z0-9_-]{50,}"),
    ("an AWS key", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    ("a Slack token", r"\bxox[abposr]-[A-Za-z0-9-]{10,}"),
    ("a Stripe key", r"\bsk_live_[A-Za-z0-9]{16,}"),
    ("a private key", r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"),
    ("a password in a URL", r"\b[a-z][a-z0-9+.-]*://[^\s/:@$\"'{}<>]+:[^\s/:@$\"'{}<>]+@[\w.-]"),
)
_TOKEN_FORMS = tuple((what, pattern(expression)) for what, expression in _TOKENS)


def baked_secrets(source: Source) -> Iterator[LintFinding]:
    """Secrets in ARG, ENV, COPY, ADD and RUN."""
    for stage in source.stages:
        for instruction in stage.instructions:
            match instruction:
                case Arg():
                    for definition in instruction.definitions:
                        yield from _named(source, stage, instruction, definition.name, definition.default, "ARG")
                case Env():
                    for pair in instruction.pairs:
                        yield from _named(source, stage, instruction, pair.name, pair.value, "ENV")
                case Copy() | Add():
                    if not (isinstance(instruction, Copy) and instruction.from_name):
                        yield from _copied(source, stage, instruction)
                case Run():
                    yield from _spelled_out(source, instruction)


def _named(
    source: Source, stage: Stage, instruction: Arg | Env, name: str, value: str | None, keyword: str
) -> Iterator[LintFinding]:
    token = _token_in(value or "")
    if token is None:
        if not _SECRET_NAME.search(name) or _NO_SECRET_NAME.search(name):
            return
        if value is not None and _NO_SECRET_VALUE.fullmatch(value.strip("\"'")):
            return
        if keyword == "ENV" and "$" in (value or "") and not _is_argument(stage, value or ""):
            return
    message = f"{keyword} {name} keeps {token or 'its value'} in the image's history"
    yield LintFinding(BAKED_SECRET, message, instruction.location, _as_secret(source, stage, instruction, name))


def _is_argument(stage: Stage, value: str) -> bool:
    """Whether an ENV takes its value from an ARG of its stage."""
    names = {item.name for arg in stage.instructions if isinstance(arg, Arg) for item in arg.definitions}
    return any(f"${name}" in value or f"${{{name}}}" in value for name in names)


def _as_secret(source: Source, stage: Stage, instruction: Arg | Env, name: str) -> tuple[Edit, ...]:
    """Replace an ARG of one name without a value by secret mounts of the RUNs that use the variable."""
    if not isinstance(instruction, Arg) or len(instruction.definitions) != 1 or instruction.definitions[0].default:
        return ()
    used = pattern(rf"\$(?:{re.escape(name)}\b|\{{{re.escape(name)}[}}:])")
    later = list(stage.instructions[_place(stage, instruction) + 1 :])
    for other in source.stages:
        if other is not stage and stage in source.chain(other):
            later += other.instructions
    users = [item for item in later if used.search(source.lines(item.location))]
    if not users or not all(isinstance(item, Run) for item in users):
        return ()
    flag = f"--mount=type=secret,id={name},env={name}"
    edits = [source.remove(instruction.location)]
    for item in later:
        # A program may read the variable though the line does not name it.
        if isinstance(item, Run) and (item in users or any(c.program not in HARMLESS for c in commands_of(item))):
            edits += source.add_flags(item, [flag])
    return tuple(edits)


def _place(stage: Stage, instruction: Instruction) -> int:
    """Where an instruction stands; others may be equal to it."""
    return next(at for at, item in enumerate(stage.instructions) if item is instruction)


def _copied(source: Source, stage: Stage, instruction: Copy | Add) -> Iterator[LintFinding]:
    for path in instruction.sources:
        name = posixpath.basename(path.rstrip("/"))
        clean = path.rstrip("/").removeprefix("./")
        if name in _CREDENTIAL_FILES:
            text = source.read(clean)
            if text is not None and not _CREDENTIAL_FILES[name].search(text):
                continue  # A file of settings.
        elif not _KEY_FILES.fullmatch(name) and not clean.endswith(_CREDENTIAL_PATHS) and not _tells(source, clean):
            continue
        message = f"{instruction.keyword.upper()} {path} puts credentials into a layer"
        edits = _npmrc_as_secret(source, stage, instruction, path) if name == ".npmrc" else ()
        yield LintFinding(BAKED_SECRET, message, instruction.location, edits)


def _tells(source: Source, path: str) -> bool:
    """Whether the file of the build context holds a credential."""
    name = posixpath.basename(path)
    forms = [form for names, form in _TOLD_BY_CONTENT if names.fullmatch(name)]
    text = source.read(path) if forms or name.startswith(".env") else None
    if text is None:
        return False
    if name.startswith(".env"):
        values = (line.strip().removeprefix("export ").partition("=") for line in text.splitlines())
        return any(_is_secret(key.strip(), value) for key, _, value in values if not key.startswith("#"))
    return any(form.search(text) for form in forms)


def _is_secret(name: str, value: str) -> bool:
    """Whether a variable of a file of settings holds a secret of its own."""
    value = value.strip().strip("\"'")
    named = _SECRET_NAME.search(name) and not _NO_SECRET_NAME.search(name)
    return bool(named) and "$" not in value and _NO_SECRET_VALUE.fullmatch(value) is None


def _npmrc_as_secret(source: Source, stage: Stage, instruction: Copy | Add, path: str) -> tuple[Edit, ...]:
    """Take `.npmrc` out of a COPY, and mount it in the steps that install packages."""
    folder = _workdir_before(stage, instruction)
    target = posixpath.normpath(posixpath.join(folder or "/", instruction.destination))
    if (
        "$" in target
        or not folder
        or (len(instruction.sources) == 1 and not instruction.destination.endswith(("/", ".")))
    ):
        return ()
    at = _place(stage, instruction)
    edits: list[Edit] = []
    if len(instruction.sources) == 1:
        edits.append(source.remove(instruction.location))
    else:
        edits += source.substitute(instruction.location, rf"[ \t]+{re.escape(path)}(?=[ \t])", "", 1)
    flag = f"--mount=type=secret,id=npmrc,target={target.rstrip('/')}/.npmrc"
    users = [
        step.run for step in source.steps(stage) if any(c.program in ("npm", "pnpm", "yarn") for c in step.commands)
    ]
    users = [run for run in users if _place(stage, run) > at]
    if not users or not edits:
        return ()
    for run in users:
        edits += source.add_flags(run, [flag])
    return tuple(edits)


def _workdir_before(stage: Stage, instruction: Instruction) -> str:
    folder = ""
    for item in stage.instructions:
        if item is instruction:
            break
        if isinstance(item, Workdir):
            folder = posixpath.join(folder, item.text)
    return folder


def _spelled_out(source: Source, run: Run) -> Iterator[LintFinding]:
    text = "\n".join([*run.command, *(heredoc.content for heredoc in run.heredocs)])
    held = _token_in(text) or next(map("the value of {}".format, _given(text)), None)
    if held is not None:
        yield LintFinding(BAKED_SECRET, f"the text of this RUN holds {held}", run.location)


def _given(text: str) -> Iterator[str]:
    """The names of secrets that are given to a command with their values."""
    for piece in pieces_of(text):
        for word in piece.words:
            match = _GIVEN.fullmatch(word.text)
            if match is None or not _GIVEN_NAME.search(match[1]) or _NO_SECRET_NAME.search(match[1]):
                continue
            if not _NO_SECRET_VALUE.fullmatch(match[2]) and "`" not in match[2]:
                yield match[1]


def _token_in(text: str) -> str | None:
    return next((what for what, form in _TOKEN_FORMS if form.search(text)), None)
