import io
import json
import os
import pathlib
import re
import sys
from typing import Any

import pytest
from fake_library import BuildResult, FakeLibrary, Output, SecretSource, SshSource

from stagewright.cli.main import main
from stagewright.errors import CanceledError, SourceRange, SourceText, StepFailedError
from stagewright.image.platform import host_platform
from stagewright.progress.events import VertexEvent

CONFIG_DIGEST = "sha256:" + "c" * 64


def asked(library: FakeLibrary, *argv: str) -> dict[str, Any]:
    assert main(["build", *argv, "."]) == 0
    return library.request


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["build", *argv]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_defaults(library: FakeLibrary) -> None:
    request = asked(library)
    assert callable(request.pop("on_event"))
    assert not request.pop("cancel").is_set()
    defaults = {"context": ".", "network": "default", "secret_leak": "fail"}
    assert {name: value for name, value in request.items() if value} == defaults
    assert request["outputs"] is None


def test_caches(library: FakeLibrary) -> None:
    request = asked(
        library,
        *("--cache-from", "app:cache", "--cache-from=type=local,src=in", "--cache-from", ""),
        *("--cache-to", "type=local,dest=out,mode=max,mount=a,mount=b"),
    )
    assert [(cache.type, cache.attrs, cache.mounts) for cache in request["cache_from"]] == [
        ("registry", {"ref": "app:cache"}, ()),
        ("local", {"src": "in"}, ()),
    ]
    assert [(cache.type, cache.attrs, cache.mounts) for cache in request["cache_to"]] == [
        ("local", {"dest": "out", "mode": "max"}, ("a", "b")),
    ]


@pytest.mark.parametrize("mode", ["fail", "warn", "off"])
def test_secret_leak(library: FakeLibrary, mode: str) -> None:
    assert asked(library, f"--secret-leak={mode}")["secret_leak"] == mode


def test_plain_values_are_handed_on(library: FakeLibrary) -> None:
    request = asked(
        library,
        *("-f", "Other", "-t", "a", "--tag", "b:1", "--target", "prod"),
        *("--push", "--load", "--pull", "--label", "l=1", "--annotation", "manifest:k=v=w", "--network", "none"),
        *("--shm-size", "64m", "--ulimit", "nofile=1:2", "--jobs", "3", "--offline", "--oci-runtime", "/bin/runc"),
        *("--root", "/r", "--config", "/c", "--platform", "linux/amd64", "--provenance=false", "--sbom", "false"),
    )
    assert request["file"] == "Other"
    assert request["tags"] == ["a", "b:1"]
    assert request["target"] == "prod"
    assert (request["push"], request["load"], request["pull"], request["offline"]) == (True, True, True, True)
    assert request["labels"] == {"l": "1"}
    assert request["annotations"] == {"manifest:k": "v=w"}
    assert request["network"] == "none"
    assert request["shm_size"] == 64 << 20
    assert request["ulimits"] == [("nofile", 1, 2)]
    assert request["jobs"] == 3
    assert request["oci_runtime"] == "/bin/runc"
    assert (request["root"], request["config"], request["platform"]) == ("/r", "/c", "linux/amd64")


def test_what_other_builders_had_to_be_told_changes_nothing(
    library: FakeLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--rm", "--rm=false", "--force-rm", "--compress=true", "--isolation=default")
    assert {name: value for name, value in asked(library, *flags).items() if name not in ("on_event", "cancel")} == {
        name: value for name, value in asked(library).items() if name not in ("on_event", "cancel")
    }
    assert "--isolation: 'hyperv' is unknown" in refused(capsys, "--isolation=hyperv", ".")


def test_lists_in_one_value(library: FakeLibrary) -> None:
    request = asked(library, "--no-cache-filter", "a,b", "--no-cache-filter=c", "--add-host", "x:1.2.3.4,y=::1")
    assert request["no_cache_filter"] == ["a", "b", "c"]
    assert request["add_hosts"] == [("x", "1.2.3.4"), ("y", "::1")]


def test_build_args(library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_ENV", "e")
    monkeypatch.delenv("NOT_SET", raising=False)
    request = asked(library, "--build-arg", "A=1", "--build-arg", "FROM_ENV", "--build-arg", "NOT_SET")
    assert request["build_args"] == {"A": "1", "FROM_ENV": "e"}


def test_build_contexts(library: FakeLibrary) -> None:
    request = asked(library, "--build-context", "a=/x=y", "--build-context=b=target:c", "--build-context", "")
    assert request["build_contexts"] == {"a": "/x=y", "b": "target:c"}


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("id=a,src=/f", SecretSource("a", path="/f")),
        ("id=a,source=/f", SecretSource("a", path="/f")),
        ("ID=a,type=file,src=/f", SecretSource("a", path="/f")),
        ('"src=/f,g",id=a', SecretSource("a", path="/f,g")),
        ("id=a,env=B", SecretSource("a", env="B")),
        ("id=a,type=env,src=B", SecretSource("a", env="B")),
        ("id=IN_ENV", SecretSource("IN_ENV", env="IN_ENV")),
        ("id=IN_ENV,type=file", SecretSource("IN_ENV", path="IN_ENV")),
        ("id=not_in_env", SecretSource("not_in_env", path="not_in_env")),
        ("id=a,type=env", SecretSource("a", env="a")),
    ],
)
def test_secrets(library: FakeLibrary, monkeypatch: pytest.MonkeyPatch, text: str, source: SecretSource) -> None:
    monkeypatch.setenv("IN_ENV", "x")
    monkeypatch.delenv("not_in_env", raising=False)
    assert asked(library, "--secret", text)["secrets"] == [source]


