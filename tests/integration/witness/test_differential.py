"""The corpus, built by the engine's BuildKit and by Stagewright: the same files, config, history and layers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from docker_engine import Engine
from harness import Stagewright
from image_facts import Facts, ImageReader
from witness_corpus import Case, differences, load_cases, unexplained, unneeded

ALL = load_cases()
CASES = [case for case in ALL if not case.refused]
REFUSED = [case for case in ALL if case.refused]
AT_ONCE = 3


@pytest.fixture(scope="module")
def images(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[Facts]]]:
    """What the engine makes of each case that will be tested; it builds while earlier cases are tested."""
    reader = ImageReader()
    folder = tmp_path_factory.mktemp("engine-images")

    def build(case: Case) -> Facts:
        context = case.write(folder / case.name, case.engine_dockerfile)
        image = engine.build(context, *case.flags_for(context))
        archive = folder / f"{case.name}.tar"
        engine.docker("save", "--output", archive, image)
        facts = reader.facts(archive)
        archive.unlink()
        return facts

    cases = [case for case in CASES if any(item.name.endswith(f"[{case.name}]") for item in request.session.items)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {case.name: pool.submit(build, case) for case in cases}
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def reader() -> ImageReader:
    return ImageReader()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_engine_builds_the_same(
    case: Case, images: dict[str, Future[Facts]], builder: Stagewright, reader: ImageReader, tmp_path: Path
) -> None:
    context = case.write(tmp_path / "context", case.dockerfile)
    archive = tmp_path / "image.tar"
    output = f"--output=type=docker,dest={archive}"
    builder.run("build", "--progress=plain", "--network=host", output, *case.flags_for(context), context)

    found = differences(reader.facts(archive), images[case.name].result())
    strange = unexplained(found, case.differs)
    assert not strange, "\n".join(strange)
    assert unneeded(found, case.differs) == [], "these no longer differ"


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_the_engine_refuses_it_too(case: Case, engine: Engine, builder: Stagewright, tmp_path: Path) -> None:
    theirs = case.write(tmp_path / "theirs", case.engine_dockerfile)
    flags = ["build", "--network=host", *case.flags_for(theirs), theirs]
    assert engine.docker(*flags, check=False).returncode != 0

    ours = case.write(tmp_path / "ours", case.dockerfile)
    done = builder.run("build", "--network=host", "--output=type=cacheonly", *case.flags_for(ours), ours, check=False)
    assert done.returncode != 0
    assert "ERROR: failed to build: " in done.stderr
    assert "Traceback" not in done.stderr
