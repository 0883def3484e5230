import base64
import json
import stat
from pathlib import Path

import pytest

from stagewright.errors import RegistryError, StagewrightError, UsageError
from stagewright.registry.credentials import Credential, CredentialStore

SECRET = "hunter2-secret"


def store(tmp_path: Path, document: object) -> CredentialStore:
    text = document if isinstance(document, str) else json.dumps(document)
    (tmp_path / "config.json").write_text(text)
    return CredentialStore({"DOCKER_CONFIG": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"})


def helper(tmp_path: Path, name: str, body: str) -> None:
    path = tmp_path / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def auth(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def test_auths_are_found_under_all_spellings_of_the_host(tmp_path: Path) -> None:
    found = store(
        tmp_path,
        {
            "auths": {
                "https://index.docker.io/v1/": auth("hub", "a:b"),
                "ghcr.io": auth("gh", SECRET),
                "https://reg.example.com:5000/v2/": auth("reg", SECRET),
                "token.example.com": {**auth("me", "x"), "identitytoken": SECRET},
                "plain.example.com": {"username": "u", "password": SECRET},
                "empty.example.com": {},
            }
        },
    )
    for name in ("docker.io", "registry-1.docker.io", "index.docker.io"):
        assert found.get(name) == Credential("hub", "a:b")
    assert found.get("ghcr.io") == Credential("gh", SECRET)
    assert found.get("reg.example.com:5000") == Credential("reg", SECRET)
    assert found.get("token.example.com") == Credential("me", "x", SECRET)
    assert found.get("plain.example.com") == Credential("u", SECRET)
    for name in ("empty.example.com", "reg.example.com", "evil-ghcr.io"):
        assert found.get(name) is None


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert CredentialStore({}).get("ghcr.io") is None
    assert CredentialStore({"HOME": str(tmp_path)}).get("ghcr.io") is None


def test_the_file_is_found_below_home(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {"x.io": auth("u", "p")}}))
    assert CredentialStore({"HOME": str(tmp_path)}).get("x.io") == Credential("u", "p")


def test_helpers_are_asked_with_the_server_on_stdin(tmp_path: Path) -> None:
    helper(
        tmp_path,
        "one",
        f'read server; echo "$server" >> {tmp_path}/asked; echo \'{{"Username":"u1","Secret":"{SECRET}"}}\'',
    )
    helper(tmp_path, "all", f'cat > /dev/null; echo \'{{"Username":"<token>","Secret":"{SECRET}"}}\'')
    found = store(
        tmp_path, {"credHelpers": {"ghcr.io": "one"}, "credsStore": "all", "auths": {"x.io": auth("no", "no")}}
    )
    assert found.get("ghcr.io") == Credential("u1", SECRET)
    assert found.get("ghcr.io") == Credential("u1", SECRET)
    assert (tmp_path / "asked").read_text() == "ghcr.io\n"
    assert found.get("x.io") == Credential(identity_token=SECRET)


def test_the_hub_has_its_old_name_for_helpers(tmp_path: Path) -> None:
    helper(tmp_path, "h", 'read server; printf \'{"Username":"%s","Secret":"s"}\' "$server"')
    assert store(tmp_path, {"credsStore": "h"}).get("docker.io") == Credential("https://index.docker.io/v1/", "s")


def test_a_helper_that_knows_nothing_is_no_error(tmp_path: Path) -> None:
    helper(tmp_path, "h", "echo credentials not found in native keychain; exit 1")
    assert store(tmp_path, {"credsStore": "h"}).get("x.io") is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"echo locked; echo {SECRET} >&2; exit 1", "credential helper docker-credential-h failed for x.io: locked"),
        (f"echo {SECRET}", "credential helper docker-credential-h did not answer with a JSON object"),
        (f"echo '[\"{SECRET}\"]'", "credential helper docker-credential-h did not answer with a JSON object"),
    ],
)
def test_a_helper_that_fails_is_an_error_without_the_secret(tmp_path: Path, body: str, message: str) -> None:
    helper(tmp_path, "h", body)
    with pytest.raises(RegistryError) as caught:
        store(tmp_path, {"credsStore": "h"}).get("x.io")
    assert caught.value.message == message


def test_a_helper_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="docker-credential-none is not installed"):
        store(tmp_path, {"credsStore": "none"}).get("x.io")


def test_a_helpers_name_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        store(tmp_path, {"credsStore": "../../bin/sh"}).get("x.io")


@pytest.mark.parametrize(
    "document",
    [f'{{"auths": {{"x.io": {{"auth": "{SECRET}" ', f'["{SECRET}"]', {"auths": {"x.io": {"auth": f"!{SECRET}"}}}],
)
def test_a_bad_file_is_named_without_its_secrets(tmp_path: Path, document: object) -> None:
    with pytest.raises(StagewrightError) as caught:
        store(tmp_path, document).get("x.io")
    shown = caught.value.render() + repr(caught.value.__cause__)
    assert "config.json" in shown and SECRET not in shown


def test_secrets_are_not_in_the_repr() -> None:
    assert SECRET not in repr(Credential("u", SECRET, SECRET))