@pytest.mark.parametrize("text", ["", "src=/f", "id=a,type=vault", "id=a,mode=0400", "id", 'id="a'])
def test_what_is_no_secret(library: FakeLibrary, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert refused(capsys, "--secret", text, ".").startswith("ERROR: ")
    assert library.calls == []


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("default", SshSource("default")),
        ("default=/agent.sock", SshSource("default", ("/agent.sock",))),
        ("work=/a.pem,/b.pem", SshSource("work", ("/a.pem", "/b.pem"))),
    ],
)
def test_ssh(library: FakeLibrary, text: str, source: SshSource) -> None:
    assert asked(library, "--ssh", text)["ssh"] == [source]


def test_what_is_no_ssh(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("", "=x", "a=", "a=b,"):
        assert "--ssh" in refused(capsys, "--ssh", text, ".")


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("out", Output("local", "out")),
        ("-", Output("tar", "-")),
        ("type=local,dest=out", Output("local", "out")),
        ("type=oci,dest=a.tar,compression=zstd", Output("oci", "a.tar", {"compression": "zstd"})),
        ('type=image,"name=a,b",push=true', Output("image", None, {"name": "a,b", "push": "true"})),
        ("type=registry", Output("image", None, {"push": "true"})),
        ("TYPE=tar,dest=-", Output("tar", "-")),
        ("type=cacheonly", Output("cacheonly")),
    ],
)
def test_outputs(library: FakeLibrary, text: str, output: Output) -> None:
    assert asked(library, "-o", text)["outputs"] == [output]


def test_what_is_no_output(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no type" in refused(capsys, "-o", "dest=x,a=b", ".")
    assert "'x' is no key=value pair" in refused(capsys, "-o", "type=oci,x", ".")


def test_archives_are_not_written_to_a_terminal(
    library: FakeLibrary, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "type=tar would write an archive to the terminal" in refused(capsys, "-o", "-", ".")


def test_dockerfile_from_standard_input(library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"FROM scratch\n")))
    request = asked(library, "-f", "-")
    assert (request["file"], request["dockerfile"]) == (None, b"FROM scratch\n")


