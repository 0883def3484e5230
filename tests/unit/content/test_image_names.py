from __future__ import annotations

from pathlib import Path

import pytest

from stagewright.content.db import Database
from stagewright.content.images import ImageStore
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor


def test_a_name_that_is_given_again_keeps_its_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageStore(Database(tmp_path / "metadata.db"))
    first, second = (Descriptor(mediatypes.OCI_MANIFEST, f"sha256:{digit * 64}", 2) for digit in "ab")
    ages = []
    for now, descriptor in ((1.0, first), (2.0, first), (3.0, second)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        images.put("docker.io/library/app:latest", descriptor)
        ages.append(images.list()[0].created)
    assert ages == [1.0, 1.0, 3.0]
    assert images.get("docker.io/library/app:latest") == second
