"""What wrong command lines and configurations are told: one message each, a hint where there is one, status 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagewright.cli.main import main
from stagewright.config import load
from stagewright.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("biuld .", "unknown command 'biuld'|did you mean build?"),
        ("frobnicate", "unknown command 'frobnicate'|see stagewright --help"),
        ("-x build", "unknown flag -x|flags go after the command: stagewright build [flags] PATH"),
        ("build", "stagewright build needs exactly 1 argument, but got 0|see stagewright build --help"),
        ("build a b", "stagewright build needs exactly 1 argument, but got 2|see stagewright build --help"),
        ("explain 1 2", "stagewright explain takes at most 1 argument, but got 2|see stagewright explain --help"),
        ("version x", "stagewright version takes no arguments, but got 'x'|see stagewright version --help"),
        ("build --taget x .", "unknown flag --taget|did you mean --target?"),
        ("build --foo .", "unknown flag --foo|see stagewright build --help"),
        ("build -z .", "unknown flag -z|see stagewright build --help"),
        ("build --target", "the flag --target needs a value|see stagewright build --help"),
        ("build -t", "the flag -t needs a value|see stagewright build --help"),
        ("build --squash .", "the flag --squash is not supported yet|see stagewright build --help"),
        ("build --sbom=true .", "the flag --sbom=true is not supported yet|--sbom=false is"),
        ("build --no-cache=maybe .", "--no-cache: 'maybe' is neither true nor false"),
        ("build --no-cache --no-cache-filter=a .", "--no-cache and --no-cache-filter exclude each other"),
        ("build --quiet --progress=plain .", "--quiet and --progress=plain exclude each other"),
        ("build -f - -", "standard input cannot be both the build context and the Dockerfile"),
        ("build --platform=linux/amd64,linux/arm64 .",
         "building for several platforms is not supported yet: linux/amd64, linux/arm64"),
        ("build --annotation a .", "--annotation: 'a' is no name=value pair"),
        ("build --build-arg =x .", "--build-arg: '=x' has no name before the ="),
        ("build --build-context x .", "--build-context: invalid context value: x, expected name=value"),
        ("build --label =x .", "--label: '=x' has no name before the ="),
        ("build --iidfile x -o type=tar,dest=y .", "--iidfile needs an image, but output type=tar makes none"),
        ("build --secret type=file .",
         "--secret: 'type=file' has no id|write it as id=NAME,src=FILE or id=NAME,env=VARIABLE"),
        ("build --secret id=a,type=b .", "--secret: unknown type 'b'|type=file or type=env"),
        ("build --secret id=a,scr=b .", "--secret: unknown key 'scr' in 'id=a,scr=b'"),
        ("build --secret a .", "--secret: 'a' is no key=value pair"),
        ('build --secret id=a,"src=b .', 'a quote that is not closed: id=a,"src=b'),
        ('build --secret id=a,s"rc=b .', 'a quote in the middle of a field: id=a,s"rc=b'),
        ('build --secret "id=a"b .', 'text after a closing quote: "id=a"b'),
        ("build --ssh =x .", "--ssh: '=x' names no agent or key|write it as default, NAME=SOCKET or NAME=KEY[,KEY]"),
        ("build --ssh a=b,,c .",
         "--ssh: 'a=b,,c' names no agent or key|write it as default, NAME=SOCKET or NAME=KEY[,KEY]"),
        ("build -o dest=x,a=b .", "--output: 'dest=x,a=b' has no type|write it as type=TYPE,dest=PATH"),
        ("build -o type=tar,x .", "--output: 'x' is no key=value pair"),
        ("build --shm-size=x .", "--shm-size: 'x' is not a size|write it as 1024, 64m or 1g"),
        ("build --shm-size=99999999999g .", "--shm-size: the size '99999999999g' is too large"),
        ("build --ulimit=nofile .", "--ulimit: 'nofile' is not a limit|write it as nofile=1024 or nofile=1024:2048"),
        ("build --ulimit=x=1 .",
         "--ulimit: there is no limit named 'x'|one of core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile,"
         " nproc, rss, rtprio, rttime, sigpending, stack"),
        ("build --ulimit=core=2:1 .", "--ulimit: the soft limit is above the hard limit: core=2:1"),
        ("build --ulimit=core=-1:1 .", "--ulimit: the soft limit is above the hard limit: core=-1:1"),
        ("build --ulimit=core=99999999999999999999 .",
         "--ulimit: the limit 'core=99999999999999999999' is too large"),
        ("build --add-host=x .",
         "--add-host: 'x' is not a host and its address|write it as name:10.0.0.1 or name=::1"),
        ("build --add-host=x:1.2 .",
         "--add-host: 'x:1.2' is not a host and its address|write it as name:10.0.0.1 or name=::1"),
        ("build --jobs=0 .", "--jobs: '0' is not a number of at least 1"),
        ("build --call=x .", "--call: unknown method 'x'|one of build, check, outline, targets"),
        ("lint --format=xml .", "--format: 'xml' is unknown|one of text, json, sarif"),
        ("lint nowhere", "the build context nowhere is not a folder"),
        ("build --progress=tty .", "--progress=tty needs a terminal|use --progress=plain, or leave the flag out"),
        ("build --progress=x .", "unknown progress mode 'x'|one of auto, tty, plain, rawjson, quiet, none"),
        ("cache volumes ls",
         "unknown command cache volumes ls|stagewright cache mounts ls | mounts export SPEC [ID...] |"
         " mounts import SPEC [ID...] | mounts rm ID..."),
        ("cache mounts ls x",
         "cache mounts ls takes no arguments|stagewright cache mounts ls | mounts export SPEC [ID...] |"
         " mounts import SPEC [ID...] | mounts rm ID..."),
        ("cache mounts rm",
         "cache mounts rm needs the ID of one|stagewright cache mounts ls | mounts export SPEC [ID...] |"
         " mounts import SPEC [ID...] | mounts rm ID..."),
        ("cache mounts import",
         "cache mounts import needs SPEC|stagewright cache mounts ls | mounts export SPEC [ID...] |"
         " mounts import SPEC [ID...] | mounts rm ID..."),
        ("load -i nowhere", "cannot read nowhere: No such file or directory"),
        ("tag a", "stagewright tag needs exactly 2 arguments, but got 1|see stagewright tag --help"),
    ],
)  # fmt: skip
def test_command_lines(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STAGEWRIGHT_ROOT", str(tmp_path / "root"))
    assert main(arguments.split(" ")) == 1
    printed = capsys.readouterr()
    message, _, hint = said.partition("|")
    assert printed.out == ""
    assert printed.err == f"ERROR: {message}\n" + (f"hint: {hint}\n" if hint else "")


class _Terminal:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "arguments", "said"),
    [
        ("stdin", "load", "no archive on standard input\nhint: use -i FILE, or send one with < or |"),
        ("stdout", "save a", "an archive does not belong on a terminal"),
        ("stdout", "build -o - .", "output type=tar would write an archive to the terminal\nhint: give it a dest=FILE"),
    ],
)
def test_archives_and_terminals(
    stream: str,
    arguments: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("STAGEWRIGHT_ROOT", str(tmp_path / "root"))
    with monkeypatch.context() as patch:
        patch.setattr(f"sys.{stream}", _Terminal())
        assert main(arguments.split()) == 1
    assert capsys.readouterr().err.startswith(f"ERROR: {said}")


def test_a_file_that_cannot_be_replaced(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "id").mkdir()
    monkeypatch.setenv("STAGEWRIGHT_ROOT", str(tmp_path / "root"))
    assert main(["build", "--iidfile", f"{tmp_path}/id", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"ERROR: cannot replace {tmp_path}/id: Is a directory\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = ", "not valid TOML: Invalid value (at end of document)"),
        ("jbos = 1", "unknown key jbos"),
        ("jobs = 'x'", "jobs is not a whole number"),
        ("jobs = true", "jobs is not a whole number"),
        ("jobs = 0", "jobs is not at least 1"),
        ("oci-runtime = 1", "oci-runtime is not a string"),
        ("resolve-ttl = 1", 'resolve-ttl is not a duration such as "10m"'),
        ("resolve-ttl = '1x'", 'resolve-ttl is not a duration such as "10m"'),
        ("resolve-ttl = '-1s'", "resolve-ttl is not 0 or more"),
        ("host-ca = 1", "host-ca is not true, false or a path"),
        ("host-ca = ''", "host-ca is not true, false or a path"),
        ("worker = 1", "worker is not a table"),
        ("[worker]\nsnapshotter = 'x'", "worker.snapshotter is not one of "),
        ("[worker]\nruntime = 1", "worker.runtime is not a string"),
        ("[worker]\nother = 1", "unknown key worker.other"),
        ("registry = 1", "registry is not a table"),
        ("[registry]\n'a' = 1", 'registry."a" is not a table'),
        ("[registry.'a']\nmirrors = 1", 'registry."a".mirrors is not a list of strings'),
        ("[registry.'a']\nmirrors = [1]", 'registry."a".mirrors is not a list of strings'),
        ("[registry.'a']\nkeypair = 1", 'registry."a".keypair is not a list of tables'),
        ("[registry.'a']\nkeypair = [1]", 'registry."a".keypair[0] is not a table'),
        ("[registry.'a']\nhtpp = true", 'unknown key registry."a".htpp'),
        ("[registry.'a']\nhttp = 'yes'", 'registry."a".http is not '),
    ],
)
def test_configurations(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "stagewright.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(str(path), {})
    assert caught.value.message.startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"a = '\xff'", "it is not UTF-8"), (b"a = " + b"[" * 100_000, "it is nested too deeply")],
)
def test_configurations_that_are_no_text(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "stagewright.toml"
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        load(str(path), {})
    assert caught.value.message == f"{path}: not valid TOML: {said}"


def test_configurations_that_cannot_be_read(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path, f"cannot read the configuration {tmp_path}: Is a directory"),
        (tmp_path / "x", f"configuration file {tmp_path}/x does not exist"),
    ):
        with pytest.raises(UsageError) as caught:
            load(str(path), {})
        assert caught.value.message == said
