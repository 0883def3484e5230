"""A build in a chroot whose root is a folder and no mount point, as debootstrap leaves it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness import as_root
from workbench import Workbench

# In a mount namespace of its own, so that nothing is left of it.
_ENTER = """
cd "$1"; shift
for name in $(ls /); do
    if [ -L "/$name" ]; then cp -a "/$name" .
    elif [ -d "/$name" ]; then mkdir "$name" && mount --rbind "/$name" "$name"
    fi
done
exec chroot . "$@"
"""


def test_steps_run_in_a_plain_chroot(bench: Workbench, tmp_path: Path) -> None:
    bench.dockerfile("""
        FROM busybox
        RUN echo ran > /file && cat /proc/1/comm
        FROM scratch
        COPY --from=0 /file /
    """)
    root = tmp_path / "root"
    root.mkdir()
    out = tmp_path / "out"
    flags = ["--root", bench.stagewright.root, "--config", bench.stagewright.config, "-o", out, bench.context]
    command = [sys.executable, "-m", "stagewright", "build", *flags]
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-eu", "-c", _ENTER, "enter", root]
    done = subprocess.run(as_root(*enter, *command), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "file").read_text() == "ran\n"
