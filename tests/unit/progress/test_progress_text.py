import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.harmless import clean_block, clean_line, clean_name
from stagewright.progress.text import cell_width, cut_cells, fit_cells, format_bytes, format_offset, format_transfer

HOSTILE = st.text(
    st.one_of(st.characters(), st.sampled_from("\x1b\x07\x9b\x9d\x9c[]PX^_;mHJA?0123\\\r\n\t\u202e\u200d"))
)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[H\x1b[10;10Hx", "x"),
        ("\x9b31mx\x9d0;t\x9cy", "xy"),
        ("\x1bPq#0\x1b\\sixel", "sixel"),
        ("\x1bcreset", "reset"),
        ("\x1b(0box", "box"),
        ("a\x08\x7f\x00b", "ab"),
        ("never ended \x1b]0;title", "never ended "),
        ("cut off \x1b[31", "cut off "),
        ("\u202egpj.exe", "gpj.exe"),
        ("a\tb", "a\tb"),
        ("lone \udc80", "lone \ufffd"),
        ("\x1b", ""),
    ],
)
def test_clean_line_removes_what_steers_a_terminal(raw: str, clean: str) -> None:
    assert clean_line(raw) == clean


def test_colours_stay_when_asked_and_are_closed() -> None:
    assert clean_line("\x1b[1;31mred", keep_colours=True) == "\x1b[1;31mred\x1b[0m"
    assert clean_line("\x1b[31mred\x1b[0m", keep_colours=True) == "\x1b[31mred\x1b[0m"
    assert clean_line("\x1b[2J\x1b[4munder", keep_colours=True) == "\x1b[4munder\x1b[0m"


@given(HOSTILE)
def test_nothing_that_steers_survives(raw: str) -> None:
    assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029]", clean_line(raw))


@given(HOSTILE)
def test_only_colours_survive_when_they_may(raw: str) -> None:
    kept = re.sub(r"\x1b\[[0-9;:]*m", "", clean_line(raw, keep_colours=True))
    assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f]", kept)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("\x1b\x1b[2J[2J", "[2J"),
        ("\x1b\0]52;c;x", "]52;c;x"),
        ("\x1b\x1b\x1b[2J[2J", "[2J"),
        ("\x1b\u202e[6n\x1b", "[6n"),
        ("\x1b\x1b[32m[2J", "\x1b[32m[2J"),
    ],
)
def test_nothing_is_joined_up_to_an_escape(raw: str, clean: str) -> None:
    """What stays of a sequence when another one is taken out of its middle must not be one itself."""
    assert clean_line(raw, keep_colours=True).removesuffix("\x1b[0m") == clean
    assert clean_line(f"\x1b[31m{raw}", keep_colours=True) == f"\x1b[31m{clean}\x1b[0m"


@given(HOSTILE)
def test_names_are_one_line(raw: str) -> None:
    name = clean_name(raw)
    assert len(name.splitlines()) <= 1
    assert "\t" not in name


def test_clean_name_joins_lines() -> None:
    assert clean_name("RUN a &&\\\r\n\tb") == "RUN a &&\\ b"


def test_clean_block_keeps_line_feeds() -> None:
    assert clean_block("a\r\n\x1b[2Jb\n") == "a\nb\n"


@pytest.mark.parametrize(
    ("text", "cells"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("\uff57", 2), ("é", 1), ("🚀", 2)]
)
def test_cell_width(text: str, cells: int) -> None:
    assert cell_width(text) == cells


def test_fit_cells_has_no_tabs_or_joiners() -> None:
    assert fit_cells("a\tb\u200dc\ufe0f") == "a       bc"


@given(st.text(), st.integers(0, 40))
def test_cut_cells_never_takes_more(text: str, cells: int) -> None:
    cleaned = fit_cells(clean_name(text))
    assert cell_width(cut_cells(cleaned, cells)) <= cells


def test_cut_cells_marks_the_cut() -> None:
    assert cut_cells("abcdef", 4) == "abc…"
    assert cut_cells("日本語", 4) == "日…"
    assert cut_cells("abcd", 4) == "abcd"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1.00kB"),
        (1_050_000, "1.05MB"),
        (999_999, "1.00MB"),
        (29_130_000, "29.13MB"),
        (5 * 10**12, "5.00TB"),
        (10**19, "10000.00PB"),
    ],
)
def test_format_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_format_transfer() -> None:
    assert format_transfer(1_050_000, 3_370_000) == "1.05MB / 3.37MB"
    assert format_transfer(32, 0) == "32B"
    assert format_transfer(0, 0) == ""


def test_format_offset_has_fewer_digits_as_time_goes_on() -> None:
    assert [format_offset(s) for s in (0.1234, 12.345, 123.45, -1)] == ["0.123", "12.35", "123.5", "0.000"]
