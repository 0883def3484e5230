"""Archives that ADD unpacks: what is one, and its files written into a folder of the image."""

from __future__ import annotations

from typing import BinaryIO

from stagewright.errors import StagewrightError
from stagewright.snapshots import syscalls
from stagewright.snapshots.streams import ReadAhead, decompressed
from stagewright.snapshots.tarreader import Readable, TarReader
from stagewright.snapshots.treewriter import TreeWriter, clean_name


def is_archive(file: BinaryIO) -> bool:
    """Whether a file is a tar archive, plain or compressed by gzip, bzip2, xz or zstd, with at least one member.

    As in BuildKit, names do not count and the first header decides. The file is left at its beginning.
    """
    file.seek(0)
    try:
        return TarReader(decompressed(file)).next() is not None
    except StagewrightError:
        return False
    finally:
        file.seek(0)


def unpack_archive(stream: Readable, directory: int, *, owner: tuple[int, int] | None = None) -> None:
    """Unpack a tar archive, plain or compressed, into an open directory of a mounted draft.

    Folders that are there already are merged with, anything else is replaced. Symbolic links on the way are followed as
    if the directory were the root, so nothing is written outside of it; names are relative to it. `owner` (uid, gid)
    replaces the members' own. Names that begin with `.wh.` are ordinary. Raises IntegrityError for an archive that is
    broken or hostile.
    """
    with (
        TreeWriter(directory, resolve=syscalls.RESOLVE_IN_ROOT, owner=owner) as writer,
        ReadAhead(decompressed(stream)) as source,
    ):
        reader = TarReader(source)
        for entry in reader:
            name = clean_name(entry.name)
            # The directory itself keeps what it is.
            if name:
                writer.write(name, entry, reader.body())
        writer.finish()
