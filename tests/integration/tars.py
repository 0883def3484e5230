"""Plain archives of files, as tests hand them to builds and registries."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping


def tar_of(files: Mapping[str, bytes | str], mode: str = "w") -> bytes:
    """A tar archive of files by their names; `mode` is that of `tarfile.open`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()
