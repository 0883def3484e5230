"""Text on its way to a terminal or a log: neutralised, measured in terminal cells, cut, and numbers in words.

Names, logs and messages come from Dockerfiles, steps and registries and may hold anything. Whatever is shown passes
through here first, so that no escape sequence other than a colour reaches a terminal.
"""

from __future__ import annotations

import re

from stagewright.patterns import pattern

# ECMA-48: control sequences, control strings (title, clipboard, ...) and other escapes, in 7-bit and 8-bit form.
_ESCAPES = pattern(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*(?:[@-~]|$)"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f]).*?(?:\x07|\x1b\\|\x9c|$)"
    r"|\x1b[ -/]*(?:[0-~]|$)",
    re.DOTALL,
)
_SGR = pattern(r"\x1b\[[0-9;:]*m")
_RESET = "\x1b[0m"
# Other control characters, and the marks that turn the direction of text around. Tab and ESC are dealt with apart.
_CONTROLS = pattern("[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_BREAKS = pattern("[\t\n\v\f\r\x85\u2028\u2029]+")
_SURROGATES = pattern("[\ud800-\udfff]")
# Variation selectors make the width of an emoji a matter of the terminal's taste, as joiners do.
_SELECTORS = pattern("[\ufe00-\ufe0f]")

TAB_CELLS = 8


def clean_line(text: str, *, keep_colours: bool = False) -> str:
    """One line without anything that could steer a terminal; tabs stay.

    With `keep_colours`, SGR sequences stay too, and are closed at the end of the line.
    """
    if text.isascii() and text.isprintable():
        return text
    coloured = False

    def verdict(match: re.Match[str]) -> str:
        nonlocal coloured
        if keep_colours and _SGR.fullmatch(match.group()):
            coloured = True
            return match.group()
        return ""

    text = _ESCAPES.sub(verdict, text)
    text = _CONTROLS.sub("", text).replace("\u2028", " ").replace("\u2029", " ")
    text = _SURROGATES.sub("\ufffd", text)
    if not coloured:
        return text.replace("\x1b", "")
    return text if text.endswith(_RESET) else text + _RESET


def clean_name(text: str) -> str:
    """A name on one line: line breaks and tabs become one space, control characters go."""
    return clean_line(_BREAKS.sub(" ", text)).strip()


def clean_block(text: str, *, keep_colours: bool = False) -> str:
    """Several lines, each as `clean_line` leaves it; the line feeds stay."""
    return "\n".join(clean_line(line.rstrip("\r"), keep_colours=keep_colours) for line in text.split("\n"))


def fit_cells(text: str) -> str:
    """A cleaned line in which every character has one width on every terminal.

    Tabs are expanded, joiners go, and characters that no font is sure to know become U+FFFD.
    """
    text = _SELECTORS.sub("", text.expandtabs(TAB_CELLS))
    return text if text.isprintable() else "".join(map(_certain, text))


def _certain(char: str) -> str:
    if char.isprintable():
        return char
    import unicodedata

    category = unicodedata.category(char)
    return " " if category == "Zs" else "" if category == "Cf" else "\ufffd"


def cell_width(text: str) -> int:
    """How many terminal cells a cleaned line takes: 2 for wide characters, 0 for combining ones."""
    if text.isascii():
        return len(text)
    return sum(map(_char_cells, text))


def _char_cells(char: str) -> int:
    code = ord(char)
    if code < 0x300:
        return 1
    import unicodedata

    if unicodedata.category(char) in ("Mn", "Me", "Cf") or 0x1160 <= code <= 0x11FF:
        return 0
    # Regional indicators are narrow in the tables and wide in most terminals.
    if unicodedata.east_asian_width(char) in ("W", "F") or 0x1F1E6 <= code <= 0x1F1FF:
        return 2
    return 1


def cut_cells(text: str, cells: int, ellipsis: str = "…") -> str:
    """The text if it takes at most `cells`, else its beginning and `ellipsis` in at most `cells`."""
    if cell_width(text) <= cells:
        return text
    room = cells - len(ellipsis)
    if room < 0:
        return ""
    taken = 0
    for index, char in enumerate(text):
        taken += _char_cells(char)
        if taken > room:
            return text[:index] + ellipsis
    return text


def format_bytes(count: int) -> str:
    """A number of bytes in decimal units with two digits, as BuildKit prints it: `32B`, `1.05MB`."""
    if count < 1000:
        return f"{count}B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.995 or unit == "PB":
            return f"{value:.2f}{unit}"
    raise AssertionError("unreachable")


def format_transfer(current: int, total: int) -> str:
    """`1.05MB / 3.37MB`, the bytes alone where the total is unknown (0), or nothing where both are."""
    if total:
        return f"{format_bytes(current)} / {format_bytes(total)}"
    return format_bytes(current) if current else ""


def format_offset(seconds: float) -> str:
    """Seconds since a vertex started, as BuildKit puts them before a log line: three digits below 10 s, then fewer."""
    seconds = max(0.0, seconds)
    digits = 3 if seconds < 10 else 2 if seconds < 100 else 1
    return f"{seconds:.{digits}f}"


def is_canceled(error: str) -> bool:
    """Whether a vertex's error says that it was stopped, not that it failed."""
    return error.endswith("canceled")
