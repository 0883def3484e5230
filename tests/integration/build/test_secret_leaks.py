"""Steps, contexts and arguments that let a secret out: the build fails, says where, and keeps nothing of it."""

from __future__ import annotations

import base64
import json
import sqlite3

import pytest
from harness import files_holding
from workbench import Workbench

import stagewright
from stagewright.api import Output, SecretSource
from stagewright.errors import SecretLeakError
from stagewright.progress.events import Event

SECRET = "t0p/secret+value 4711?"
OTHER = "an0ther-secret-0815"
MOUNT = "RUN --mount=type=secret,id=token"


@pytest.fixture
def flags(shared_bench: Workbench) -> tuple[str, ...]:
    """The flags that give the secret `token`, whose file ends with a line feed."""
    path = shared_bench.scratch / "secret"
    path.write_text(f"{SECRET}\n")
    return ("--secret", f"id=token,src={path}")


def assert_leak(text: str, *words: str) -> None:
    """The message names the secret and what the words are, and the secret's value is in no form in it."""
    assert [word for word in ("secret token leaks", *words) if word not in text] == []
    assert SECRET not in text
    assert base64.b64encode(SECRET.encode()).decode() not in text


@pytest.mark.parametrize(
    ("command", "places"),
    [
        ("cp /run/secrets/token /copy", ["/copy"]),
        ("tr -d '\\n' < /run/secrets/token > /bare", ["/bare"]),
        ("mkdir /d && cp /run/secrets/token /d/one && ln /d/one /d/two", ["/d/one"]),
        ("echo user:$(cat /run/secrets/token) | base64 > /encoded", ["/encoded (base64)"]),
        ("base64 -w 10 /run/secrets/token | tr -d '\\n' | tr '+/' '-_' > /url-alphabet", ["/url-alphabet (base64)"]),
        ("od -An -v -tx1 /run/secrets/token | tr -d ' \\n' > /digits", ["/digits (hex)"]),
        ("sed 's,/,%2F,; s,+,%2b,; s, ,%20,; s,?,%3F,' /run/secrets/token > /url", ["/url (URL-encoded)"]),
        ('touch "/named $(tr / _ < /run/secrets/token | base64)"', []),
        ('mkdir -p "/$(cat /run/secrets/token)"', ["the name of /***"]),
        ('ln -s "$(cat /run/secrets/token)" /link', ["the target of the link /link"]),
        ("cp /run/secrets/token /run/left", ["/run/left"]),
        ("dd if=/dev/zero of=/big bs=1M count=3 && cat /run/secrets/token >> /big", ["/big"]),
        ("truncate -s 100G /sparse && cat /run/secrets/token >> /sparse", ["/sparse"]),
    ],
)
def test_what_a_step_leaves(shared_bench: Workbench, flags: tuple[str, ...], command: str, places: list[str]) -> None:
    shared_bench.dockerfile(f"FROM busybox AS build\n{MOUNT} {command}\nFROM busybox\n")
    if not places:
        shared_bench.build("--target=build", *flags)
        return
    assert_leak(shared_bench.fail("--target=build", *flags), "Dockerfile:2", "[build 2/2] RUN", *places)


def test_nothing_is_kept_of_a_step_that_leaks(bench: Workbench) -> None:
    bench.dockerfile(f"FROM busybox\n{MOUNT} cp /run/secrets/token /copy\n")
    given = ("--secret", "id=token")
    for _ in range(2):
        assert_leak(bench.fail(*given, env={"token": SECRET}), "/copy")
        assert files_holding(SECRET.encode(), bench.scratch) == []
    database = sqlite3.connect(bench.stagewright.root / "metadata.db")
    assert [name for (name,) in database.execute("SELECT name FROM cache_results") if "RUN" in name] == []
    database.close()


def test_a_variable_leaks_as_well(shared_bench: Workbench, flags: tuple[str, ...]) -> None:
    shared_bench.dockerfile(f"FROM busybox\n{MOUNT},env=TOKEN env > /environment\n")
    assert_leak(shared_bench.fail(*flags), "/environment", "Dockerfile:2")


