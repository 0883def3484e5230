"""A tar archive, plain or compressed: what the reader makes of it stays within what the archive can hold."""

from __future__ import annotations

import io

from stagewright.errors import IntegrityError
from stagewright.snapshots.streams import decompressed
from stagewright.snapshots.tarreader import BLOCK, TarReader

TOKENS = (
    b"ustar\x0000", b"ustar  \0", b"././@LongLink", b"30 mtime=1.5\n", b"11 size=10\n", b"GNU.sparse.major=1",
    b"GNU.sparse.minor=0", b"GNU.sparse.map=0,1", b"GNU.sparse.realsize=99", b"GNU.sparse.name=f",
    b"GNU.sparse.offset=0", b"GNU.sparse.numbytes=1", b"GNU.sparse.size=9", b"SCHILY.xattr.user.a=b", b"path=", b"x",
    b"L", b"K", b"S", b"g", b"\x80\0\0\0\0\0\0\1", b"\xff" * 12, b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd", b"00000000000\0",
)  # fmt: skip

_MOST = 1 << 24


def check(data: bytes) -> None:
    """Fails for anything but an IntegrityError, and for a member whose body is not what its header promised."""
    for archive in (data, mended(data)):
        reader = TarReader(decompressed(io.BytesIO(archive)))
        total = 0
        try:
            for entry in reader:
                assert 0 <= entry.size < 1 << 62 and 0 <= entry.mode <= 0o7777
                length = 0
                for piece in reader.body():
                    length += len(piece)
                    total += len(piece)
                    if total > _MOST:
                        return
                expected = entry.size if entry.regions is None else sum(size for _, size in entry.regions)
                assert length == expected or not entry.size
        except IntegrityError as error:
            error.render().encode()


def mended(data: bytes) -> bytes:
    """The archive with the checksum of each block that stands where a header would: no mutation hits them by chance."""
    blocks = bytearray(data)
    at = 0
    while at + BLOCK <= len(blocks):
        block = blocks[at : at + BLOCK]
        if any(block):
            block[148:156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(block)
        try:
            size = int(bytes(block[124:136]).strip(b" \0") or b"0", 8)
        except ValueError:
            size = 0
        at += BLOCK + (-(-size // BLOCK) * BLOCK if 0 <= size < len(blocks) else 0)
    return bytes(blocks)
