"""The configuration file: TOML, with the registry tables of a `buildkitd.toml`, so that an existing one can be used."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from stagewright.errors import UsageError
from stagewright.patterns import pattern
from stagewright.policy import Policy, parse_conditions
from stagewright.records import dataclass, field, replace

# Tables and keys of a buildkitd.toml that say nothing to this builder.
_BUILDKITD_KEYS = frozenset(
    {
        "cdi",
        "debug",
        "dns",
        "frontend",
        "grpc",
        "history",
        "insecure-entitlements",
        "log",
        "otel",
        "provenanceEnvDir",
        "root",
        "system",
        "trace",
    }
)
_BUILDKITD_WORKERS = frozenset({"oci", "containerd"})
_SNAPSHOTTERS = ("auto", "overlay", "fuse-overlayfs", "copies")
_RUNTIMES = ("auto", "chroot")
_DURATION = pattern(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
# As BuildKit's: up to a tenth of the disk stays in any case, more only as long as there is room.
_DEFAULT = Policy(reserved=0.1, max_used=0.6, min_free=0.2)
DEFAULT_POLICIES = (_DEFAULT,)
_GC_LIMITS = {"reservedSpace": "reserved", "maxUsedSpace": "max_used", "minFreeSpace": "min_free"}
_SIZE = pattern(r"(\d+(?:\.\d+)?) ?(%|[kmgt]?i?b?)", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Paths of a TLS client key and its certificate, both PEM."""

    key: str
    cert: str


