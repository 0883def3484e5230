from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright import config
from stagewright.config import Config, KeyPair, RegistryTable, load, parse_duration
from stagewright.errors import UsageError

FULL = """
resolve-ttl = "10m"
host-ca = true
jobs = 3
oci-runtime = "/usr/bin/crun"

[worker]
  snapshotter = "copies"
  runtime = "chroot"
[worker.oci]
  max-parallelism = 4
[grpc]
  address = ["unix:///x"]

[registry."docker.io"]
  mirrors = ["127.0.0.1:5000", "mirror.example.com/hub"]
[registry."127.0.0.1:5000"]
  http = true
[registry."reg.example.com"]
  insecure = true
  ca = ["/a.pem", "/b.pem"]
  tlsconfigdir = ["/certs"]
  [[registry."reg.example.com".keypair]]
    key = "/k.pem"
    cert = "/c.pem"
[registry."other.example.com"]
  ca = "/one.pem"
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "stagewright.toml"
    path.write_text(text)
    return str(path)


def test_a_buildkitd_file_with_our_keys_is_read(tmp_path: Path) -> None:
    assert load(write(tmp_path, FULL), {}) == Config(
        registries={
            "docker.io": RegistryTable(mirrors=("127.0.0.1:5000", "mirror.example.com/hub")),
            "127.0.0.1:5000": RegistryTable(http=True),
            "reg.example.com": RegistryTable(
                insecure=True,
                ca=("/a.pem", "/b.pem"),
                key_pairs=(KeyPair("/k.pem", "/c.pem"),),
                tls_config_dirs=("/certs",),
            ),
            "other.example.com": RegistryTable(ca=("/one.pem",)),
        },
        resolve_ttl_s=600,
        host_ca=True,
        jobs=3,
        oci_runtime="/usr/bin/crun",
        snapshotter="copies",
        chroot=True,
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("resolve_ttl = '1m'", "unknown key resolve_ttl"),
        ("[registry.x]\nmirror = []", 'unknown key registry."x".mirror'),
        ("[[registry.x.keypair]]\nkey='a'", 'registry."x".keypair[0].cert is not set'),
        ("[[registry.x.keypair]]\nkey='a'\ncert='b'\nca='c'", 'unknown key registry."x".keypair[0].ca'),
        ("[registry.x]\nhttp = 'yes'", 'registry."x".http is not true or false'),
        ("[registry]\nx = 1", 'registry."x" is not a table'),
        ("registry = 1", "registry is not a table"),
        ("[registry.x]\nmirrors = [1]", 'registry."x".mirrors is not a list of strings'),
        ("resolve-ttl = 5", "resolve-ttl"),
        ("resolve-ttl = '5'", "resolve-ttl"),
        ("resolve-ttl = '-5s'", "resolve-ttl"),
        ("jobs = 0", "jobs is not at least 1"),
        ("jobs = true", "jobs is not a whole number"),
        ("host-ca = 1", "host-ca"),
        ("host-ca = ''", "host-ca"),
        ("a = ", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, key: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load(path, {})
    assert key in caught.value.message and caught.value.message.startswith(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not valid TOML"):
        load(str(path), {})


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.toml")
    for path, env in ((missing, {}), (None, {"STAGEWRIGHT_CONFIG": missing})):
        with pytest.raises(UsageError, match="does not exist"):
            load(path, env)
    with pytest.raises(UsageError, match="cannot read"):
        load(str(tmp_path), {})


def test_the_default_paths_are_tried_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xdg" / "stagewright").mkdir(parents=True)
    (tmp_path / "xdg" / "stagewright" / "stagewright.toml").write_text("jobs = 1")
    (tmp_path / ".config" / "stagewright").mkdir(parents=True)
    (tmp_path / ".config" / "stagewright" / "stagewright.toml").write_text("jobs = 2")
    named = write(tmp_path, "jobs = 3")
    system = tmp_path / "system.toml"
    real = config._default_paths
    monkeypatch.setattr(config, "_default_paths", lambda env: [str(system), *real(env)[1:]])
    assert real({})[0] == "/etc/stagewright/stagewright.toml"
    assert load(None, {}) == Config()
    home = {"HOME": str(tmp_path)}
    assert load(None, home).jobs == 2
    assert load(None, {**home, "XDG_CONFIG_HOME": str(tmp_path / "xdg")}).jobs == 1
    system.write_text("jobs = 4")
    assert load(None, home).jobs == 4
    assert load(None, {**home, "STAGEWRIGHT_CONFIG": named}).jobs == 3
    assert load(str(system), {"STAGEWRIGHT_CONFIG": named}).jobs == 4


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90s", 90), ("1h30m", 5400), ("1.5s", 1.5), (".5m", 30), ("-2s", -2), ("+2s", 2), ("1m0.5s", 60.5)],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_small_units_are_known() -> None:
    assert parse_duration("300ms") == pytest.approx(0.3)
    for text in ("2us", "2µs", "2\u03bcs", "2000ns"):
        assert parse_duration(text) == pytest.approx(2e-6)


@pytest.mark.parametrize("text", ["", "5", "s", "-", "1h30", "1 h", "1d", "1h 30m", "..5s", "5s\n"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid duration"):
        parse_duration(text)


@given(st.text(alphabet="0123456789.hmsunµ-+", max_size=12))
def test_any_text_is_a_duration_or_a_usage_error(text: str) -> None:
    try:
        assert isinstance(parse_duration(text), float)
    except UsageError:
        return


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('snapshotter = "zfs"', "worker.snapshotter is not one of auto, overlay, fuse-overlayfs, copies"),
        ("snapshotter = 1", "worker.snapshotter is not a string"),
        ('runtime = "runc"', "worker.runtime is not one of auto, chroot"),
        ('isolation = "chroot"', "unknown key worker.isolation"),
    ],
)
def test_the_worker_table(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(write(tmp_path, f"[worker]\n{text}\n"), {})


def test_the_names_of_snapshotters_are_those_that_exist(tmp_path: Path) -> None:
    from stagewright.snapshots.selection import NAMES

    for name in NAMES:
        assert load(write(tmp_path, f'[worker]\nsnapshotter = "{name}"\n'), {}).snapshotter == name
