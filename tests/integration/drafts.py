"""What a snapshot store has under way."""

from __future__ import annotations

import os
from pathlib import Path


def drafts(store: Path) -> list[str]:
    """The drafts of a snapshot store at a path: what is in the folders that processes have for them."""
    folder = os.path.join(store, "drafts")
    homes = [os.path.join(folder, name) for name in os.listdir(folder)]
    return [os.path.join(home, name) for home in homes for name in os.listdir(home)]
