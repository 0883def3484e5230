import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.errors import UsageError
from stagewright.registry.reference import Reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("python:3.13-slim", "docker.io/library/python:3.13-slim", "python:3.13-slim"),
        ("python", "docker.io/library/python:latest", "python:latest"),
        ("me/app", "docker.io/me/app:latest", "me/app:latest"),
        ("docker.io/python", "docker.io/library/python:latest", "python:latest"),
        ("index.docker.io/me/app:1", "docker.io/me/app:1", "me/app:1"),
        ("docker.io/library/a/b:1", "docker.io/library/a/b:1", "library/a/b:1"),
        ("ghcr.io/astral-sh/uv:0.5", "ghcr.io/astral-sh/uv:0.5", "ghcr.io/astral-sh/uv:0.5"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app:x", "localhost:5000/app:x", "localhost:5000/app:x"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
        ("Upper/app", "Upper/app:latest", "Upper/app:latest"),
        (f"app@{DIGEST}", f"docker.io/library/app@{DIGEST}", f"app@{DIGEST}"),
        (f"app:1@{DIGEST}", f"docker.io/library/app:1@{DIGEST}", f"app:1@{DIGEST}"),
        ("a__b/c---d.e", "docker.io/a__b/c---d.e:latest", "a__b/c---d.e:latest"),
    ],
)
def test_names_are_normalized(text: str, full: str, familiar: str) -> None:
    parsed = Reference.parse(text)
    assert str(parsed) == full
    assert parsed.familiar() == familiar
    assert Reference.parse(full) == Reference.parse(familiar) == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MyApp:1", r"invalid reference format: repository name \(library/MyApp\) must be lowercase"),
        ("ghcr.io/MyApp", r"repository name \(MyApp\) must be lowercase"),
        ("", "invalid reference format"),
        ("app:", "not a valid tag"),
        ("app:-x", "not a valid tag"),
        ("app:" + "x" * 129, "not a valid tag"),
        ("app:1:2", "not a valid tag"),
        ("app@sha256:abc", "not a valid digest"),
        ("app@", "not a valid digest"),
        ("a..b", "invalid reference format"),
        ("a/../b", "invalid reference format"),
        ("/app", "invalid reference format"),
        ("app/", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("app\n", "invalid reference format"),
        ("app:x\n", "not a valid tag"),
        ("https://ghcr.io/app", "invalid reference format"),
        ("-x.io/app", "invalid reference format"),
        ("a" * 64, "64-byte hexadecimal"),
        ("x" * 250, "more than 255"),
    ],
)
def test_what_docker_refuses_is_a_usage_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Reference.parse(text)


@given(st.text(alphabet="aB0._-/:@[]", max_size=40) | st.text(max_size=20))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        parsed = Reference.parse(text)
    except UsageError:
        return
    assert Reference.parse(str(parsed)) == parsed
    assert Reference.parse(parsed.familiar()) == parsed
    assert ".." not in parsed.path.split("/")


def test_a_digest_wins_over_the_tag() -> None:
    assert Reference.parse("app:1").object == "1"
    pinned = Reference.parse("app:1").with_digest(DIGEST)
    assert pinned.object == DIGEST and pinned.tag == "1"