def test_an_attribute_leaks_as_well(shared_bench: Workbench, flags: tuple[str, ...]) -> None:
    shared_bench.write("set.py", "import os; os.setxattr('/etc', 'user.note', open('/run/secrets/token', 'rb').read())")
    shared_bench.dockerfile(f"FROM python:3.13-slim\nCOPY set.py /\n{MOUNT} python3 /set.py\n")
    assert_leak(shared_bench.fail(*flags), "the attribute user.note of /etc", "Dockerfile:3")


def test_steps_that_leave_nothing_pass(shared_bench: Workbench, flags: tuple[str, ...]) -> None:
    shared_bench.dockerfile(f"""
        FROM busybox
        {MOUNT} --mount=type=tmpfs,target=/scratch --mount=type=cache,target=/cache \\
            cp /run/secrets/token /scratch/ && cp /run/secrets/token /cache/ && rm /cache/token
        {MOUNT} cp /run/secrets/token /copy && wc -c /copy > /size && rm /copy
    """)
    assert shared_bench.build(*flags).ran != []
    assert shared_bench.build(*flags).ran == []


def test_a_stage_that_is_not_exported_must_not_leak_either(shared_bench: Workbench, flags: tuple[str, ...]) -> None:
    shared_bench.dockerfile(f"""
        FROM busybox AS build
        {MOUNT} cat /run/secrets/token > /leak; echo 1 > /result
        FROM busybox
        COPY --from=build /result /
    """)
    assert_leak(shared_bench.fail(*flags), "/leak", "Dockerfile:2")


@pytest.mark.parametrize("first", ["warn", "off"])
def test_what_was_let_pass_once_does_not_pass_silently(
    shared_bench: Workbench, flags: tuple[str, ...], first: str
) -> None:
    shared_bench.dockerfile(f"""
        FROM busybox AS build
        {MOUNT} echo {first}; cat /run/secrets/token > /leak; echo 1 > /result
        FROM busybox
        COPY --from=build /result /{first}
    """)
    let_pass = shared_bench.build(*flags, f"--secret-leak={first}")
    assert let_pass.ran != []
    assert warnings(let_pass.stderr) == ([] if first == "off" else [(4 - 2, "/leak")])
    without_value = shared_bench.fail()
    assert [word for word in ("secret token", "Dockerfile:2") if word not in without_value] == []
    if first == "off":
        assert "may leak" in without_value
        assert "give the secret token once more" in without_value
    assert_leak(shared_bench.fail(*flags), "/leak", "Dockerfile:2")
    assert_leak(shared_bench.fail(), "/leak")
    again = shared_bench.build(*flags, "--secret-leak=warn")
    assert again.ran == []
    assert warnings(again.stderr) == [(2, "/leak")]
    assert shared_bench.build("--secret-leak=off").ran == []


def warnings(text: str) -> list[tuple[int, str]]:
    """The line and the place that each warning about a secret in a stream of events names."""
    found = []
    for line in text.splitlines():
        for event in json.loads(line).get("warnings") or () if line.startswith("{") else ():
            short = base64.b64decode(event["short"]).decode()
            if short.startswith("secret "):
                assert_leak(short)
                found.append((event["range"][0]["start"]["line"], short.rpartition(" in ")[2]))
    return found


def test_what_was_never_searched_is_searched_when_it_is_clean(shared_bench: Workbench, flags: tuple[str, ...]) -> None:
    shared_bench.dockerfile(f"FROM busybox\n{MOUNT} wc -c < /run/secrets/token > /only-its-size\n")
    shared_bench.build(*flags, "--secret-leak=off")
    assert "may leak" in shared_bench.fail()
    searched = shared_bench.build(*flags)
    assert searched.has_step("searching the image's files")
    assert searched.ran == []
    assert not shared_bench.build(*flags).has_step("searching the image's files")
    shared_bench.build()


