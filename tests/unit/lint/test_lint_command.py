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


# Of the schema of SARIF 2.1.0: what each object may have, with `!` what it must; and which objects those are.
SCHEMA: dict[str, dict[str, str | None]] = {
    "log": {"$schema": None, "version!": None, "runs!": "run"},
    "run": {"tool!": "tool", "results": "result", "columnKind": None},
    "tool": {"driver!": "driver"},
    "driver": {"name!": None, "semanticVersion": None, "rules": "rule"},
    "rule": {"id!": None, "shortDescription": "text", "fullDescription": "text", "defaultConfiguration": "level"},
    "text": {"text!": None},
    "level": {"level": None},
    "result": {
        "ruleId": None, "ruleIndex": None, "level": None, "message!": "text", "locations": "location", "fixes": "fix"
    },
    "location": {"physicalLocation": "place"},
    "place": {"artifactLocation": "artifact", "region": "region"},
    "artifact": {"uri": None},
    "region": {"startLine": None, "startColumn": None, "endLine": None, "endColumn": None},
    "fix": {"artifactChanges!": "change"},
    "change": {"artifactLocation!": "artifact", "replacements!": "replacement"},
    "replacement": {"deletedRegion!": "region", "insertedContent": "text"},
}  # fmt: skip


def check_schema(value: object, kind: str | None) -> None:
    if kind is None:
        assert isinstance(value, str | int)
        return
    if isinstance(value, list):
        assert value or kind in ("result", "rule")
        for item in value:
            check_schema(item, kind)
        return
    assert isinstance(value, dict)
    fields = {name.rstrip("!"): inner for name, inner in SCHEMA[kind].items()}
    assert set(value) <= set(fields)
    assert {name[:-1] for name in SCHEMA[kind] if name.endswith("!")} <= set(value)
    assert kind not in ("level", "result") or value["level"] in ("none", "note", "warning", "error")
    assert kind != "region" or all(number >= 1 for number in value.values())
    for name, inner in value.items():
        check_schema(inner, fields[name])


def test_sarif_is_as_its_schema_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "FROM debian\nARG T_TOKEN\nRUN apt-get update\nRUN apt-get install -y $T_TOKEN\n"
        "RUN apk add a\nCOPY --from=0 a b"
    )
    (tmp_path / "a b#").mkdir()
    (tmp_path / "a b#" / "Dockerfile").write_text(text)
    for content, context in ((text, tmp_path / "a b#"), ("FROM scratch\nCOPY a b", tmp_path)):
        (context / "Dockerfile").write_text(content)
        main(["lint", "--format=sarif", str(context)])
        log = json.loads(capsys.readouterr().out)
        check_schema(log, "log")
        for result in log["runs"][0]["results"]:
            uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
            assert uri == f"file://{tmp_path}/a%20b%23/Dockerfile"
            rule = log["runs"][0]["tool"]["driver"]["rules"][result["ruleIndex"]]
            assert rule["id"] == result["ruleId"] and rule["fullDescription"]["text"]


def test_fixes_of_sarif_give_what_fix_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Dockerfile").write_text('FROM node AS a\nFROM node\nCOPY --from=0 a b\nCMD ["node"]\n')
    main(["lint", "--format=sarif"])
    results = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    assert {item["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for item in results} == {"Dockerfile"}
    lines = Path("Dockerfile").read_text().splitlines(keepends=True)
    for result in sorted(results, key=lambda item: -item["locations"][0]["physicalLocation"]["region"]["startLine"]):
        for change in result.get("fixes", [{"artifactChanges": []}])[0]["artifactChanges"]:
            for replacement in change["replacements"]:
                region = replacement["deletedRegion"]
                assert region["startLine"] == region["endLine"]
                line = lines[region["startLine"] - 1]
                start, end = region["startColumn"] - 1, region["endColumn"] - 1
                inserted = replacement["insertedContent"]["text"]
                lines[region["startLine"] - 1] = line[:start] + inserted + line[end:]
    assert "".join(lines) == 'FROM node AS a\nFROM node\nCOPY --from=a a b\nUSER node\nCMD ["node"]\n'


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
