"""Values of `--secret`, `--ssh`, `--output`, `--cache-from` and `--cache-to` in buildx's forms, made the library's."""

from __future__ import annotations

from collections.abc import Mapping

from stagewright.api import Cache, Output, SecretSource, SshSource
from stagewright.cli.values import csv_fields
from stagewright.errors import UsageError


def parse_secret(text: str, environ: Mapping[str, str]) -> SecretSource:
    """A secret from `id=NAME` and `src=FILE` or `env=VARIABLE`, optionally with `type=file` or `type=env`.

    With neither, it is the environment variable NAME, or if `environ` has none the file NAME. Raises UsageError.
    """
    kind = name = path = env = ""
    for key, value in _key_values(text, "--secret"):
        match key:
            case "type" if value in ("file", "env"):
                kind = value
            case "type":
                raise UsageError(f"--secret: unknown type {value!r}", hint="type=file or type=env")
            case "id":
                name = value
            case "src" | "source":
                path = value
            case "env":
                env = value
            case _:
                raise UsageError(f"--secret: unknown key {key!r} in {text!r}")
    if not name:
        raise UsageError(f"--secret: {text!r} has no id", hint="write it as id=NAME,src=FILE or id=NAME,env=VARIABLE")
    if kind == "env" and not env:
        env, path = path or name, ""
    if not path and not env:
        if kind != "file" and name in environ:
            env = name
        else:
            path = name
    return SecretSource(name, path=path) if path else SecretSource(name, env=env)


def parse_ssh(text: str) -> SshSource:
    """An agent or keys from `NAME`, `NAME=SOCKET` or `NAME=KEY[,KEY]`; a name alone is the agent of SSH_AUTH_SOCK.

    Raises UsageError.
    """
    name, equals, paths = text.partition("=")
    if not name or (equals and not all(paths.split(","))):
        raise UsageError(
            f"--ssh: {text!r} names no agent or key", hint="write it as default, NAME=SOCKET or NAME=KEY[,KEY]"
        )
    return SshSource(name, tuple(paths.split(",")) if equals else ())


def parse_output(text: str) -> Output:
    """An output from `type=TYPE[,dest=PATH][,KEY=VALUE]`; a path alone is a directory, `-` alone a tar to stdout.

    `type=registry` is `type=image,push=true`. Raises UsageError.
    """
    if text == "-":
        return Output("tar", "-")
    if text and csv_fields(text) == [text] and not text.startswith("type="):
        return Output("local", text)
    kind, dest, attrs = "", None, {}
    for key, value in _key_values(text, "--output"):
        match key:
            case "type":
                kind = value
            case "dest":
                dest = value
            case _:
                attrs[key] = value
    if not kind:
        raise UsageError(f"--output: {text!r} has no type", hint="write it as type=TYPE,dest=PATH")
    if kind == "registry":
        return Output("image", dest, {**attrs, "push": "true"})
    return Output(kind, dest, attrs)


def parse_cache(text: str, flag: str) -> Cache:
    """A place of a cache from `type=TYPE[,KEY=VALUE]`, where `mount` may come more than once.

    A name alone is an image in a registry. Raises UsageError.
    """
    if text and "=" not in text:
        return Cache("registry", {"ref": text})
    kind, attrs, mounts = "", {}, []
    for key, value in _key_values(text, flag):
        match key:
            case "type":
                kind = value
            case "mount":
                mounts.append(value)
            case _:
                attrs[key] = value
    if not kind:
        raise UsageError(f"{flag}: no type is given", hint="write it as type=TYPE,KEY=VALUE")
    return Cache(kind, attrs, tuple(mounts))


def _key_values(text: str, flag: str) -> list[tuple[str, str]]:
    pairs = []
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if not equals:
            raise UsageError(f"{flag}: {field!r} is no key=value pair")
        pairs.append((key.strip().lower(), value))
    return pairs
