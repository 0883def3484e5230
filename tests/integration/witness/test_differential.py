"""The corpus, built by the engine's BuildKit and by Stagewright: the same files, config, history and layers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from corpus import Case, differences, load_cases, unexplained, unneeded
from docker_engine import Engine
from harness import Stagewright
from image_facts import Facts, ImageReader

CASES = load_cases()
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
