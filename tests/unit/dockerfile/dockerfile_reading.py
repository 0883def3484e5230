"""How the tests of the language read Dockerfiles of one instruction, and wrong ones."""

from __future__ import annotations

import pytest

from stagewright.dockerfile import ast
from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError


def only(text: str) -> ast.Instruction:
    """The one instruction of a stage."""
    (stage,) = parse(f"FROM a\n{text}".encode()).stages
    (instruction,) = stage.instructions
    return instruction


def failure(text: str | bytes) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        parse(text.encode() if isinstance(text, str) else text)
    assert caught.value.location is not None
    return caught.value
