"""Installations as the linter rewrites them: the same image, with what was downloaded in caches instead of layers."""

from __future__ import annotations

from pathlib import Path

from harness import Files, Stagewright

from stagewright.lint.linter import fix

INSTALL = """\
FROM debian:trixie-slim
RUN --mount=type=secret,id=apt.conf,target=/etc/apt/apt.conf.d/99host,mode=0444 set -eu; \\
    apt-get update; \\
    apt-get install -y --no-install-recommends hello \\
      # which is small

      && apt-get clean; \\
    # nothing of it stays
    rm -rf /var/lib/apt/lists/* /tmp/made
RUN hello > /said; ls /var/lib/apt/lists /var/cache/apt/archives > /left
"""
LOOK = """\
FROM debian:trixie-slim
RUN --mount=type=cache,target=/var/cache/apt --mount=type=cache,target=/var/lib/apt/lists \\
    ls /var/lib/apt/lists /var/cache/apt/archives > /cached
"""


def built(builder: Stagewright, folder: Path, text: str) -> Files:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(text)
    builder.build(folder, "-o", f"type=tar,dest={folder}/result.tar")
    return Files.read((folder / "result.tar").read_bytes())


def test_an_installation_with_caches(standin_stagewright: Stagewright, tmp_path: Path) -> None:
    before = built(standin_stagewright, tmp_path / "before", INSTALL)
    rewritten = fix(INSTALL.encode(), "Dockerfile")
    assert [item.rule.name for item in rewritten.mended] == ["no-cache-mount"]
    after = built(standin_stagewright, tmp_path / "after", rewritten.text)

    assert after.text("/said") == before.text("/said") == "Hello, world!\n"
    assert "hello" not in after.text("/left") and "Packages" not in after.text("/left")
    gone, new = set(before.below("/")) - set(after.below("/")), set(after.below("/")) - set(before.below("/"))
    assert gone == {"etc/apt/apt.conf.d/docker-clean"}
    # What the base has there is no longer removed either.
    assert new <= {"var/lib/apt/lists/lock", "var/lib/apt/lists/partial"}

    cached = built(standin_stagewright, tmp_path / "look", LOOK).text("/cached")
    assert "hello_" in cached and "Packages" in cached
