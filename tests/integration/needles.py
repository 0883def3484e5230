"""Searches the files below a folder for bytes: `needles.py FOLDER` with the needle as standard input.

Prints the paths of the files that hold it, each with a NUL after it. A program, so that it can run as root.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from isal import isal_zlib


def main() -> None:
    """Run the command line."""
    for path in files_holding(sys.stdin.buffer.read(), Path(sys.argv[1])):
        sys.stdout.buffer.write(os.fsencode(path) + b"\0")


def files_holding(needle: bytes, folder: Path) -> Iterator[Path]:
    """The files below a folder that hold the bytes, as they are or compressed with gzip."""
    for path in (Path(top, name) for top, _, names in os.walk(folder) for name in names):
        # Where a build goes on, files come and go.
        with suppress(FileNotFoundError):
            if stat.S_ISREG(path.lstat().st_mode) and is_holder(needle, path):
                yield path


def is_holder(needle: bytes, path: Path) -> bool:
    """Whether a file holds the bytes, as they are or compressed with gzip."""
    with open(path, "rb", buffering=0) as file:
        if holds(needle, chunks(file)):
            return True
        file.seek(0)
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        return is_gzip and holds(needle, gunzip(chunks(file)))


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """What can be read of a file, a megabyte at a time."""
    while chunk := file.read(1 << 20):
        yield chunk


def holds(needle: bytes, chunks: Iterable[bytes]) -> bool:
    """Whether the bytes occur in the chunks put together."""
    rest = b""
    for chunk in chunks:
        together = rest + chunk
        if needle in together:
            return True
        rest = together[-len(needle) :]
    return False


def gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The plain bytes of a gzip file of one or more members."""
    stream = isal_zlib.decompressobj(wbits=31)
    for chunk in chunks:
        while chunk:
            yield stream.decompress(chunk)
            chunk = stream.unused_data
            if stream.eof:
                stream = isal_zlib.decompressobj(wbits=31)


if __name__ == "__main__":
    main()