@dataclass(frozen=True, slots=True)
class RegistryTable:
    """How to reach one registry. `http` and `insecure` are None where the file says nothing.

    `mirrors` are tried in order before the registry itself; each is HOST[:PORT] with an optional path prefix.
    `ca` are paths of PEM files with more authorities to trust; `tls_config_dirs` are directories that hold `*.crt`
    authorities and `*.cert`/`*.key` client key pairs.
    """

    mirrors: tuple[str, ...] = ()
    http: bool | None = None
    insecure: bool | None = None
    ca: tuple[str, ...] = ()
    key_pairs: tuple[KeyPair, ...] = ()
    tls_config_dirs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a configuration file.

    `registries` is keyed by HOST[:PORT]. `resolve_ttl_s` is for how many seconds a tag's digest is trusted before the
    registry is asked again. `host_ca` is the path of a CA bundle that steps shall trust, or True for the host's own.
    `jobs` bounds the steps that run at once; `oci_runtime` is an OCI runtime to run them with. `snapshotter` is how
    layers are merged, `chroot` has steps run in no more than a chroot. `gc` are the policies by which builds collect
    garbage when they have ended, in their order; None for none at all.
    """

    registries: Mapping[str, RegistryTable] = field(default_factory=dict)
    resolve_ttl_s: float = 0.0
    host_ca: str | bool = False
    jobs: int | None = None
    oci_runtime: str | None = None
    snapshotter: str = "auto"
    chroot: bool = False
    gc: tuple[Policy, ...] | None = DEFAULT_POLICIES


def load(path: str | None, env: Mapping[str, str]) -> Config:
    """Read the configuration.

    `path` is what `--config` said. Without it, STAGEWRIGHT_CONFIG in `env` names the file; without that, the first that
    exists of /etc/stagewright/stagewright.toml and $XDG_CONFIG_HOME/stagewright/stagewright.toml is read, if any.
    Raises UsageError, naming file and key, for a named file that is not there, bad TOML, unknown keys and bad values.
    """
    named = path or env.get("STAGEWRIGHT_CONFIG")
    for candidate in [named] if named else _default_paths(env):
        try:
            with open(candidate, "rb") as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UsageError(f"cannot read the configuration {candidate}: {error.strerror}") from error
        return _parse(data, candidate)
    if named:
        raise UsageError(f"configuration file {named} does not exist")
    return Config()


def path_in_force(path: str | None, env: Mapping[str, str]) -> str | None:
    """The file that `load` reads for the same arguments; None where there is none."""
    named = path or env.get("STAGEWRIGHT_CONFIG")
    return named or next((candidate for candidate in _default_paths(env) if os.path.isfile(candidate)), None)


def parse_duration(text: str) -> float:
    """Seconds from a duration as Go writes it (`1h30m`, `1.5s`, `300ms`, `0`). Raises UsageError for anything else."""
    sign = -1 if text.startswith("-") else 1
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0.0
    total, position = 0.0, 0
    while position < len(body):
        matched = _DURATION.match(body, position)
        if matched is None:
            break
        total += float(matched.group(1)) * _UNIT_S[matched.group(2)]
        position = matched.end()
    if not body or position != len(body):
        raise UsageError(f'invalid duration "{text}"', hint="write it as 90s, 5m or 1h30m")
    return sign * total


def _default_paths(env: Mapping[str, str]) -> list[str]:
    paths = ["/etc/stagewright/stagewright.toml"]
    home = env.get("XDG_CONFIG_HOME") or (os.path.join(env["HOME"], ".config") if env.get("HOME") else "")
    if home:
        paths.append(os.path.join(home, "stagewright", "stagewright.toml"))
    return paths


class _Table:
    """One TOML table: typed reads that name file and key in the error, and a check that nothing is left unread."""

    def __init__(self, value: Any, path: str, name: str = "") -> None:
        self._path = path
        self._name = name
        if not isinstance(value, dict):
            raise self.error("", "a table")
        self._value: dict[str, Any] = value
        self._read: set[str] = set()

    def error(self, key: str, expected: str) -> UsageError:
        return UsageError(f"{self._path}: {self._label(key)} is not {expected}")

    def _label(self, key: str) -> str:
        return ".".join(part for part in (self._name, key) if part)

    def get(self, key: str, kind: type[Any], expected: str) -> Any:
        """The value of `key`, None where it is absent; UsageError where it is not of `kind`."""
        self._read.add(key)
        value = self._value.get(key)
        if value is not None and type(value) is not kind:
            raise self.error(key, expected)
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings, or one string for a list of one."""
        self._read.add(key)
        value = self._value.get(key)
        if value is None:
            return ()
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise self.error(key, "a list of strings")
        return tuple(items)

    def tables(self, key: str) -> list[_Table]:
        """An array of tables."""
        items = self.get(key, list, "a list of tables") or []
        return [_Table(item, self._path, f"{self._label(key)}[{number}]") for number, item in enumerate(items)]

    def children(self, key: str) -> dict[str, _Table]:
        """A table of tables."""
        items = self.get(key, dict, "a table") or {}
        return {name: _Table(item, self._path, f'{self._label(key)}."{name}"') for name, item in items.items()}

    def child(self, key: str) -> _Table:
        """A table, empty where it is absent."""
        return _Table(self.get(key, dict, "a table") or {}, self._path, self._label(key))

    def choice(self, key: str, allowed: tuple[str, ...]) -> str | None:
        """One of a few strings."""
        value: str | None = self.get(key, str, "a string")
        if value is not None and value not in allowed:
            raise self.error(key, f"one of {', '.join(allowed)}")
        return value

    def raw(self, key: str) -> Any:
        self._read.add(key)
        return self._value.get(key)

    def finish(self, tolerated: frozenset[str] = frozenset()) -> None:
        """Raise UsageError for a key that nothing asked for."""
        for key in self._value:
            if key not in self._read and key not in tolerated:
                raise UsageError(f"{self._path}: unknown key {self._label(key)}")


