"""Shell words: expansion, quoting, modifiers and their errors."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagewright.dockerfile.shell import Lexer
from stagewright.errors import DockerfileError

ENV = {"A": "vfoo/boo", "EMPTY": "", "N": "x y  z", "P": "a.tar.gz", "STAR": "a*b", "L": "one\ntwo", "é": "e"}


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("", ""),
        ("a b", "a b"),
        ("$A", "vfoo/boo"),
        ("${A}", "vfoo/boo"),
        ("x$A.y", "xvfoo/boo.y"),
        ("${A}B", "vfoo/booB"),
        ("$AB", ""),
        ("$é", "e"),
        ("$", "$"),
        ("a$", "a$"),
        ("$ a", "$ a"),
        ("$.a", "$.a"),
        ("$$", ""),
        ("$1$23a", "a"),
        ("$@$*$#$?$-$!$0", ""),
        ("'$A'", "$A"),
        ('"$A"', "vfoo/boo"),
        ("\"'$A'\"", "'vfoo/boo'"),
        ("'\"'", '"'),
        ("''", ""),
        ("a'b'\"c\"d", "abcd"),
        ("\\$A", "$A"),
        ("\\\\$A", "\\vfoo/boo"),
        ("a\\nb", "anb"),
        ('"a\\nb"', "a\\nb"),
        ('"a\\"b\\$c\\\\d"', 'a"b$c\\d'),
        ("'a\\'", "a\\"),
        ("a\\", "a"),
        ("a\\ b", "a b"),
        ("<<", "<<"),
        ("a<b << c", "a<b << c"),
        # with and without a colon
        ("${A:-x}", "vfoo/boo"),
        ("${U:-x}", "x"),
        ("${U-x}", "x"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${A:+x}", "x"),
        ("${U:+x}", ""),
        ("${U+x}", ""),
        ("${EMPTY:+x}", ""),
        ("${EMPTY+x}", "x"),
        ("${A:?x}", "vfoo/boo"),
        ("${EMPTY?x}", ""),
        ("${U:-}", ""),
        ("${U:-$A}", "vfoo/boo"),
        ("${U:-${V:-w}}", "w"),
        ("${U:-'}'}", "}"),
        ("${U:-\\}}", "}"),
        ('${U:-"a b"}', "a b"),
        ("${U:-a:b}", "a:b"),
        # beginnings and ends
        ("${P%.*}", "a.tar"),
        ("${P%%.*}", "a"),
        ("${P#*.}", "tar.gz"),
        ("${P##*.}", "gz"),
        ("${P#b}", "a.tar.gz"),
        ("${P#}", "a.tar.gz"),
        ("${P##}", "a.tar.gz"),
        ("${P%?}", "a.tar.g"),
        ("${P#?.}", "tar.gz"),
        ("${P%[z]}", "a.tar.gz"),
        ("${STAR#a\\*}", "b"),
        ("${STAR#?\\*}", "b"),
        ("${A#vfoo\\/}", "boo"),
        ("${U#x}", ""),
        ("${L#*o}", "ne\ntwo"),
        ("${L##*o}", "ne\ntwo"),
        # replacing
        ("${A/o/0}", "vf0o/boo"),
        ("${A//o/0}", "vf00/b00"),
        ("${A/o*/0}", "vf0"),
        ("${A/\\//-}", "vfoo-boo"),
        ("${A//o}", None),
        ("${A/x/y}", "vfoo/boo"),
        ("${P//?/x}", "xxxxxxxx"),
        ("${P//./$A}", "avfoo/bootarvfoo/boogz"),
        ("${U/a/b}", ""),
        ("${P//./\\$0}", "a\\.tar\\.gz"),
        ("${P//./\\$$}", "a\\$tar\\$gz"),
        ("${P/z/}", "a.tar.g"),
        ("${P///-}", "-a-.-t-a-r-.-g-z-"),
        ("${EMPTY/*/x}", "x"),
        ("${N//*/x}", "x"),
    ],
)
def test_words(word: str, text: str | None) -> None:
    if text is None:
        with pytest.raises(DockerfileError):
            Lexer().process_word(word, ENV)
    else:
        assert Lexer().process_word(word, ENV) == text


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("'a", "unexpected end of statement while looking for matching single-quote"),
        ('"a', "unexpected end of statement while looking for matching double-quote"),
        ('"a\\', "unexpected end of statement while looking for matching double-quote"),
        ("${", "syntax error: missing '}'"),
        ("${A", "syntax error: missing '}'"),
        ("${A:-b", "syntax error: missing '}'"),
        ("${A:", "syntax error: missing '}'"),
        ("${A/b", "syntax error: missing '/' in ${}"),
        ("${A/b}", "syntax error: missing '/' in ${}"),
        ("${A/b/c", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${:-a}", "syntax error: bad substitution"),
        ("${{A}}", "syntax error: bad substitution"),
        ("${A=b}", "unsupported modifier (=) in substitution"),
        ("${A:=b}", "unsupported modifier (:=) in substitution"),
        ("${A:#b}", "unsupported modifier (:#) in substitution"),
        ("${A:1:2}", "unsupported modifier (:1) in substitution"),
        ("${A^^}", "unsupported modifier (^) in substitution"),
        ("${#A}", "unsupported modifier (A) in substitution"),
        ("${A.b}", "unsupported modifier (.) in substitution"),
        ("${U?}", "U: is not allowed to be unset"),
        ("${U:?}", "U: is not allowed to be unset"),
        ("${U?set it} ", "U: set it"),
        ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
        ("${A#\\a}", "invalid pattern (\\a) in substitution: invalid escape '\\a'"),
        ("${U:-" * 200 + "x" + "}" * 200 + " ", "substitutions are nested too deeply"),
    ],
)
def test_errors(word: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        Lexer().process_word(word, ENV)
    assert caught.value.message.startswith("failed to process ")
    assert caught.value.message.endswith(f": {message}")


@pytest.mark.parametrize("word", ["$A" * 300, "${A//a/$A}", "${U:-$A$A}" * 200])
def test_what_grows_without_bound_is_refused(word: str) -> None:
    """A few lines that each double a variable would fill any memory."""
    with pytest.raises(DockerfileError, match="too long"):
        Lexer().process_word(word, {"A": "a" * 16_384})


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("a b  c", ["a", "b", "c"]),
        (" a ", ["a"]),
        ("'a b' c", ["a b", "c"]),
        ('a"b c"d', ["ab cd"]),
        ("a\\ b", ["a b"]),
        ("$N", ["x", "y", "z"]),
        ('"$N"', ["x y  z"]),
        ("a$N", ["ax", "y", "z"]),
        ("'' a", ["a"]),
        ("$EMPTY", []),
        ("a << b c", ["a", "<< b", "c"]),
        ("a<<b", ["a<<b"]),
        ("a < b", ["a", "<", "b"]),
        ("80${U:-90} c", ["8090", "c"]),
    ],
)
def test_splitting(word: str, words: list[str]) -> None:
    assert Lexer().process_words(word, ENV) == words


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("$A", "vfoo/boo"),
        ("$U", "$U"),
        ("${U}", "${U}"),
        ("${U:-x}", "${U:-x}"),
        ("${U##*x}", "${U##*x}"),
        ("${U//a/b}", "${U/a/b}"),
        ("${EMPTY:-x}", "x"),
    ],
)
def test_unset_variables_can_stay(word: str, text: str) -> None:
    assert Lexer(skip_unset=True).process_word(word, ENV) == text


def test_other_escape_character() -> None:
    lexer = Lexer(escape="`")
    assert lexer.process_word('c:\\$A `$A "`$A"', ENV) == "c:\\vfoo/boo $A $A"


def test_raw_quotes_and_escapes() -> None:
    assert Lexer(raw_quotes=True).process_word("'a' \"b$A\" \\'", ENV) == "'a' \"bvfoo/boo\" '"
    assert Lexer(raw_escapes=True).process_word("a\\ b\\", ENV) == "a\\ b\\"
    assert Lexer(skip_quotes=True).process_word('it\'s "$A" \\$A', ENV) == 'it\'s "vfoo/boo" $A'


def test_looked_up_names_are_reported() -> None:
    expansion = Lexer().expand("$A ${U:-$V} '$W' ${EMPTY}", ENV)
    assert expansion.used == {"A", "EMPTY"}
    assert expansion.unset == {"U", "V"}


@settings(deadline=None)
@given(st.text(alphabet="ab$AU{}:-+?#%/'\"\\<*. \n", max_size=40))
def test_any_word_is_processed_or_refused(word: str) -> None:
    for lexer in (Lexer(), Lexer("`"), Lexer(skip_unset=True), Lexer(raw_quotes=True, raw_escapes=True)):
        try:
            text = lexer.process_word(word, ENV)
            words = lexer.process_words(word, ENV)
        except DockerfileError as error:
            assert error.message.startswith("failed to process ")
        else:
            assert all(part in text for part in words)


pattern = st.text(alphabet="ab*?", max_size=6)
value = st.text(alphabet="ab", max_size=8)


def regex(shell_pattern: str, star: str) -> str:
    return "".join({"*": star, "?": "."}.get(char, char) for char in shell_pattern)


@settings(deadline=None)
@given(pattern, value)
def test_trimming_agrees_with_regular_expressions(shell_pattern: str, text: str) -> None:
    env = {"V": text}
    for operator, star in (("#", ".*?"), ("##", ".*")):
        match = re.match(regex(shell_pattern, star), text)
        expected = text[match.end() :] if match else text
        assert Lexer().process_word(f"${{V{operator}{shell_pattern}}}", env) == expected
    for operator, star in (("%", ".*?"), ("%%", ".*")):
        match = re.match(regex(shell_pattern[::-1], star), text[::-1])
        expected = text[: len(text) - match.end()] if match else text
        assert Lexer().process_word(f"${{V{operator}{shell_pattern}}}", env) == expected


@settings(deadline=None)
@given(pattern, value)
def test_replacing_agrees_with_regular_expressions(shell_pattern: str, text: str) -> None:
    env = {"V": text}
    compiled = re.compile(regex(shell_pattern, ".*"))
    if shell_pattern:
        assert Lexer().process_word(f"${{V/{shell_pattern}/-}}", env) == compiled.sub("-", text, count=1)
    if shell_pattern.strip("*"):
        assert Lexer().process_word(f"${{V//{shell_pattern}/-}}", env) == compiled.sub("-", text)


def test_hostile_patterns_take_no_longer_than_others() -> None:
    env = {"V": "a" * 5000}
    assert Lexer().process_word("${V//" + "*a" * 40 + "*b/x}", env) == env["V"]
    assert Lexer().process_word("${V%%" + "*a" * 40 + "*b}", env) == env["V"]
