"""The values of --chmod, with chmod(1) as the witness."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagewright.errors import DockerfileError
from stagewright.ops.chmod import apply_mode


@pytest.mark.parametrize(
    ("expression", "mode", "is_dir", "expected"),
    [
        ("755", 0o600, False, 0o755),
        ("0644", 0o777, True, 0o644),
        ("4711", 0o600, False, 0o4711),
        ("0", 0o777, False, 0),
        ("+x", 0o644, False, 0o755),
        ("u+x", 0o644, False, 0o744),
        ("a-w", 0o777, False, 0o555),
        ("go=", 0o777, False, 0o700),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, False, 0o755),
        ("g=u", 0o640, False, 0o660),
        ("u+s,g+s", 0o755, False, 0o6755),
        ("u+", 0o644, False, 0o644),
        ("+t", 0o777, True, 0o1777),
        ("u=rw+x-w", 0o000, False, 0o500),
    ],
)
def test_modes(expression: str, mode: int, is_dir: bool, expected: int) -> None:
    assert apply_mode(expression, mode, is_dir) == expected


@pytest.mark.parametrize(
    "expression", ["", "9", "10000", "x", "u", ",", "u+x,", "u+q", "rw", "0o755", "\u0667", " 755"]
)
def test_what_is_no_mode(expression: str) -> None:
    with pytest.raises(DockerfileError, match="invalid chmod parameter"):
        apply_mode(expression, 0o644, False)


CLAUSES = st.lists(
    st.tuples(
        st.text("ugoa", min_size=1, max_size=3),
        st.sampled_from("+-="),
        st.one_of(st.text("rwxXst", max_size=3), st.sampled_from("ugo")),
    ).map("".join),
    min_size=1,
    max_size=3,
).map(",".join)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("chmod") is None, reason="chmod(1) as root is the witness")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(expression=CLAUSES, mode=st.integers(0, 0o7777))
def test_files_get_what_chmod_gives_them(tmp_path: Path, expression: str, mode: int) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    subprocess.run(["chmod", expression, path], check=True, umask=0)
    assert apply_mode(expression, mode, False) == stat.S_IMODE(path.stat().st_mode)