def _parse(data: bytes, path: str) -> Config:
    import tomllib

    try:
        document = tomllib.loads(data.decode())
    except UnicodeError:
        raise UsageError(f"{path}: not valid TOML: it is not UTF-8") from None
    except RecursionError:
        raise UsageError(f"{path}: not valid TOML: it is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    table = _Table(document, path)
    registries = {host: _parse_registry(child) for host, child in table.children("registry").items()}
    jobs = table.get("jobs", int, "a whole number")
    if jobs is not None and jobs < 1:
        raise table.error("jobs", "at least 1")
    config = Config(
        registries=registries,
        resolve_ttl_s=_parse_ttl(table),
        host_ca=_parse_host_ca(table),
        jobs=jobs,
        oci_runtime=table.get("oci-runtime", str, "a string"),
        gc=_parse_gc(table),
        **_parse_worker(table),
    )
    table.finish(_BUILDKITD_KEYS)
    return config


def _parse_worker(table: _Table) -> dict[str, Any]:
    """The keys of `[worker]`; those of its tables in a buildkitd.toml (`oci`, `containerd`) say nothing here."""
    worker = table.child("worker")
    snapshotter = worker.choice("snapshotter", _SNAPSHOTTERS) or "auto"
    runtime = worker.choice("runtime", _RUNTIMES) or "auto"
    worker.finish(_BUILDKITD_WORKERS)
    return {"snapshotter": snapshotter, "chroot": runtime == "chroot"}


def _parse_gc(table: _Table) -> tuple[Policy, ...] | None:
    """The keys of `[gc]`, which are those of a worker in a buildkitd.toml."""
    gc = table.child("gc")
    is_on = gc.get("gc", bool, "true or false")
    keep = gc.raw("gckeepstorage")
    limits = _parse_limits(gc)
    if keep is not None:
        # The older name of reservedSpace.
        limits.setdefault("reserved", _parse_space(gc, "gckeepstorage", keep))
    policies = [_parse_policy(child) for child in gc.tables("gcpolicy")]
    gc.finish()
    if is_on is False:
        return None
    return tuple(policies) or (replace(_DEFAULT, **limits),)


def _parse_policy(table: _Table) -> Policy:
    table.get("all", bool, "true or false")  # All caches of this builder are of the kinds that go without it.
    keep = table.raw("keepDuration")
    try:
        keep_s = float(keep) if type(keep) is int else parse_duration(keep or "0")
        filters = tuple(map(parse_conditions, table.strings("filters")))
    except UsageError as error:
        raise UsageError(f"{table.error('', 'a policy').message}: {error.message}", hint=error.hint) from error
    except TypeError as error:
        raise table.error("keepDuration", 'a duration such as "48h"') from error
    policy = Policy(filters, keep_s, **_parse_limits(table))
    table.finish()
    return policy


def _parse_limits(table: _Table) -> dict[str, int | float]:
    given = ((field, name, table.raw(name)) for name, field in _GC_LIMITS.items())
    return {field: _parse_space(table, name, value) for field, name, value in given if value is not None}


def _parse_space(table: _Table, name: str, value: object) -> int | float:
    """Bytes of a number or of a text such as "10GB", or a part of the disk of one such as "20%"."""
    matched = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if type(value) is int and value >= 0:
        return value
    if matched is None:
        raise table.error(name, 'a number of bytes, or a text such as "10GB" or "20%"')
    if matched[2] == "%":
        return float(matched[1]) / 100
    unit = matched[2].lower().removesuffix("b")
    return int(float(matched[1]) * (_BINARY[unit[:-1]] if unit.endswith("i") else _UNITS[unit]))


def _parse_ttl(table: _Table) -> float:
    text = table.get("resolve-ttl", str, 'a duration such as "10m"')
    try:
        seconds = parse_duration(text or "0")
    except UsageError as error:
        raise table.error("resolve-ttl", 'a duration such as "10m"') from error
    if seconds < 0:
        raise table.error("resolve-ttl", "0 or more")
    return seconds


def _parse_host_ca(table: _Table) -> str | bool:
    value = table.raw("host-ca")
    if value is None:
        return False
    if isinstance(value, bool | str) and value != "":
        return value
    raise table.error("host-ca", "true, false or a path")


def _parse_registry(table: _Table) -> RegistryTable:
    key_pairs = []
    for pair in table.tables("keypair"):
        key, cert = pair.get("key", str, "a string"), pair.get("cert", str, "a string")
        if not key or not cert:
            raise pair.error("key" if not key else "cert", "set")
        pair.finish()
        key_pairs.append(KeyPair(key, cert))
    result = RegistryTable(
        mirrors=table.strings("mirrors"),
        http=table.get("http", bool, "true or false"),
        insecure=table.get("insecure", bool, "true or false"),
        ca=table.strings("ca"),
        key_pairs=tuple(key_pairs),
        tls_config_dirs=table.strings("tlsconfigdir"),
    )
    table.finish()
    return result
