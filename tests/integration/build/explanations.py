"""What `stagewright explain` says of the newest build, and what its progress and the document of reasons say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench import Workbench

DOCUMENT = Path(__file__).parents[3] / "docs" / "explain.md"
PLAIN = """
    FROM busybox
    WORKDIR /app
    COPY . .
    RUN cat one > two
    RUN echo done
"""


def build_plain(bench: Workbench) -> Workbench:
    """A context that was built once."""
    bench.dockerfile(PLAIN)
    bench.write(".dockerignore", "Dockerfile\n.dockerignore\n*.log\n")
    for name in ("one", "a/b", "a/c", "a/d", "debug.log"):
        bench.write(name, name)
    bench.build()
    return bench


class Explained:
    """An explanation of a build, by parts of the names of its steps."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data

    def step(self, text: str) -> dict[str, Any]:
        """The only step that ran whose name holds the text."""
        found = [step for step in self.data["steps"] if text in step["name"]]
        assert len(found) == 1, f"{len(found)} steps hold {text!r} in {json.dumps(self.data, indent=1)}"
        return dict(found[0])

    def why(self, text: str) -> str:
        """The sentence about a step."""
        return str(self.step(text)["reason"])

    def also(self, text: str) -> list[str]:
        """What else is said of a step."""
        return [also["reason"] for also in self.step(text)["also"]]

    def kind(self, text: str) -> str:
        """The word for the reason."""
        return str(self.step(text)["kind"])

    @property
    def ran(self) -> list[str]:
        """The names of the steps that ran."""
        return [step["name"] for step in self.data["steps"]]


def examples() -> dict[str, str]:
    """The sentences that the document gives as examples, by the words for the reasons."""
    return dict(re.findall(r"^\| `([\w-]+)` \|.*\| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE))


def as_documented(told: Explained, step: str, kind: str) -> bool:
    """Whether a step ran for this reason, and is told so by the document's example, where … stands for anything."""
    example = re.escape(examples()[kind]).replace("…", ".+")
    assert told.kind(step) == kind
    assert re.fullmatch(example, told.why(step)), told.why(step)
    return True


def explain(bench: Workbench, *arguments: object) -> Explained:
    """The explanation of the newest build, or of the one that is named."""
    return Explained(json.loads(bench.stagewright.run("explain", "--json", *arguments).stdout))


def explained(bench: Workbench, *flags: object, env: Mapping[str, str] | None = None) -> Explained:
    """Build, and explain that build."""
    bench.build(*flags, env=env)
    return explain(bench)


def missed(stderr: str) -> dict[str, str]:
    """What a stream of rawjson events says of why steps missed the cache, by their names."""
    told = {}
    for line in stderr.splitlines():
        for vertex in json.loads(line).get("vertexes", ()) if line.startswith("{") else ():
            if vertex.get("missed"):
                told[vertex["name"]] = vertex["missed"]
    return told
