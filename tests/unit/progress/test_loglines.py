from hypothesis import given
from hypothesis import strategies as st

from stagewright.progress.loglines import MAX_LINE_BYTES, LineAssembler


def texts(lines: list[tuple[float, str]]) -> list[str]:
    return [text for _, text in lines]


def test_pieces_become_lines_with_the_time_of_their_first_byte() -> None:
    assembler = LineAssembler()
    assert assembler.feed(b"one\ntw", 1.0) == [(1.0, "one")]
    assert assembler.partial == "tw"
    assert assembler.feed(b"o\n", 2.0) == [(1.0, "two")]
    assert assembler.feed(b"three", 3.0) == []
    assert assembler.flush() == [(3.0, "three")]
    assert assembler.flush() == []


def test_characters_cut_in_two_are_joined() -> None:
    data = "日本\n".encode()
    assembler = LineAssembler()
    assert assembler.feed(data[:4], 0.0) == []
    assert texts(assembler.feed(data[4:], 0.0)) == ["日本"]


def test_carriage_return_starts_the_line_anew() -> None:
    assembler = LineAssembler()
    assert texts(assembler.feed(b"10%\r50%\r100%\r\nnext\r\n", 0.0)) == ["100%", "next"]


def test_progress_bar_without_line_feeds_keeps_only_its_last_state() -> None:
    assembler = LineAssembler()
    for number in range(100_000):
        assembler.feed(b"\r%d%%" % number, 0.0)
    assert assembler.partial == "99999%"
    assert texts(assembler.flush()) == ["99999%"]


def test_endless_line_is_broken() -> None:
    assembler = LineAssembler()
    lines = texts(assembler.feed(b"x" * (MAX_LINE_BYTES * 2 + 5), 0.0))
    assert [len(line) for line in lines] == [MAX_LINE_BYTES, MAX_LINE_BYTES]
    assert assembler.partial == "xxxxx"


@given(st.lists(st.binary(max_size=20)))
def test_lines_do_not_depend_on_how_the_stream_was_cut(pieces: list[bytes]) -> None:
    whole, cut = LineAssembler(), LineAssembler()
    expected = texts(whole.feed(b"".join(pieces), 0.0)) + texts(whole.flush())
    actual = [text for piece in pieces for text in texts(cut.feed(piece, 0.0))] + texts(cut.flush())
    assert actual == expected
