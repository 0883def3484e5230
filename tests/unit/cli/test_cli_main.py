import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any

import pytest
from fake_library import FakeLibrary

from stagewright import __version__
from stagewright.cli.main import COMMANDS, main
from stagewright.errors import NotFoundError


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--version"], ["version"], ["-v"]):
        assert main(argv) == 0
        assert capsys.readouterr().out == f"stagewright {__version__}\n"


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"], ["help"]):
        assert main(argv) == 0
        text = capsys.readouterr().out
        assert all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: stagewright {command} [flags]")


def test_unknown_commands_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["biuld", "."]) == 1
    assert capsys.readouterr().err == "ERROR: unknown command 'biuld'\nhint: did you mean build?\n"
    assert main(["-t", "x", "build"]) == 1
    assert "flags go after the command" in capsys.readouterr().err


def test_errors_are_one_message(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*args: Any) -> None:
        raise NotFoundError("no image named \x1b]0;x\x07app", hint="see stagewright images")

    library.answers["tag"] = fail
    assert main(["tag", "app", "b"]) == 1
    assert capsys.readouterr() == ("", "ERROR: no image named app\nhint: see stagewright images\n")


def test_internal_errors_are_one_line(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise KeyError("oh\nno")

    library.answers["images"] = fail
    assert main(["images"]) == 1
    assert capsys.readouterr().err == "internal error: KeyError: 'oh\\nno' (run it again with -D to see where)\n"
    assert main(["images", "-D"]) == 1
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert text.endswith("internal error: KeyError: 'oh\\nno'\n")


def test_interruption(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    library.answers["images"] = interrupt
    assert main(["images"]) == 130
    assert capsys.readouterr().err == "ERROR: canceled\n"


def test_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "stagewright", "version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"stagewright {__version__}\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([sys.executable, "-m", "stagewright", "version"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, b"")


FAKE_BUILD = """
import os, signal, sys, types
import stagewright
api = types.ModuleType("stagewright.api")
class Cache: pass
class Output: pass
class SecretSource: pass
class SshSource: pass
class Result:
    digest = config_digest = "sha256:x"
def build(on_event, cancel, **request):
    {body}
    return Result()
api.build, api.Cache, api.Output, api.SecretSource, api.SshSource = build, Cache, Output, SecretSource, SshSource
sys.modules["stagewright.api"] = stagewright.api = api
from stagewright.cli.main import main
status = main(["build", {flags} "."])
{after}
"""


def fake_build(body: str, *, flags: str = "", after: str = "sys.exit(status)") -> subprocess.CompletedProcess[str]:
    code = FAKE_BUILD.format(body=body, flags=flags, after=after)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_the_second_ctrl_c_ends_the_process() -> None:
    body = "os.kill(os.getpid(), signal.SIGINT); cancel.wait(); os.kill(os.getpid(), signal.SIGINT); cancel.wait()"
    assert fake_build(body).returncode == -signal.SIGINT


def test_a_build_imports_no_more_than_it_needs() -> None:
    heavy = "rich urllib3 ssl http email tomllib zstandard isal tarfile subprocess ctypes asyncio multiprocessing"
    heavy += " concurrent.futures logging json unicodedata ipaddress difflib traceback stagewright.cli.images"
    result = fake_build("pass", flags='"--progress=plain", "-t", "x",', after="print(*sys.modules)")
    assert result.returncode == 0, result.stderr
    assert set(heavy.split()) & set(result.stdout.split()) == set()


def test_every_command_module_is_listed() -> None:
    import stagewright.cli

    folder = pathlib.Path(stagewright.cli.__path__[0])
    commands = {
        path.stem for path in folder.glob("*.py") if re.search("^def run.options", path.read_text(), re.MULTILINE)
    }
    assert commands == set(COMMANDS)
