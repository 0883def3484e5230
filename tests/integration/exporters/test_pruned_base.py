"""A base image whose blobs are gone from the store, though its files are still there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from harness import Stagewright


def layers_of(archive: Path) -> list[str]:
    shown = subprocess.run(["skopeo", "inspect", f"oci-archive:{archive}"], check=True, capture_output=True)
    layers: list[str] = json.loads(shown.stdout)["Layers"]
    return layers


def test_a_base_layer_that_was_pruned_is_fetched_again(standin_stagewright: Stagewright, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox:latest\nRUN echo pruned > /file\n")
    standin_stagewright.build(tmp_path, "-o", f"type=oci,dest={tmp_path}/before.tar")
    before = layers_of(tmp_path / "before.tar")
    base = Path(standin_stagewright.root) / "content" / "blobs" / "sha256" / before[0].removeprefix("sha256:")
    base.unlink()
    build = standin_stagewright.build(tmp_path, "-o", f"type=oci,dest={tmp_path}/after.tar")
    assert build.ran == []
    assert layers_of(tmp_path / "after.tar") == before
    assert base.exists()
