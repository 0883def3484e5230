"""Which parts of URLs are credentials, and that nothing else changes."""

from __future__ import annotations

import pytest

from stagewright.redaction import credentials_in, redact_host, redact_text, redact_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:hunter2@host/path", "https://***@host/path"),
        ("https://ghp_token@host/path", "https://***@host/path"),
        ("HTTPS://user:hunter2@host", "HTTPS://***@host"),
        ("https://:hunter2@host:8080/", "https://***@host:8080/"),
        ("https://user:hunt@er2@host/", "https://***@host/"),
        ("https://user:hunt%2Fer2@[::1]:80/", "https://***@[::1]:80/"),
        ("http://user:hunt/er2@proxy:3128", "http://***@proxy:3128"),
        ("http://user:hunt#er2@proxy:3128/path", "http://***@proxy:3128/path"),
        ("ssh://git:hunter2@host/repo.git#main", "ssh://***@host/repo.git#main"),
        ("https://host?access_token=hunter2&x=1", "https://host?access_token=***&x=1"),
        ("https://host/b?X-Amz-Signature=hunter2&X-Amz-Date=1", "https://host/b?X-Amz-Signature=***&X-Amz-Date=1"),
        ("https://host/b?sv=1&sig=hunter2#part", "https://host/b?sv=1&sig=***#part"),
        ("https://user:hunter2@host?token=hunter2", "https://***@host?token=***"),
        ("https://user:hunter2\n@host/", "https://***@host/"),
    ],
)
def test_credentials_are_masked(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "https://host/path",
        "https://host:443/scope/@types/node",
        "https://host/@scope/pkg@1.0",
        "ssh://git@host/repo.git",
        "git@host:org/repo.git",
        "https://host/?monkey=1&design=2&tokens=3",
        "/a/path",
        "docker-image://host:5000/name:tag@sha256:abc",
        "docker-image://name:tag@sha256:abc",
        "oci-layout://folder:tag@sha256:abc",
        "http://[::1]:5000/v2/a@b",
        "",
    ],
)
def test_what_is_no_credential_stays(url: str) -> None:
    assert redact_url(url) == url


def test_each_url_of_a_text_is_masked() -> None:
    text = "fatal: unable to access 'https://me:hunter2@host/a.git/': tried (http://u:hunter2@proxy:1) twice; no a@b"
    shown = "fatal: unable to access 'https://***@host/a.git/': tried (http://***@proxy:1) twice; no a@b"
    assert redact_text(text) == shown


def test_masking_twice_changes_nothing() -> None:
    once = redact_url("https://user:hunter2@host/?token=x")
    assert redact_url(once) == once


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("me:hunter2@host:5000/path", "***@host:5000/path"),
        ("https://me:hunter2@host", "https://***@host"),
        ("host:5000/path", "host:5000/path"),
    ],
)
def test_hosts_without_a_scheme(text: str, shown: str) -> None:
    assert redact_host(text) == shown


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("http://me:hunter2@proxy:3128", ["hunter2"]),
        ("http://me:hunt%2Fer2@proxy:3128", ["hunt%2Fer2", "hunt/er2"]),
        ("https://ghp_0123456789abcdef:x@host/a.git#main", ["x", "ghp_0123456789abcdef"]),
        ("https://me@host", []),
        ("ssh://git@host/repo", []),
        ("https://host/a@b", []),
        ("a folder", []),
    ],
)
def test_what_a_url_keeps_from_others(url: str, credentials: list[str]) -> None:
    assert credentials_in(url) == credentials
