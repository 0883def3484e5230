from hypothesis import given
from hypothesis import strategies as st

from stagewright.registry.auth import Challenge, parse_challenges
from stagewright.registry.connection import Headers


def headers(*values: str) -> Headers:
    return Headers(*(("WWW-Authenticate", value) for value in values))


def test_a_bearer_challenge_is_read() -> None:
    text = 'Bearer realm="https://auth.example.com/token",service="reg",scope="repository:a/b:pull,push"'
    assert parse_challenges(headers(text)) == [
        Challenge(
            "bearer",
            {"realm": "https://auth.example.com/token", "service": "reg", "scope": "repository:a/b:pull,push"},
        )
    ]


def test_several_challenges_in_one_header_or_in_several() -> None:
    expected = [Challenge("basic", {"realm": 'a "b"'}), Challenge("bearer", {"realm": "c", "service": "d"})]
    assert parse_challenges(headers(r'Basic realm="a \"b\"", BEARER Realm=c, service=d')) == expected
    assert parse_challenges(headers(r'Basic realm="a \"b\""', 'Bearer realm="c" service="d"')) == expected


def test_a_challenge_without_parameters() -> None:
    assert parse_challenges(headers("Negotiate", "Basic")) == [Challenge("negotiate", {}), Challenge("basic", {})]
    assert parse_challenges(headers()) == []


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80))
def test_nonsense_is_no_error(text: str) -> None:
    for challenge in parse_challenges(headers(text)):
        assert challenge.scheme
