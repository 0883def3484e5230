"""That no message about a registry holds the credentials for it, whoever put them there."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import cast

import pytest

from stagewright.config import Config, RegistryTable
from stagewright.errors import StagewrightError, UsageError
from stagewright.exporters.engine import load
from stagewright.registry.hosts import pull_hosts
from stagewright.registry.http import Response
from stagewright.registry.reference import Reference
from stagewright.registry.session import error_text

PASSWORD = "hunter2-hunter2"


def answer(message: str, authorization: str) -> Response:
    body = json.dumps({"errors": [{"message": message}]}).encode()
    return cast(Response, SimpleNamespace(read_all=lambda limit: body, authorization=authorization))


@pytest.mark.parametrize(
    "message",
    [
        "bad credentials: {header}",
        "the password {password} is wrong",
        "see https://me:{password}@host/login",
        "token {token} has expired",
    ],
)
def test_a_registry_that_repeats_what_it_was_sent(message: str) -> None:
    token = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    for header in (f"Basic {token}", f"Bearer {token}"):
        password = PASSWORD if header.startswith("Basic") or "://" in message else ""
        text = error_text(answer(message.format(header=header, password=password, token=token), header))
        assert text.startswith(": ")
        assert PASSWORD not in text
        assert token not in text


def test_messages_are_otherwise_as_they_were_sent() -> None:
    assert error_text(answer("no such tag", "Bearer abc")) == ": no such tag"
    assert error_text(answer("no such tag", "")) == ": no such tag"


@pytest.mark.parametrize("text", [f"https://me:{PASSWORD}@host/app:1", f"me:{PASSWORD}@host/app:1"])
def test_names_with_a_login(text: str) -> None:
    with pytest.raises(UsageError, match=r"invalid reference format: .*\*\*\*@host/app:1") as caught:
        Reference.parse(text)
    assert PASSWORD not in caught.value.message


@pytest.mark.parametrize("mirror", [f"https://me:{PASSWORD}@mirror", f"me:{PASSWORD}@mirror/prefix"])
def test_mirrors_with_a_login(mirror: str) -> None:
    config = Config(registries={"docker.io": RegistryTable(mirrors=(mirror,))})
    with pytest.raises(UsageError, match=r"invalid mirror .*\*\*\*@mirror") as caught:
        pull_hosts(config, "docker.io")
    assert PASSWORD not in caught.value.message


@pytest.mark.parametrize("host", [f"ssh://me:{PASSWORD}@host", f"tcp://me:{PASSWORD}@127.0.0.1:1"])
def test_a_docker_engine_with_a_login(host: str) -> None:
    with pytest.raises(StagewrightError, match=r"\*\*\*@") as caught:
        load({"DOCKER_HOST": host}, lambda sink: None)
    assert PASSWORD not in caught.value.render()
