"""Example 5: what runs again after a change to the system packages, the dependencies or the code."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Build, Image, Stagewright

EXAMPLE = "05-layers"
SYSTEM, DEPENDENCIES, CODE = "apt-get install", "pip install", "compileall"


@pytest.fixture
def primed(standin_stagewright: Stagewright, example: Path) -> Stagewright:
    standin_stagewright.build(example)
    return standin_stagewright


def reran(build: Build) -> list[str]:
    return [text for text in (SYSTEM, DEPENDENCIES, CODE) if not build.step(text).cached]


def test_nothing_runs_again_without_a_change(primed: Stagewright, example: Path) -> None:
    assert primed.build(example).ran == []


def test_changed_code_runs_the_last_step_alone(primed: Stagewright, example: Path) -> None:
    (example / "app.py").write_text('print("changed")\n')
    assert reran(primed.build(example)) == [CODE]


def test_changed_dependencies_run_what_follows_them(primed: Stagewright, example: Path) -> None:
    (example / "requirements.txt").write_text("tabulate==0.9.0\ntoolz==1.0.0\n")
    assert reran(primed.build(example)) == [DEPENDENCIES, CODE]


def test_a_changed_first_step_runs_all_with_the_packages_it_had(primed: Stagewright, example: Path) -> None:
    dockerfile = example / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace("recommends jq", "recommends jq && jq --version"))
    build = primed.build(example)
    assert reran(build) == [SYSTEM, DEPENDENCIES, CODE]
    assert b"Need to get 0 B/" in build.step(SYSTEM).log


def test_the_image_works_and_holds_no_caches(primed: Stagewright, example: Path, tmp_path: Path) -> None:
    primed.build(example, "-o", f"type=oci,dest={tmp_path}/layers.tar")
    image = Image.load(tmp_path / "layers.tar", tmp_path)
    assert "dependencies         2" in image.run()
    assert not [path for path in image.files if path.endswith(".deb")]
    assert not image.below("/var/lib/apt/lists")
    assert not image.below("/root/.cache")
    assert not {"/etc/apt/apt.conf.d/99host", "/etc/pip.conf"} & image.files
