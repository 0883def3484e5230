import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.cli.values import (
    ULIMITS,
    csv_fields,
    one_of,
    parse_bool,
    parse_build_args,
    parse_count,
    parse_host,
    parse_pairs,
    parse_size,
    parse_ulimit,
)
from stagewright.errors import UsageError


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", []),
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("a,", ["a", ""]),
        (",", ["", ""]),
        ('type=image,"name=a,b",push=true', ["type=image", "name=a,b", "push=true"]),
        ('"say ""x"""', ['say "x"']),
        ('""', [""]),
        (" a, b", [" a", " b"]),
    ],
)
def test_csv_fields(text: str, fields: list[str]) -> None:
    assert csv_fields(text) == fields


@pytest.mark.parametrize("text", ['a"b', '"a', '"a"b', 'x,"a""', 'name="a,b"'])
def test_csv_fields_refuses_stray_quotes(text: str) -> None:
    with pytest.raises(UsageError):
        csv_fields(text)


@given(st.lists(st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"])), min_size=1))
def test_csv_fields_reads_what_a_writer_wrote(fields: list[str]) -> None:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow(fields)
    assert csv_fields(stream.getvalue()) == fields


@given(st.text())
def test_csv_fields_gives_fields_or_a_usage_error(text: str) -> None:
    try:
        fields = csv_fields(text)
    except UsageError:
        return
    assert "".join(fields).count(",") <= text.count(",")


def test_bools_are_those_of_go() -> None:
    assert [parse_bool(text) for text in ("1", "t", "TRUE", "0", "F", "false")] == [True] * 3 + [False] * 3
    for text in ("", "yes", "on", "tRuE", "2"):
        with pytest.raises(UsageError):
            parse_bool(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64mb", 64 << 20),
        ("2GiB", 2 << 30),
        ("1.5g", 3 << 29),
        ("512 kb", 512 << 10),
        ("10b", 10),
        ("1t", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1 2", "1e3", "9" * 30, "0x10", "\u0661"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@given(st.integers(0, 2**40), st.sampled_from(["", "b", "k", "kb", "kib", "K", "KB", "KiB"]))
def test_sizes_are_powers_of_1024(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number * (1024 if "k" in unit.lower() else 1)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("nofile=1024", ("nofile", 1024, 1024)),
        ("nofile=1024:2048", ("nofile", 1024, 2048)),
        ("core=0", ("core", 0, 0)),
        ("memlock=-1", ("memlock", -1, -1)),
        ("memlock=-1:-1", ("memlock", -1, -1)),
        ("memlock=5:-1", ("memlock", 5, -1)),
    ],
)
def test_ulimits(text: str, limit: tuple[str, int, int]) -> None:
    assert parse_ulimit(text) == limit


@pytest.mark.parametrize(
    "text", ["", "nofile", "nofile=", "nofile=a", "nofile=1:", "files=1", "nofile=2:1", "nofile=-1:5", f"core={2**63}"]
)
def test_what_is_no_ulimit(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ulimit(text)


@given(st.sampled_from(sorted(ULIMITS)), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_every_ulimit_in_order_is_read(name: str, one: int, other: int) -> None:
    soft, hard = sorted((one, other))
    assert parse_ulimit(f"{name}={soft}:{hard}") == (name, soft, hard)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("db:10.0.0.1", ("db", "10.0.0.1")),
        ("db=10.0.0.1", ("db", "10.0.0.1")),
        ("db:::1", ("db", "::1")),
        ("db=[2001:db8::1]", ("db", "2001:db8::1")),
        ("db:[::1]", ("db", "::1")),
        ("me:host-gateway", ("me", "host-gateway")),
    ],
)
def test_hosts(text: str, host: tuple[str, str]) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text", ["", "db", "db:", ":1.2.3.4", "db:name", "a b:1.2.3.4", "db=1.2.3.4\nx", "db:fe80::1%e"]
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(UsageError, match="--add-host"):
        parse_host(text)


@given(st.ip_addresses())
def test_every_address_is_taken(address: object) -> None:
    assert parse_host(f"h={address}") == ("h", str(address))


def test_pairs() -> None:
    assert parse_pairs(["a=1", "b", "c=x=y", "a=2"], "--label") == {"a": "2", "b": "", "c": "x=y"}
    with pytest.raises(UsageError, match="--label"):
        parse_pairs(["=x"], "--label")


def test_build_args_without_value_come_from_the_environment() -> None:
    environ = {"HERE": "1", "EMPTY": ""}
    assert parse_build_args(["A=b", "HERE", "EMPTY", "GONE", "E="], environ) == {
        "A": "b",
        "HERE": "1",
        "EMPTY": "",
        "E": "",
    }
    with pytest.raises(UsageError):
        parse_build_args([""], environ)


def test_counts() -> None:
    assert parse_count("8") == 8
    for text in ("0", "-1", "", "two", "1.5", "9" * 20):
        with pytest.raises(UsageError):
            parse_count(text)


def test_one_of() -> None:
    assert one_of("a", "b")("b") == "b"
    with pytest.raises(UsageError, match="'c'"):
        one_of("a", "b")("c")