def test_a_file_of_the_context(shared_bench: Workbench, flags: tuple[str, ...]) -> None:
    shared_bench.write("app/.env", f"TOKEN={SECRET}\n")
    shared_bench.dockerfile("FROM busybox\nRUN echo context > /first\nCOPY app /app\nRUN touch /last\n")
    shared_bench.build()
    for output in ("local", "tar", "oci", "docker"):
        target = shared_bench.scratch / output
        assert_leak(shared_bench.fail(*flags, "-o", f"type={output},dest={target}"), "/app/.env", "Dockerfile:3")
        assert not target.exists()
    assert_leak(shared_bench.fail(*flags, "-t", "leaking", "-o", "type=image"), "/app/.env")
    assert "leaking" not in shared_bench.stagewright.run("images").stdout


def test_another_value_of_the_secret_is_another_search(shared_bench: Workbench) -> None:
    shared_bench.write("file", f"{SECRET}\n{OTHER}")
    shared_bench.dockerfile("FROM busybox\nCOPY file /values\n")
    shared_bench.build("--secret", "id=rotated", env={"rotated": "nothing-of-that-kind"})
    assert "/values" in shared_bench.fail("--secret", "id=rotated", env={"rotated": OTHER})


def test_a_file_that_a_base_image_had_is_no_leak_of_this_build(shared_bench: Workbench) -> None:
    shared_bench.dockerfile("FROM busybox\nRUN grep -q root:x:0 /etc/passwd\n")
    build = shared_bench.build("--secret", "id=known", env={"known": "root:x:0:0"})
    assert build.ran != []


@pytest.mark.parametrize(
    ("lines", "more", "words"),
    [
        (["ARG VALUE", "RUN true"], ["--build-arg", "VALUE=$"], ["history[", "Dockerfile:", "build argument VALUE"]),
        (["ARG VALUE", "ENV KEY=x${VALUE}y"], ["--build-arg", "VALUE=$"], ["config.Env[", "Dockerfile:2"]),
        ([f'LABEL note="{SECRET}"'], [], ["config.Labels.note", "Dockerfile:2", 'note="***"']),
        (["RUN true"], ["--label", "note=$"], ["config.Labels.note"]),
        (["RUN true"], ["--annotation", "note=$", "-o", "type=image"], ["annotation note"]),
        (["RUN true"], ["-o", "type=image,annotation.note=$"], ["annotation annotation.note"]),
        ([f'CMD echo "{base64.b64encode(SECRET.encode()).decode()}"'], [], ["config.Cmd[2] (base64)", "Dockerfile:2"]),
    ],
)
def test_the_config(
    shared_bench: Workbench, flags: tuple[str, ...], lines: list[str], more: list[str], words: list[str]
) -> None:
    shared_bench.dockerfile("\n".join(["FROM busybox", *lines]))
    given = [flag.replace("$", SECRET) for flag in more]
    assert_leak(shared_bench.fail(*flags, *given), *words)
    passed = shared_bench.build(*flags, *given, "--secret-leak=warn")
    assert SECRET not in passed.stderr
    database = sqlite3.connect(shared_bench.stagewright.root / "metadata.db")
    assert [row for row in database.execute("SELECT name FROM cache_results") if SECRET in row[0]] == []
    database.close()


def test_an_argument_that_the_image_does_not_hold(shared_bench: Workbench, flags: tuple[str, ...]) -> None:
    shared_bench.dockerfile("""
        FROM busybox AS build
        ARG VALUE
        RUN touch /file
        FROM busybox
        COPY --from=build /file /
    """)
    build = shared_bench.build(*flags, "--build-arg", f"VALUE={SECRET}")
    assert SECRET not in build.stderr


def test_a_very_short_secret_is_named_once(shared_bench: Workbench) -> None:
    shared_bench.dockerfile("FROM busybox\nRUN --mount=type=secret,id=pin cp /run/secrets/pin /pin\n")
    build = shared_bench.build("--secret", "id=pin", env={"pin": "12345"})
    shorts = [
        base64.b64decode(event["short"]).decode()
        for line in build.stderr.splitlines()
        for event in json.loads(line).get("warnings", ())
    ]
    shorts = [short for short in shorts if short.startswith("secret ")]
    assert shorts == ["secret pin is not searched for: values of less than 6 bytes turn up by chance"]


