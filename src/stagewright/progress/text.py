"""Text on its way to a terminal: measured in terminal cells, cut, and numbers in words."""

from __future__ import annotations

from stagewright.patterns import pattern

# Variation selectors make the width of an emoji a matter of the terminal's taste, as joiners do.
_SELECTORS = pattern("[\ufe00-\ufe0f]")

TAB_CELLS = 8


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
