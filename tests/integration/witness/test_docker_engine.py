"""A Docker engine takes what Stagewright makes, and runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from docker_engine import Engine
from harness import Stagewright

DOCKERFILE = """
FROM busybox AS build
RUN echo built > /built && mkdir /kept && touch /kept/a /kept/b
FROM busybox
LABEL made=here
ENV GREETING="hello there"
WORKDIR /app
COPY --from=build --chown=1000:1000 /built /kept ./
COPY --chmod=755 run.sh /bin/run-it
RUN rm b && ln built hard
USER 1000
EXPOSE 80
ENTRYPOINT ["run-it"]
CMD ["default", "words"]
"""
SCRIPT = """#!/bin/sh
echo "$GREETING: $* as $(id -u) in $(pwd)"
ls
stat -c '%u %h' built
"""
PRINTED = "hello there: {} as 1000 in /app\na\nbuilt\nhard\n1000 2\n"


@pytest.fixture
def app(context: Path) -> Path:
    """A context with a Dockerfile that uses two stages and changes files of lower layers."""
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "run.sh").write_text(SCRIPT)
    return context


def check_app(engine: Engine, image: str) -> None:
    """Look at the image in the engine and run it, with its own command and with another."""
    config = inspect(engine, image)["Config"]
    assert config["Labels"] == {"made": "here"}
    assert config["Entrypoint"] == ["run-it"]
    assert config["ExposedPorts"] == {"80/tcp": {}}
    assert engine.output_of(image) == PRINTED.format("default words")
    assert engine.output_of(image, "other") == PRINTED.format("other")


def inspect(engine: Engine, image: str) -> dict[str, Any]:
    """What the engine knows of an image."""
    found: list[dict[str, Any]] = json.loads(engine.docker("image", "inspect", image).stdout)
    return found[0]


@pytest.mark.parametrize("compression", ["gzip", "uncompressed"])
@pytest.mark.parametrize("mediatypes", ["true", "false"])
def test_docker_load_takes_the_archive(
    engine: Engine, builder: Stagewright, app: Path, tmp_path: Path, compression: str, mediatypes: str
) -> None:
    name = f"loaded/{compression}:{mediatypes}"
    archive, id_file = tmp_path / "image.tar", tmp_path / "id"
    output = f"--output=type=docker,dest={archive},compression={compression},oci-mediatypes={mediatypes}"
    builder.build(app, f"--tag={name}", f"--iidfile={id_file}", output)
    assert f"Loaded image: {name}" in engine.docker("load", "--input", archive).stdout
    assert inspect(engine, name)["Id"] == id_file.read_text()
    check_app(engine, name)


def test_load_hands_it_over_the_socket(engine: Engine, builder: Stagewright, app: Path) -> None:
    names = ("handed/over:1", "handed/over:again")
    builder.build(app, *(f"--tag={name}" for name in names), "--load", env={"DOCKER_HOST": engine.host})
    for name in names:
        check_app(engine, name)


def test_load_says_when_no_engine_answers(builder: Stagewright, app: Path, tmp_path: Path) -> None:
    nobody = {"DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"}
    done = builder.run("build", "--tag=handed/over:1", "--load", app, check=False, env=nobody)
    assert done.returncode == 1
    assert str(tmp_path / "nobody.sock") in done.stderr
    assert "Traceback" not in done.stderr


# The engine is older than layers compressed with zstd.
@pytest.mark.parametrize("compression", ["gzip", "uncompressed"])
@pytest.mark.parametrize("mediatypes", ["true", "false"])
def test_the_engine_pulls_what_was_pushed(
    engine: Engine, builder: Stagewright, app: Path, registry: str, tmp_path: Path, compression: str, mediatypes: str
) -> None:
    config = tmp_path / "stagewright.toml"
    config.write_text(builder.config.read_text() + f'\n[registry."{registry}"]\n  http = true\n')
    name = f"{registry}/pushed/{compression}:{mediatypes}"
    form = f"compression={compression},oci-mediatypes={mediatypes},force-compression=true"
    Stagewright(builder.root, config).build(app, f"--output=type=image,name={name},push=true,{form}")
    engine.docker("pull", "--quiet", name)
    check_app(engine, name)


def test_the_engine_builds_on_our_image(engine: Engine, builder: Stagewright, app: Path) -> None:
    builder.build(app, "--tag=used/as-base", "--load", env={"DOCKER_HOST": engine.host})
    (app / "Dockerfile").write_text("FROM used/as-base\nUSER root\nRUN rm -r /app/a && echo more >> /app/built\n")
    image = engine.build(app)
    assert engine.output_of(image, "x") == "hello there: x as 0 in /app\nbuilt\nhard\n1000 1\n"
