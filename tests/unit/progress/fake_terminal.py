"""A terminal that understands exactly what the live display may send, and refuses everything else."""

from __future__ import annotations

import io
import re

from stagewright.progress.text import cell_width

_TOKEN = re.compile(r"\x1b\[(?P<args>[?0-9;]*)(?P<final>[A-Za-z])|(?P<char>[^\x1b])", re.DOTALL)


class FakeTerminal(io.StringIO):
    """Keeps all lines ever scrolled; raises on unknown sequences, control characters and lines that would wrap."""

    encoding = "utf-8"

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        super().__init__()
        self.columns = columns
        self.lines = lines
        self.rows = [""]
        self.row = 0
        self.column = 0
        self.cursor_visible = True
        self.frames = 0

    def isatty(self) -> bool:
        return True

    def size(self) -> tuple[int, int]:
        return self.columns, self.lines

    def write(self, text: str) -> int:
        self.frames += 1
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            assert match is not None, f"unknown sequence at {text[position : position + 20]!r}"
            position = match.end()
            if match["final"]:
                self._control(match["args"], match["final"])
            else:
                self._put(match["char"])
        return len(text)

    def shown(self) -> list[str]:
        return [row.rstrip() for row in self.rows if row.strip()]

    def _control(self, args: str, final: str) -> None:
        if final == "m":
            return
        if final == "A":
            self.row -= int(args)
            assert self.row >= max(0, len(self.rows) - self.lines), "moved above the screen"
        elif final == "J":
            self.rows[self.row] = self.rows[self.row][: self.column]
            del self.rows[self.row + 1 :]
        elif final == "K":
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif (args, final) == ("?25", "l"):
            self.cursor_visible = False
        elif (args, final) == ("?25", "h"):
            self.cursor_visible = True
        else:
            raise AssertionError(f"the display sent ESC[{args}{final}")

    def _put(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.column = 0
            self.row += 1
            if self.row == len(self.rows):
                self.rows.append("")
        else:
            assert char.isprintable(), f"control character {char!r}"
            row = self.rows[self.row]
            self.rows[self.row] = row[: self.column] + char + row[self.column + 1 :]
            self.column += 1
            assert cell_width(self.rows[self.row][: self.column]) < self.columns, "reached the last column"
