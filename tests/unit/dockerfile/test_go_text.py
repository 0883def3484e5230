"""Go's readings of numbers, durations, sizes and CSV, and the nearest name."""

from __future__ import annotations

import pytest

from stagewright.dockerfile import golang
from stagewright.dockerfile.suggest import suggest, with_suggestion


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0), ("1s", 10**9), ("1m30s", 90 * 10**9), ("1.5h", 5400 * 10**9), (".5s", 5 * 10**8), ("1.s", 10**9),
        ("-2ms", -2 * 10**6), ("+3us", 3000), ("4\u00b5s", 4000), ("5ns", 5), ("2562047h47m16.854775807s", 2**63 - 1),
        ("0.1000000000000000000001s", 10**8),
    ],
)  # fmt: skip
def test_durations(text: str, nanoseconds: int) -> None:
    assert golang.parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "-", "s", ".s", "1", "1x", "1s2", "99999999h", "9" * 30 + "ns", "1 s", "one"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"time: "):
        golang.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("32", 32), ("32b", 32), ("32B", 32), ("32k", 32768), ("32KiB", 32768), ("32kb", 32768),
        ("1.5m", 1572864), ("1 g", 2**30), ("2T", 2**41), ("1p", 2**50),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert golang.ram_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1k", "1x", "1kk", "1bb", "1_0", "1  k", " 1k", "1e400", "1.2.3"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        golang.ram_in_bytes(text)


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("a", ["a"]), ("a,b", ["a", "b"]), ("a,", ["a", ""]), (",", ["", ""]), ('"a,b",c', ["a,b", "c"]),
        ('"a""b"', ['a"b']), ('""', [""]), ('a,"b"', ["a", "b"]), ('"a",', ["a", ""]), ("a\n", ["a"]), ("a\r\n", ["a"]),
    ],
)  # fmt: skip
def test_csv(line: str, fields: list[str]) -> None:
    assert golang.split_csv(line) == fields


@pytest.mark.parametrize("line", ["", "\n", 'a"', '"a', '"a"b', 'x,"', '"a"""b'])
def test_no_csv(line: str) -> None:
    with pytest.raises(ValueError, match=r"EOF|parse error on line 1, column"):
        golang.split_csv(line)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("a b", '"a b"'), ('"\\', '"\\"\\\\"'), ("\n\t\x01\x7f", '"\\n\\t\\x01\\x7f"'), ("\u00e9", '"\u00e9"'),
        ("\udcff", '"\\xff"'), ("\u200b", '"\\u200b"'), ("\U000e0001", '"\\U000e0001"'),
    ],
)  # fmt: skip
def test_quoting(text: str, quoted: str) -> None:
    assert golang.quote(text) == quoted


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("-5", -5), ("+7", 7), ("2147483647", 2**31 - 1), ("007", 7)])
def test_integers(text: str, value: int) -> None:
    assert golang.parse_int(text) == value


@pytest.mark.parametrize("text", ["", "-", "1_0", "1.0", "\u0661", "2147483648", "9" * 5000])
def test_no_integers(text: str) -> None:
    with pytest.raises(ValueError, match=r"strconv\.ParseInt"):
        golang.parse_int(text)


@pytest.mark.parametrize(("text", "base", "value"), [("755", 8, 0o755), ("0", 10, 0), ("4294967295", 10, 2**32 - 1)])
def test_unsigned_integers(text: str, base: int, value: int) -> None:
    assert golang.parse_uint32(text, base) == value


@pytest.mark.parametrize(("text", "base"), [("", 10), ("8", 8), ("-1", 10), ("4294967296", 10), ("7" * 5000, 8)])
def test_no_unsigned_integers(text: str, base: int) -> None:
    with pytest.raises(ValueError, match=r"strconv\.ParseUint"):
        golang.parse_uint32(text, base)


def test_the_nearest_name() -> None:
    names = ["chown", "chmod", "from", "link"]
    assert suggest("chwn", names) == "chown"
    assert suggest("form", names) == "from"
    assert suggest("chmd", names) == "chmod"
    assert suggest("frobnicate", names) is None
    assert suggest("from", names) is None
    assert suggest("ch", ["b", "a"]) == "a"
    assert suggest("FORM", ["FROM"], case_sensitive=False) == "FROM"
    assert suggest("form", ["FROM"], case_sensitive=False) == "from"
    assert suggest("Form", ["FROM"], case_sensitive=False) == "from"
    assert suggest("x" * 100000, names) is None
    assert with_suggestion("no such thing", "lnk", names) == "no such thing (did you mean link?)"
    assert with_suggestion("no such thing", "lnkxyz", names) == "no such thing"
