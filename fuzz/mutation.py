"""Mutations of an input that depend on a seed alone, so that a run in the tests is the same each time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_LONGEST = 1 << 14


def mutations(corpus: Sequence[bytes], tokens: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """`count` inputs, each one of the corpus changed in one to eight places; `tokens` are words of its language."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.choice((1, 1, 2, 2, 3, 5, 8))):
            _change(data, corpus, tokens, chance)
        yield bytes(data[:_LONGEST])


def _change(data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randint(0, len(data))
    end = min(len(data), at + chance.choice((1, 1, 4, 12, 100, 512)))
    match chance.randrange(7):
        case 0:
            data[at:end] = b""
        case 1:
            data[at:at] = chance.choice(tokens)
        case 2:
            token = chance.choice(tokens)
            data[at : at + len(token)] = token
        case 3:
            data[at:at] = data[at:end] * chance.randint(1, 20)
        case 4:
            other = chance.choice(corpus)
            start = chance.randint(0, len(other))
            data[at:end] = other[start : start + chance.randint(1, 600)]
        case 5:
            data[at:end] = chance.randbytes(end - at)
        case _:
            if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
