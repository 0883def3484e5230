"""Example 4: two targets on one base; only the one for development installs packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import EXAMPLES, Image, Stagewright

EXAMPLE = "04-pnpm-targets"


def build(builder: Stagewright, target: str, folder: Path) -> Image:
    builder.build(EXAMPLES / EXAMPLE, f"--target={target}", "-o", f"type=oci,dest={folder}/{target}.tar")
    return Image.load(folder / f"{target}.tar", folder)


@pytest.fixture(scope="module")
def development(standin_stagewright: Stagewright, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return build(standin_stagewright, "development", tmp_path_factory.mktemp("image"))


def test_development_has_the_tools_and_runs_the_tests(development: Image) -> None:
    assert "/app/node_modules/uvu" in development.files
    assert development.below("/app/node_modules/.pnpm")
    assert "Passed:    1" in development.run()


def test_the_store_and_corepacks_downloads_stay_outside(development: Image) -> None:
    assert not development.below("/pnpm")
    assert not development.below("/root/.cache/node/corepack")


def test_production_has_the_code_alone(standin_stagewright: Stagewright, tmp_path: Path) -> None:
    image = build(standin_stagewright, "production", tmp_path)
    assert image.below("/app") == {"/app/package.json", "/app/src/greet.js", "/app/src/main.js"}
    assert image.config["config"]["User"] == "node"
    assert "NODE_ENV=production" in image.config["config"]["Env"]
    assert image.run("stage") == "Hello, stage!\n"


def test_the_base_is_shared_and_the_other_target_not_built(standin_stagewright: Stagewright, example: Path) -> None:
    development = standin_stagewright.build(example, "--target=development")
    production = standin_stagewright.build(example, "--target=production")
    assert not development.has_step("[production")
    assert not production.has_step("pnpm install")
    assert production.step("corepack enable").cached


def test_a_new_install_takes_its_packages_from_the_store(standin_stagewright: Stagewright, example: Path) -> None:
    standin_stagewright.build(example, "--target=development")
    again = standin_stagewright.build(example, "--target=development", "--no-cache-filter=development")
    install = again.step("pnpm install")
    assert not install.cached
    assert b"downloaded 0" in install.log
