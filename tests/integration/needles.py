"""Searches the files below a folder for bytes: `needles.py FOLDER` with the needle as standard input.

Prints the paths of the files that hold it, each with a NUL after it. A program, so that it can run as root.
"""

from __future__ import annotations

import mmap
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


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
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(needle) >= 0 or (content[:2] == b"\x1f\x8b" and holds(needle, gunzip(content)))


def holds(needle: bytes, chunks: Iterator[bytes]) -> bool:
    """Whether the bytes occur in the chunks put together."""
    rest = b""
    for chunk in chunks:
        if needle in rest + chunk:
            return True
        rest = chunk[-len(needle) :]
    return False


def gunzip(content: mmap.mmap) -> Iterator[bytes]:
    """The plain bytes of a gzip file of one or more members."""
    step = 1 << 20
    stream = zlib.decompressobj(wbits=31)
    for start in range(0, len(content), step):
        chunk = content[start : start + step]
        while chunk:
            yield stream.decompress(chunk)
            chunk = stream.unused_data
            if stream.eof:
                stream = zlib.decompressobj(wbits=31)


if __name__ == "__main__":
    main()
