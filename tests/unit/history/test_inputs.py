"""What is kept of values."""

from __future__ import annotations

import pytest

from stagewright.history.inputs import looks_secret, shown_value, shown_variable


@pytest.mark.parametrize(
    "name",
    ["NPM_TOKEN", "githubToken", "DB_PASSWORD", "passwd", "API_KEY", "APIKEY", "KEY", "SSH_PRIVATE_KEY", "AWS_SECRET",
     "AUTH", "HTTP_AUTH_HEADER", "credentials"],
)  # fmt: skip
def test_names_that_say_secret(name: str) -> None:
    assert looks_secret(name)
    assert "value" not in shown_value(name, "value")
    assert shown_value(name, "value") == shown_value(name, "value")
    assert shown_value(name, "value") != shown_value(name, "other")
    assert len(shown_value(name, "value")) == len("*** 0123")


@pytest.mark.parametrize("name", ["PATH", "AUTHOR", "KEYBOARD", "VERSION", "MONKEY", "DEBIAN_FRONTEND"])
def test_names_that_do_not(name: str) -> None:
    assert shown_variable(f"{name}=value") == f"{name}=value"


def test_long_values_are_told_apart_by_their_end() -> None:
    assert shown_value("A", "x" * 1000 + "1") != shown_value("A", "x" * 1000 + "2")
    assert len(shown_value("A", "x" * 1000)) < 250


def test_credentials_in_urls_are_hidden() -> None:
    assert shown_value("INDEX", "https://user:secret@host/simple") == "https://***@host/simple"
