import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.errors import IntegrityError
from stagewright.image.config import MAX_CONFIG_SIZE, ContainerConfig, HealthCheck, History, ImageConfig
from stagewright.image.platform import Platform
from stagewright.records import replace

DIFF = "sha256:" + "c" * 64


def test_the_document_is_what_buildkit_writes() -> None:
    config = ImageConfig(
        platform=Platform("linux", "arm", "v7"),
        author="me",
        created="2024-05-01T00:00:00Z",
        config=ContainerConfig(
            user="app",
            exposed_ports=frozenset({"80/tcp", "443/tcp"}),
            env=("PATH=/bin", "A=<b>"),
            entrypoint=("/e",),
            cmd=("c", "d"),
            volumes=frozenset({"/data"}),
            working_dir="/w",
            labels={"b": "2", "a": "1"},
            stop_signal="SIGINT",
            args_escaped=True,
            healthcheck=HealthCheck(("CMD-SHELL", "true"), interval_ns=30_000_000_000, retries=3),
            on_build=("RUN x",),
            shell=("/bin/bash", "-c"),
        ),
        diff_ids=(DIFF,),
        history=(History("2024-05-01T00:00:00Z", "RUN x && y", comment="buildkit.dockerfile.v0"),),
    )
    expected = (
        '{"architecture":"arm","author":"me","config":{"User":"app","ExposedPorts":{"443/tcp":{},"80/tcp":{}},'
        '"Env":["PATH=/bin","A=\\u003cb\\u003e"],"Entrypoint":["/e"],"Cmd":["c","d"],"Volumes":{"/data":{}},'
        '"WorkingDir":"/w","Labels":{"a":"1","b":"2"},"StopSignal":"SIGINT","ArgsEscaped":true,'
        '"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":30000000000,"Retries":3},"OnBuild":["RUN x"],'
        '"Shell":["/bin/bash","-c"]},"created":"2024-05-01T00:00:00Z","history":[{"created":"2024-05-01T00:00:00Z",'
        '"created_by":"RUN x \\u0026\\u0026 y","comment":"buildkit.dockerfile.v0"}],"os":"linux",'
        f'"rootfs":{{"type":"layers","diff_ids":["{DIFF}"]}},"variant":"v7"}}'
    )
    assert config.to_bytes().decode() == expected
    assert ImageConfig.from_bytes(config.to_bytes()) == config


def test_an_empty_config_has_gos_nulls() -> None:
    assert ImageConfig(Platform("linux", "amd64")).to_bytes() == (
        b'{"architecture":"amd64","config":{},"created":null,"history":null,"os":"linux",'
        b'"rootfs":{"type":"layers","diff_ids":null}}'
    )


def test_nulls_and_unknown_keys_are_tolerated() -> None:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "container_config": {"Cmd": 7},
        "config": dict.fromkeys(["Env", "Cmd", "Entrypoint", "Labels", "Volumes", "ExposedPorts", "OnBuild", "Image"]),
        "rootfs": {"type": "layers", "diff_ids": None},
        "history": None,
        "created": None,
    }
    assert ImageConfig.from_bytes(json.dumps(document).encode()) == ImageConfig(Platform("linux", "amd64"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01T00:00:00Z", "2024-05-01T00:00:00Z"),
        ("2024-05-01T00:00:00.120000Z", "2024-05-01T00:00:00.12Z"),
        ("2024-05-01T00:00:00.000Z", "2024-05-01T00:00:00Z"),
        ("2024-05-01T00:00:00.1234567891Z", "2024-05-01T00:00:00.123456789Z"),
        ("2024-05-01T00:00:00+00:00", "2024-05-01T00:00:00Z"),
        ("2024-05-01T02:00:00+02:00", "2024-05-01T02:00:00+02:00"),
    ],
)
def test_times_are_written_as_go_writes_them(text: str, expected: str) -> None:
    assert ImageConfig.from_bytes(json.dumps({"created": text}).encode()).created == expected


@pytest.mark.parametrize(
    "document",
    [
        {"created": "yesterday"},
        {"config": []},
        {"config": {"Env": "A=b"}},
        {"config": {"Labels": {"a": 1}}},
        {"rootfs": {"diff_ids": ["sha256:abc"]}},
        {"history": [{"empty_layer": "yes"}]},
        {"config": {"Healthcheck": {"Interval": "30s"}}},
    ],
)
def test_a_wrong_type_is_refused(document: object) -> None:
    with pytest.raises(IntegrityError):
        ImageConfig.from_bytes(json.dumps(document).encode())


def test_a_huge_document_is_refused() -> None:
    with pytest.raises(IntegrityError, match="more than"):
        ImageConfig.from_bytes(b" " * (MAX_CONFIG_SIZE + 1))


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_texts = st.lists(_text, max_size=3).map(tuple)


@given(
    st.builds(
        ContainerConfig,
        user=_text,
        exposed_ports=st.frozensets(_text, max_size=3),
        env=_texts,
        entrypoint=_texts,
        cmd=_texts,
        volumes=st.frozensets(_text, max_size=3),
        working_dir=_text,
        labels=st.dictionaries(_text, _text, max_size=3),
        stop_signal=_text,
        args_escaped=st.booleans(),
        healthcheck=st.none() | st.builds(HealthCheck, test=_texts, interval_ns=st.integers(0, 2**62)),
        on_build=_texts,
        shell=_texts,
    )
)
def test_any_container_config_reads_back(config: ContainerConfig) -> None:
    image = ImageConfig(Platform("linux", "amd64"), config)
    assert ImageConfig.from_bytes(image.to_bytes()) == image
    assert replace(image).to_bytes() == image.to_bytes()
