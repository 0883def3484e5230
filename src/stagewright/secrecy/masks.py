"""Text without secrets: `***` in place of their values, also where a stream of bytes is cut in the middle of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stagewright.redaction import MASK
from stagewright.secrecy.forms import bytes_of, significant, texts_of

# Of anything shorter, a text that is full of asterisks would tell more than it hides.
MIN_MASKED = 4
_GLANCE = 16


class Masks:
    """Takes the values of secrets out of what is shown, in all of their forms that stand on one line."""

    def __init__(self, values: Iterable[bytes]) -> None:
        texts: set[bytes] = set()
        for value in map(significant, values):
            if len(value) >= MIN_MASKED:
                texts |= texts_of(value)
        self._texts = sorted(texts)
        self._beginnings = {text[:size] for text in texts for size in range(1, min(_GLANCE, len(text)))}

    def text(self, text: str, *, keep_lines: bool = False) -> str:
        """The text without secrets; with `keep_lines` a value of several lines leaves as many."""
        data = bytes_of(text)
        spans = self.spans(data)
        return _masked(data, spans, keep_lines).decode("utf-8", "surrogateescape") if spans else text

    def spans(self, data: bytes) -> list[tuple[int, int]]:
        """Where secrets are in the data: start and end of each stretch, in order, none over another."""
        found = sorted(
            (start, start + len(text)) for text in self._texts for start in _occurrences(data, text)
        )
        merged: list[tuple[int, int]] = []
        for start, end in found:
            if merged and start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged

    def open_end(self, data: bytes) -> int:
        """Where what may be the beginning of a secret starts at the end of the data; its length if nothing may."""
        earliest = max(0, len(data) - _GLANCE + 1)
        while earliest < len(data) and data[earliest:] not in self._beginnings:
            earliest += 1
        for text in self._texts:
            # Only a beginning of at least so many bytes can start before what was looked at.
            at = data.find(text[:_GLANCE], max(0, len(data) - len(text) + 1), earliest + _GLANCE - 1)
            while at >= 0 and not text.startswith(data[at:]):
                at = data.find(text[:_GLANCE], at + 1, earliest + _GLANCE - 1)
            if at >= 0:
                earliest = min(earliest, at)
        return earliest


class MaskedStream:
    """One stream of bytes without secrets, which comes and goes in pieces."""

    __slots__ = ("_held", "_masks")

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Takes a piece; gives what can be shown by now. What may become a secret is held back."""
        data = self._held + data
        spans = self._masks.spans(data)
        end = self._masks.open_end(data)
        # A value that is complete is not cut, even if its last bytes are like the first of one.
        end = next((stop for start, stop in spans if start < end < stop), end)
        self._held = data[end:]
        return _masked(data[:end], [span for span in spans if span[1] <= end])

    def flush(self) -> bytes:
        """Ends the stream; gives what was held back."""
        rest, self._held = self._held, b""
        return _masked(rest, self._masks.spans(rest))


def _occurrences(data: bytes, text: bytes) -> Iterator[int]:
    at = data.find(text)
    while at >= 0:
        yield at
        at = data.find(text, at + 1)


def _masked(data: bytes, spans: list[tuple[int, int]], keep_lines: bool = False) -> bytes:
    if not spans:
        return data
    parts = []
    last = 0
    for start, end in spans:
        lines = data.count(b"\n", start, end) if keep_lines else 0
        parts += [data[last:start], MASK.encode(), b"\n" * lines]
        last = end
    return b"".join([*parts, data[last:]])
