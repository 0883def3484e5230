"""A Dockerfile under advice: each rewrite gives a Dockerfile, and all of them together come to an end."""

from __future__ import annotations

import dockerfile

from stagewright.errors import DockerfileError
from stagewright.lint.linter import _MAX_ROUNDS as MAX_ROUNDS
from stagewright.lint.linter import fix, lint

TOKENS = (
    *dockerfile.TOKENS, b"apt-get update", b"apt-get install -y x", b" && ", b"; ", b"|| ", b"pip install -r r.txt",
    b"npm ci", b"COPY . .\n", b"rm -rf /var/lib/apt/lists/*", b"--no-cache-dir", b"COPY --from=0 / /\n", b"$(x)",
    b"ENV PASSWORD=x\n", b"apk add --no-cache x", b"go build", b"cargo build", b"#",
)  # fmt: skip


def check(data: bytes) -> None:
    """Fails for anything but a DockerfileError with its lines."""
    try:
        findings = lint(data, "Dockerfile")
    except DockerfileError as error:
        assert error.location is not None
        return
    if any(finding.edits for finding in findings):
        mended = fix(data, "Dockerfile")
        assert len(mended.mended) == MAX_ROUNDS or not any(finding.edits for finding in mended.left)
