import re

import pytest

from stagewright.patterns import pattern


@pytest.mark.parametrize(("text", "flags"), [("(a)(b*)", 0), ("A", re.IGNORECASE)])
@pytest.mark.parametrize("subject", ["abba", "xaxbx", "", "ABB"])
def test_a_pattern_does_what_a_compiled_one_does(text: str, flags: int, subject: str) -> None:
    late, compiled = pattern(text, flags), re.compile(text, flags)
    assert late.sub("-", subject) == compiled.sub("-", subject)
    assert late.split(subject) == compiled.split(subject)
    assert late.findall(subject) == compiled.findall(subject)
    for method in ("match", "fullmatch", "search"):
        found, expected = getattr(late, method)(subject), getattr(compiled, method)(subject)
        assert (found and found.groups()) == (expected and expected.groups())


def test_it_is_compiled_when_it_is_first_used() -> None:
    broken = pattern("(")
    with pytest.raises(re.error):
        broken.match("x")


def test_it_has_no_more_than_it_says() -> None:
    with pytest.raises(AttributeError):
        _ = pattern("x").groupindex
