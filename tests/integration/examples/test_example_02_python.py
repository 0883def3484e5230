"""Example 2: a virtual environment made by uv, with caches and a secret that leave nothing behind."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from harness import EXAMPLES, Image, Stagewright, files_holding

EXAMPLE = "02-python"


@pytest.fixture(scope="module")
def image(standin_stagewright: Stagewright, tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("image")
    standin_stagewright.build(EXAMPLES / EXAMPLE, "-o", f"type=oci,dest={folder}/since.tar")
    return Image.load(folder / "since.tar", folder)


def test_the_environment_is_copied_alone(image: Image) -> None:
    site = "/opt/venv/lib/python3.13/site-packages"
    assert {f"{site}/humanize/__init__.py", f"{site}/since/__main__.py"} <= image.files
    for left_behind in ("/src", "/wheels", "/root/.cache"):
        assert not image.below(left_behind)
    assert not {"/bin/uv", "/usr/bin/uv", "/bin/sh", "/usr/bin/sh", "/etc/pip.conf"} & image.files


def test_the_environment_works(image: Image) -> None:
    assert image.run("1969-07-20").endswith(" years ago\n")
    program = "import sys, humanize; print(sys.prefix, humanize.__file__.startswith(sys.prefix))"
    assert image.run("-c", program, entrypoint="/opt/venv/bin/python") == "/opt/venv True\n"


def test_the_images_user_and_environment_are_kept(image: Image) -> None:
    config = image.config["config"]
    assert config["User"] == "65532"
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert environment["PATH"].startswith("/opt/venv/bin:/opt/python/bin:")
    assert environment["PYTHONPATH"] == "/opt/venv/lib/python3.13/site-packages"
    assert config["Cmd"] == ["1969-07-20"]


def test_the_secret_is_nowhere(standin_stagewright: Stagewright, example: Path, tmp_path: Path) -> None:
    token = secrets.token_hex(16)
    own = next((flag for flag in standin_stagewright.build_flags if flag.startswith("--secret=id=pip.conf")), "")
    settings = Path(own.partition("src=")[2]).read_text() if own else "[global]\n"
    (tmp_path / "pip.conf").write_text(f"{settings}# token {token}\n")
    others = tuple(flag for flag in standin_stagewright.build_flags if flag != own)
    builder = Stagewright(standin_stagewright.root, standin_stagewright.config, others)

    output = tmp_path / "output"
    output.mkdir()
    # A changed file makes the steps run that an earlier build may have left in the cache.
    (example / "requirements.txt").write_text((example / "requirements.txt").read_text() + "# again\n")
    build = builder.build(
        example,
        f"--secret=id=pip.conf,src={tmp_path}/pip.conf",
        f"--metadata-file={output}/metadata.json",
        f"--output=type=oci,tar=false,dest={output}/layout",
        "-D",
    )

    assert not build.step("uv pip install -r").cached
    assert token not in build.stdout + build.stderr
    assert token.encode() not in build.log
    # It is looked for in all layers, where the package's own text is found.
    assert files_holding(token.encode(), output) == []
    assert len(files_holding(b"since/__main__.py", output / "layout")) == 1
    assert files_holding(token.encode(), builder.root) == []


def test_another_secret_is_no_other_build(standin_stagewright: Stagewright, example: Path, tmp_path: Path) -> None:
    standin_stagewright.build(example)
    others = tuple(flag for flag in standin_stagewright.build_flags if not flag.startswith("--secret=id=pip.conf"))
    (tmp_path / "pip.conf").write_text("[global]\ntimeout = 77\n")
    builder = Stagewright(standin_stagewright.root, standin_stagewright.config, others)
    assert builder.build(example, f"--secret=id=pip.conf,src={tmp_path}/pip.conf").ran == []


def test_changed_code_installs_no_dependency_again(standin_stagewright: Stagewright, example: Path) -> None:
    standin_stagewright.build(example)
    (example / "src" / "since" / "__init__.py").write_text('"""Changed."""\n')
    again = standin_stagewright.build(example)
    assert again.step("uv pip install -r").cached
    assert not again.step("uv pip install --no-deps").cached
