"""What is masked in a build: its secrets, and the credentials of URLs that it is given in one way or another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stagewright.confidential import confidential
from stagewright.errors import UsageError
from stagewright.options import BuildOptions, SecretSource

PASSWORD = "hunter2-hunter2"


def test_a_build_with_nothing_to_hide_masks_nothing() -> None:
    options = BuildOptions(".", build_args={"URL": "https://host"})
    with confidential(options, {"HTTP_PROXY": "http://proxy:3128"}, None) as (secrets, emitter):
        assert (secrets, emitter.masks) == ({}, None)


@pytest.mark.parametrize(
    ("options", "env"),
    [
        (BuildOptions(".", secrets=(SecretSource("one", data=PASSWORD.encode()),)), {}),
        (BuildOptions(f"https://me:{PASSWORD}@host/repository.git"), {}),
        (BuildOptions(".", build_contexts={"a": f"https://me:{PASSWORD}@host/repository.git"}), {}),
        (BuildOptions(".", build_args={"http_proxy": f"me:{PASSWORD}@proxy:3128"}), {}),
        (BuildOptions("."), {"HTTPS_PROXY": f"http://me:{PASSWORD}@proxy:3128"}),
    ],
)
def test_what_is_given_in_confidence(options: BuildOptions, env: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught, confidential(options, env, None) as (_, emitter):
        assert emitter.masked(f"it is {PASSWORD}") == "it is ***"
        raise UsageError(f"cannot use {PASSWORD}")
    assert caught.value.message == "cannot use ***"


def test_the_proxies_of_docker(tmp_path: Path) -> None:
    proxies = {"default": {"httpProxy": f"http://me:{PASSWORD}@proxy:3128"}}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": proxies}))
    with confidential(BuildOptions("."), {"DOCKER_CONFIG": str(tmp_path)}, None) as (_, emitter):
        assert emitter.masked(PASSWORD) == "***"