@pytest.mark.parametrize("runtime", [(), ("--oci-runtime", "runc")])
def test_the_other_runtime_and_every_display_mask(
    shared_bench: Workbench, flags: tuple[str, ...], runtime: tuple[str, ...]
) -> None:
    shared_bench.dockerfile(f"""
        FROM busybox
        {MOUNT},env=TOKEN set -x; : {len(runtime)}; for part in $(seq 5); do \\
            echo "value=$TOKEN." | base64; cat /run/secrets/token >&2; \\
            printf 't0p/secret+va'; sleep 0.05; printf 'lue 4711? and on'; done; exit 9
    """)
    pieces = (SECRET, base64.b64encode(f"value={SECRET}.".encode()).decode()[10:-6])
    for mode in ("plain", "rawjson", "quiet"):
        done = shared_bench.stagewright.run(
            "build", f"--progress={mode}", "-D", "--no-cache", *flags, *runtime, shared_bench.context, check=False
        )
        assert "exit code: 9" in done.stderr
        assert [piece for piece in pieces if piece in done.stdout + done.stderr] == []
        log = done.stderr if mode != "rawjson" else decoded_logs(done.stderr)
        assert "*** and on" in log
        assert [piece for piece in pieces if piece in log] == []


def decoded_logs(text: str) -> str:
    events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return "".join(base64.b64decode(log["data"]).decode() for event in events for log in event.get("logs", ()))


def test_credentials_in_urls(shared_bench: Workbench) -> None:
    """Those of a proxy, in what a step prints; those that the Dockerfile has, in names, the history and the store."""
    bench = shared_bench
    bench.dockerfile("""
        FROM busybox
        ARG http_proxy
        RUN echo through $http_proxy and ${http_proxy#*:}
        RUN echo https://me:pass-word-in-a-file@host/ > /dev/null
    """)
    proxy = ["--build-arg", "http_proxy=http://me:pass-word-of-proxy@127.0.0.1:1"]
    archive = bench.scratch / "image.tar"
    build = bench.build(*proxy, "-t", "urls", "-o", f"type=oci,dest={archive}", "-o", "type=image")
    assert b"through http://me:***@127.0.0.1:1 and //me:***@127.0.0.1:1" in build.log
    history = bench.stagewright.run("inspect", "urls").stdout
    assert "https://***@host/" in history
    assert "http_proxy=http://***@127.0.0.1:1" in history
    bench.dockerfile("FROM busybox\nRUN exit 7 https://me:pass-word-in-a-file@host/\n")
    failed = bench.fail(*proxy)
    assert "RUN exit 7 https://***@host/" in failed
    texts = build.stderr + build.stdout + build.log.decode() + history + failed
    assert "pass-word" not in texts
    assert files_holding(b"pass-word", bench.scratch) == [bench.context / "Dockerfile"]
    assert files_holding(b"pass-word", bench.stagewright.root) == []


def test_the_library(shared_bench: Workbench) -> None:
    bench = shared_bench
    bench.dockerfile(f"FROM busybox\n{MOUNT} cat /run/secrets/token; cp /run/secrets/token /library\n")
    events: list[Event] = []
    where = {"root": bench.stagewright.root, "config": bench.stagewright.config, "outputs": [Output("cacheonly")]}
    secrets = [SecretSource("token", data=SECRET.encode())]
    with pytest.raises(SecretLeakError) as caught:
        stagewright.build(bench.context, secrets=secrets, on_event=events.append, **where)  # type: ignore[arg-type]
    error = caught.value
    assert (error.secret, error.places) == ("token", ("/library",))
    assert "RUN" in error.step
    assert error.location is not None and error.location.start == 2
    assert_leak(error.render(), "Dockerfile:2", "/library", "hint: ")
    assert SECRET not in repr(events)
    result = stagewright.build(bench.context, secrets=secrets, secret_leak="warn", **where)  # type: ignore[arg-type]
    leaks = [warning.short for warning in result.warnings if warning.short.startswith("secret ")]
    assert [short.rpartition(" in ")[2] for short in leaks] == ["/library"]
