"""Text that cannot steer a terminal.

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
# What is left of an escape, or joined up to one, when something has been taken out of its middle.
_STRAY = pattern(r"\x1b(?!\[[0-9;:]*m)")
_RESET = "\x1b[0m"
# Other control characters, and the marks that turn the direction of text around. Tab and ESC are dealt with apart.
_CONTROLS = pattern("[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]+")
_BREAKS = pattern("[\t\n\v\f\r\x85\u2028\u2029]+")
_SURROGATES = pattern("[\ud800-\udfff]")


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
    text = _STRAY.sub("", text)
    return text if text.endswith(_RESET) else text + _RESET


def clean_name(text: str) -> str:
    """A name on one line: line breaks and tabs become one space, control characters go."""
    return clean_line(_BREAKS.sub(" ", text)).strip()


def clean_block(text: str, *, keep_colours: bool = False) -> str:
    """Several lines, each as `clean_line` leaves it; the line feeds stay."""
    return "\n".join(clean_line(line.rstrip("\r"), keep_colours=keep_colours) for line in text.split("\n"))
