"""Docker's `config.json`: the proxies that it sets for steps, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stagewright.errors import UsageError
from stagewright.registry.dockerconfig import proxy_arguments


def write(folder: Path, content: str) -> dict[str, str]:
    (folder / "config.json").write_text(content)
    return {"DOCKER_CONFIG": str(folder)}


def test_proxies_become_build_arguments(tmp_path: Path) -> None:
    proxies = {"httpProxy": "http://proxy:1", "noProxy": "localhost", "ftpProxy": "", "allProxy": 1, "other": "x"}
    env = write(tmp_path, json.dumps({"proxies": {"default": proxies, "tcp://elsewhere": {"httpsProxy": "x"}}}))
    assert proxy_arguments(env) == {
        "HTTP_PROXY": "http://proxy:1",
        "http_proxy": "http://proxy:1",
        "NO_PROXY": "localhost",
        "no_proxy": "localhost",
    }


def test_the_file_of_the_home_folder(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    write(tmp_path / ".docker", '{"proxies": {"default": {"httpProxy": "p"}}}')
    assert proxy_arguments({"HOME": str(tmp_path)}) == {"HTTP_PROXY": "p", "http_proxy": "p"}


@pytest.mark.parametrize("content", ["{}", '{"proxies": null}', '{"proxies": []}', '{"proxies": {"default": "x"}}'])
def test_no_proxies(tmp_path: Path, content: str) -> None:
    assert proxy_arguments(write(tmp_path, content)) == {}


def test_no_file(tmp_path: Path) -> None:
    assert proxy_arguments({}) == {}
    assert proxy_arguments({"DOCKER_CONFIG": str(tmp_path)}) == {}


@pytest.mark.parametrize(("content", "problem"), [("nonsense", "is not valid JSON"), ("[]", "is not a JSON object")])
def test_a_file_that_is_none(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(UsageError, match=f"config.json {problem}$"):
        proxy_arguments(write(tmp_path, content))
