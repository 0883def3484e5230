"""What an error shows of what it quotes: nothing that steers a terminal, and no credentials."""

from __future__ import annotations

from stagewright.errors import SourceRange, SourceText, StagewrightError


def test_escape_sequences_are_taken_out() -> None:
    source = SourceText("Docker\x1b]0;title\x07file\n", "FROM a\nRUN \x1b[2Jecho \u202e1\r\nRUN b")
    error = StagewrightError("no \x1b[31mimage\x1b[0m\nof that name\x07", location=SourceRange(source, 2, 2))
    error.hint = "try \x9b1A another"
    assert error.render() == (
        "Dockerfile:2: no image\n"
        "of that name\n"
        "hint: try  another\n"
        "--------------------\n"
        "1 |     FROM a\n"
        "2 | >>> RUN echo 1\n"
        "3 |     RUN b\n"
        "--------------------"
    )


def test_credentials_in_urls_are_masked() -> None:
    source = SourceText("Dockerfile", "ADD https://me:hunter2@host/file /\n")
    assert SourceRange(source, 1, 1).excerpt() == "1 | >>> ADD https://***@host/file /"
