"""Example 7: eight stages that need nothing from each other are under way at the same moment."""

from __future__ import annotations

from pathlib import Path

from harness import Stagewright

EXAMPLE = "07-parallel"
PARTS = range(1, 9)


def test_all_stages_run_at_once(standin_stagewright: Stagewright, example: Path, tmp_path: Path) -> None:
    build = standin_stagewright.build(example, "-o", f"type=local,dest={tmp_path}/out")
    steps = [build.step(f"[part-{part} 1/1]") for part in PARTS]
    started = [step.started for step in steps if step.started]
    completed = [step.completed for step in steps if step.completed]
    assert len(started) == len(completed) == len(PARTS)
    assert max(started) < min(completed)
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {
        f"part-{part}.txt": f"part {part}\n" for part in PARTS
    }


def test_one_changed_stage_runs_alone(standin_stagewright: Stagewright, example: Path) -> None:
    standin_stagewright.build(example)
    dockerfile = example / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace('"part 5"', '"part five"'))
    build = standin_stagewright.build(example)
    assert [part for part in PARTS if not build.step(f"[part-{part} 1/1]").cached] == [5]
