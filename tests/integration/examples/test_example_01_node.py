"""Example 1: a bundle made by npm in one stage is all that the hardened Node.js image gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import EXAMPLES, Image, Stagewright

EXAMPLE = "01-node"


@pytest.fixture(scope="module")
def image(standin_stagewright: Stagewright, tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("image")
    standin_stagewright.build(EXAMPLES / EXAMPLE, "-o", f"type=oci,dest={folder}/duration.tar")
    return Image.load(folder / "duration.tar", folder)


def test_only_the_bundle_is_copied(image: Image) -> None:
    assert image.below("/app") == {"/app/dist/main.js"}
    assert not image.below("/root/.npm")
    assert not any("node_modules" in path for path in image.files)


def test_the_bundle_runs(image: Image) -> None:
    assert image.run() == "90m = 5400000 ms = 2 hours\n"
    assert image.run("2h") == "2h = 7200000 ms = 2 hours\n"


def test_the_config_is_the_base_images_with_the_stages_own(image: Image) -> None:
    config = image.config["config"]
    assert config["Entrypoint"] == ["node", "dist/main.js"]
    assert config["Cmd"] == ["90m"]
    assert config["WorkingDir"] == "/app"
    assert config["User"] == "node"
    assert image.config["architecture"] in ("amd64", "arm64")
    assert len(image.config["rootfs"]["diff_ids"]) == sum(
        not entry.get("empty_layer", False) for entry in image.config["history"]
    )


def test_changed_code_runs_the_build_and_not_npm_ci(standin_stagewright: Stagewright, example: Path) -> None:
    standin_stagewright.build(example)
    source = example / "src" / "main.ts"
    source.write_text(source.read_text().replace('"90m"', '"60m"'))
    again = standin_stagewright.build(example)
    assert again.step("npm ci").cached
    assert not again.step("npm run build").cached
    assert not again.step("COPY --from=build").cached


def test_changed_dependencies_run_npm_ci(standin_stagewright: Stagewright, example: Path) -> None:
    standin_stagewright.build(example)
    manifest = example / "package.json"
    manifest.write_text(manifest.read_text().replace('"1.0.0"', '"1.0.1"', 1))
    again = standin_stagewright.build(example)
    assert not again.step("npm ci").cached
    # The bundle comes out the same, so the stage that copies it is still good.
    assert again.step("COPY --from=build").cached


def test_a_touched_file_changes_nothing(standin_stagewright: Stagewright, example: Path) -> None:
    standin_stagewright.build(example)
    for path in (example / "package.json", example / "src" / "main.ts"):
        path.write_bytes(path.read_bytes())
    assert standin_stagewright.build(example).ran == []
