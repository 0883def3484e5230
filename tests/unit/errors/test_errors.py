"""What an error looks like on a terminal, whatever it speaks of."""

from __future__ import annotations

import pytest

from stagewright.errors import DockerfileError, SourceRange, SourceText, StagewrightError

FILE = SourceText("Dockerfile", "".join(f"line {number}\n" for number in range(1, 1_000_001)))


def test_the_lines_of_an_error_are_marked() -> None:
    error = DockerfileError("no", location=SourceRange(FILE, 3, 4), hint="try")
    assert error.render().split("\n") == [
        "Dockerfile:3: no",
        "hint: try",
        "-" * 20,
        "1 |     line 1",
        "2 |     line 2",
        "3 | >>> line 3",
        "4 | >>> line 4",
        "5 |     line 5",
        "6 |     line 6",
        "-" * 20,
    ]


def test_an_instruction_of_a_million_lines_is_shown_in_part() -> None:
    rows = SourceRange(FILE, 1, 1_000_000).excerpt().split("\n")
    assert len(rows) == 41
    assert (rows[19], rows[20], rows[21]) == (
        "     20 | >>> line 20",
        "    ... | 999960 more lines",
        " 999981 | >>> line 999981",
    )


@pytest.mark.parametrize(
    ("text", "shown"), [("a\udcff", "a\ufffd"), ("\ud83d\ude00", "\U0001f600"), ("caf\u00e9", "caf\u00e9")]
)
def test_every_error_can_be_printed(text: str, shown: str) -> None:
    error = StagewrightError(text, hint=text)
    assert (error.message, error.hint, str(error)) == (shown, shown, shown)
    assert error.render().encode()
