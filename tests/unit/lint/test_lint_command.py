"""`stagewright lint` as a command: its forms of output, its exit status, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stagewright.cli.main import main

TEXT = "FROM a AS one\nFROM b@sha256:" + "0" * 64 + '\nCOPY --from=0 /x /x\nCMD ["x"]\n'


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(TEXT)
    return tmp_path


def test_text(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(context)]) == 1
    path = context / "Dockerfile"
    said = capsys.readouterr().out
    assert f'{path}:3: warning: --from=0 counts stages: stage 0 is "one" (copy-from-index)\n' in said
    assert "A stage's number changes when a stage is added above it" in said
    assert "  -COPY --from=0 /x /x\n  +COPY --from=one /x /x\n" in said
    assert (context / "Dockerfile").read_text() == TEXT


def test_notes_alone_are_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Dockerfile").write_text("FROM a\nRUN x\n")
    assert main(["lint", str(tmp_path)]) == 0
    assert "note: a has no tag, which means latest and no digest (unpinned-base)" in capsys.readouterr().out


def test_json(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "--format=json", str(context)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["file"] == str(context / "Dockerfile")
    (finding,) = [item for item in report["findings"] if item["rule"] == "copy-from-index"]
    assert (finding["level"], finding["start_line"], finding["end_line"]) == ("warning", 3, 3)
    assert "+COPY --from=one /x /x" in finding["diff"]


def test_sarif(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "--format=sarif", str(context)]) == 1
    log = json.loads(capsys.readouterr().out)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    (result,) = [item for item in run["results"] if item["ruleId"] == "copy-from-index"]
    assert rules[result["ruleIndex"]]["id"] == "copy-from-index"
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 3, "endLine": 3}
    (change,) = result["fixes"][0]["artifactChanges"]
    (replacement,) = change["replacements"]
    assert replacement["insertedContent"]["text"] == "--from=one"
    region = replacement["deletedRegion"]
    assert TEXT.splitlines()[2][region["startColumn"] - 1 : region["endColumn"] - 1] == "--from=0"


def test_fix(context: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "stagewright.toml"
    # Nobody listens there: the digest stays unknown, and the note stays.
    config.write_text('[registry."docker.io"]\nmirrors = ["127.0.0.1:1"]\n[registry."127.0.0.1:1"]\nhttp = true\n')
    path = context / "Dockerfile"
    path.write_text(TEXT.replace("FROM a AS", "FROM 127.0.0.1:1/a AS"))
    path.chmod(0o640)
    assert main(["lint", "--fix", f"--config={config}", str(context)]) == 0
    printed = capsys.readouterr()
    assert 'fixed: --from=0 counts stages: stage 0 is "one" (copy-from-index)\n' in printed.err
    assert "unpinned-base" in printed.out
    assert "COPY --from=one /x /x\n" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(tmp_path)]) == 1
    assert f"open {tmp_path}/Dockerfile: No such file or directory" in capsys.readouterr().err
    assert main(["lint", str(tmp_path / "missing")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "Dockerfile").write_text("FROM a\nCOPPY x y\n")
    assert main(["lint", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert "unknown instruction: COPPY" in printed
    assert "2 | >>> COPPY x y" in printed
