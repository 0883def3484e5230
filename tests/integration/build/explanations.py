"""What `stagewright explain` says of the newest build, and what its progress said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from workbench import Workbench


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

    def kind(self, text: str) -> str:
        """The word for the reason."""
        return str(self.step(text)["kind"])

    @property
    def ran(self) -> list[str]:
        """The names of the steps that ran."""
        return [step["name"] for step in self.data["steps"]]


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
