"""Fuzzes targets with atheris, one behind the other: `fuzz.py [--seconds N] [TARGET ...]`.

What finds something is written to `fuzz/findings/`; mended, it belongs into the corpus, where the tests run it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from corpus import corpus_folder, load_target, target_names

_HERE = Path(__file__).parent
_MEMORY_MIB = 1024
_SLOWEST_S = 10
_LONGEST = 1 << 14


def main() -> int:
    """Parse the command line and fuzz; the exit status is 1 where anything was found."""
    parser = argparse.ArgumentParser(description="fuzz Stagewright's readers with atheris")
    names = ", ".join(target_names())
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one of {names} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="how long each target is fuzzed (default: 60)")
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(target_names())
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    failed = [name for name in arguments.targets or target_names() if not _run(name, arguments.seconds)]
    if failed:
        print(f"found something: {', '.join(failed)} (see {_HERE / 'findings'})")
    return 1 if failed else 0


def _run(name: str, seconds: int) -> bool:
    """Fuzz one target; whether nothing was found."""
    findings = _HERE / "findings"
    findings.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder, "words")
        words.write_text("".join(f'"{_escaped(token)}"\n' for token in load_target(name).tokens))
        grown = Path(folder, "grown")
        grown.mkdir()
        print(f"== {name}", flush=True)
        command = [
            *(sys.executable, str(_HERE / "engine.py"), name, str(grown), str(corpus_folder(name))),
            *(f"-max_total_time={seconds}", f"-dict={words}", f"-max_len={_LONGEST}", f"-timeout={_SLOWEST_S}"),
            *(f"-rss_limit_mb={_MEMORY_MIB}", f"-artifact_prefix={findings}/{name}-", "-print_final_stats=1"),
        ]
        return subprocess.run(command, check=False).returncode == 0


def _escaped(token: bytes) -> str:
    return "".join(chr(byte) if 0x20 < byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    sys.exit(main())