def test_default_platform_comes_from_the_environment(library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/arm64")
    assert asked(library)["platform"] == "linux/arm64"
    assert asked(library, "--platform", "linux/amd64")["platform"] == "linux/amd64"
    assert asked(library, "--platform", "local")["platform"] == str(host_platform())


@pytest.mark.parametrize(("flag", "value"), [("--host-ca", True), ("--host-ca=/ca", "/ca"), ("--host-ca=false", False)])
def test_host_ca(library: FakeLibrary, flag: str, value: str | bool) -> None:
    assert asked(library, flag)["host_ca"] == value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--platform", "linux/amd64,linux/arm64", "."), "several platforms is not supported yet"),
        (("--provenance=true", "."), "the flag --provenance=true is not supported yet"),
        (("--sbom=mode=max", "."), "the flag --sbom=mode=max is not supported yet"),
        (("--cache-to", "dest=out", "."), "--cache-to: no type is given"),
        (("--cache-from", "type=local,src", "."), "--cache-from: 'src' is no key=value pair"),
        (("--iidfile", "f", "-o", "out", "."), "--iidfile needs an image, but output type=local makes none"),
        (("-f", "-", "-"), "standard input cannot be both the build context and the Dockerfile"),
        (("--no-cache", "--no-cache-filter", "a", "."), "exclude each other"),
        (("-q", "--progress", "plain", "."), "exclude each other"),
        (("--progress", "fancy", "."), "unknown progress mode 'fancy'"),
        (("--build-context", "x", "."), "--build-context: invalid context value: x, expected name=value"),
        (("--annotation", "x", "."), "--annotation"),
        (("--add-host", "x", "."), "--add-host"),
    ],
)
def test_refusals(
    library: FakeLibrary, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    assert message in refused(capsys, *argv)
    assert library.calls == []


def test_quiet_prints_the_image_id_alone(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (("-q",), ("--progress=quiet",)):
        asked(library, *flags)
        assert capsys.readouterr() == (f"{CONFIG_DIGEST}\n", "")


def test_quiet_prints_the_manifest_where_there_is_no_config(
    library: FakeLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    library.answers["build"] = BuildResult("sha256:m", None)
    asked(library, "-q")
    assert capsys.readouterr().out == "sha256:m\n"
    library.answers["build"] = BuildResult(None, None)
    asked(library, "-q")
    assert capsys.readouterr().out == ""


def test_files_with_the_result(library: FakeLibrary, tmp_path: pathlib.Path) -> None:
    iid, metadata = tmp_path / "iid", tmp_path / "meta.json"
    asked(library, "--iidfile", str(iid), "--metadata-file", str(metadata))
    assert iid.read_text() == CONFIG_DIGEST
    assert list(json.loads(metadata.read_text())) == ["containerimage.digest", "image.name"]
    assert metadata.read_text().startswith('{\n  "containerimage')
    assert sorted(os.listdir(tmp_path)) == ["iid", "meta.json"]


def test_an_image_id_of_before_does_not_outlive_a_failure(
    library: FakeLibrary, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    iid = tmp_path / "iid"
    iid.write_text("old")
    library.answers["build"] = fail_step
    refused(capsys, "--iidfile", str(iid), ".")
    assert not iid.exists()


def test_result_file_that_cannot_be_written(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot write /nowhere/x" in refused(capsys, "-q", "--metadata-file", "/nowhere/x", ".")


def fail_step(**request: Any) -> None:
    request["on_event"](VertexEvent("sha256:a", "[build 2/2] RUN false", started=1.0, completed=2.0, error="exit 1"))
    raise StepFailedError(
        'process "/bin/sh -c false" did not complete successfully: exit code: 1',
        exit_code=1,
        step="[build 2/2] RUN false",
        log_tail="last words\n",
        location=SourceRange(SourceText("Dockerfile", "FROM a\nRUN false\n"), 2, 2),
    )


def test_a_failed_step_ends_the_output(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    library.answers["build"] = fail_step
    text = refused(capsys, "--progress=plain", ".")
    assert re.fullmatch(
        r"#1 \[build 2/2\] RUN false\n#1 ERROR: exit 1\n------\n > \[build 2/2\] RUN false:\nlast words\n------\n"
        r"Dockerfile:2\n-{20}\n1 \|     FROM a\n2 \| >>> RUN false\n-{20}\n"
        r'ERROR: failed to build: process "/bin/sh -c false" did not complete successfully: exit code: 1\n',
        text,
    )


def test_with_rawjson_the_log_is_not_repeated(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    library.answers["build"] = fail_step
    lines = refused(capsys, "--progress=rawjson", ".").splitlines()
    assert json.loads(lines[0])["vertexes"][0]["error"] == "exit 1"
    assert "last words" not in "\n".join(lines)
    assert lines[-1].startswith("ERROR: failed to build: process")


def test_debug_adds_a_traceback(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    library.answers["build"] = fail_step
    assert main(["build", "-D", "."]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_canceled_build(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    def cancel(**request: Any) -> None:
        raise CanceledError

    library.answers["build"] = cancel
    assert main(["build", "."]) == 130
    assert capsys.readouterr().err == "ERROR: canceled\n"


def test_ctrl_c_sets_the_cancel_event(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    import signal

    before = signal.getsignal(signal.SIGINT)

    def wait(**request: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert request["cancel"].wait(30)
        raise CanceledError

    library.answers["build"] = wait
    assert main(["build", "."]) == 130
    assert signal.getsignal(signal.SIGINT) is before
