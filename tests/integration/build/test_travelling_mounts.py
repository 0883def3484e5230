"""Cache mounts that travel: exported with a cache, brought back on a machine that has nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from counting_proxy import CountingProxy
from harness import Stagewright, package_flags
from package_index import PackageIndex
from workbench import Workbench

COUNTER = """
    FROM busybox
    RUN --mount=type=cache,target=/c echo x >> /c/count && wc -l < /c/count > /seen
    RUN --mount=type=cache,id=other,target=/o,uid=1000,mode=0750 touch /o/file
    RUN --mount=type=cache,id=unused,target=/u true
"""


def mounts(stagewright: Stagewright) -> list[str]:
    lines = stagewright.run("cache", "mounts", "ls", "--format=json").stdout.splitlines()
    return [re.sub("@.*", "@", json.loads(line)["ID"]) for line in lines]


@pytest.mark.parametrize("kind", ["local", "registry"])
def test_a_cache_brings_its_mounts(bench: Workbench, other: Workbench, registry: str, kind: str) -> None:
    place = f"type=local,{{}}={bench.scratch / 'cache'}" if kind == "local" else f"type=registry,ref={registry}/mounts"
    bench.dockerfile(COUNTER)
    bench.build("--cache-to", place.format("dest") + ",mounts=true")
    assert mounts(bench.stagewright) == ["/c", "other@", "unused"]
    # Nothing runs: no mount is needed, and none is fetched; all are passed on.
    passed_on = bench.scratch / "passed-on"
    flags = ("--cache-from", place.format("src"))
    assert other.build(*flags, "--cache-to", f"type=local,dest={passed_on},mounts=true").ran == []
    assert mounts(other.stagewright) == []
    bench.dockerfile(COUNTER.replace("echo x", "echo y"))
    files = other.files("--cache-from", f"type=local,src={passed_on}")
    assert files.text("/seen") == "2\n"


def test_only_what_is_new_is_written(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    text = """
        FROM busybox
        RUN --mount=type=cache,target=/c test -e /c/large || head -c 3000000 /dev/urandom > /c/large
        RUN --mount=type=cache,target=/c echo {} > /c/{}
    """
    bench.dockerfile(text.format("a", "a"))
    bench.build("--cache-to", f"type=local,dest={cache},mounts=true")
    before = {path: path.stat().st_size for path in (cache / "blobs" / "sha256").iterdir()}
    bench.dockerfile(text.format("b", "b"))
    place = ("--cache-from", f"type=local,src={cache}", "--cache-to", f"type=local,dest={cache},mounts=true")
    other.build(*place)
    new = [path.stat().st_size for path in (cache / "blobs" / "sha256").iterdir() if path not in before]
    assert new and sum(new) < 20_000


def test_named_mounts_and_those_that_are_missing(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    bench.dockerfile(COUNTER)
    build = bench.build("--cache-to", f"type=local,dest={cache},mount=other,mount=nowhere")
    assert "bm93aGVyZS" in build.stderr or "nowhere" in build.stderr
    imported = other.stagewright.run("cache", "mounts", "import", f"type=local,src={cache}").stdout
    assert re.sub("@.*", "@", imported) == "other@\n"


def test_a_damaged_cache_leaves_a_mount_empty(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/c head -c 100000 /dev/urandom > /c/file\n")
    bench.build("--cache-to", f"type=local,dest={cache},mounts=true")
    for path in (cache / "blobs" / "sha256").iterdir():
        if 100_000 <= path.stat().st_size < 101_000:
            path.write_bytes(bytes(path.stat().st_size))
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/c ls /c > /seen\n")
    assert other.files("--cache-from", f"type=local,src={cache}").text("/seen") == ""


def test_mounts_alone(bench: Workbench, other: Workbench) -> None:
    bench.dockerfile(COUNTER)
    bench.build()
    place = f"type=local,dest={bench.scratch / 'mounts'}"
    bench.stagewright.run("cache", "mounts", "export", place, "/c", "other")
    source = place.replace("dest", "src")
    imported = other.stagewright.run("cache", "mounts", "import", source, "/c").stdout
    assert imported == "/c\n"
    other.stagewright.run("cache", "mounts", "import", source)
    assert mounts(other.stagewright) == ["/c", "other@"]
    again = other.stagewright.run("cache", "mounts", "import", source)
    assert again.stdout == "" and "is here already" in again.stderr
    assert other.files().text("/seen") == "2\n"
    assert other.stagewright.run("cache", "mounts", "rm", "/c").stdout == "/c\n"
    assert mounts(other.stagewright) == ["other@", "unused"]
    refused = other.stagewright.run("cache", "mounts", "rm", "/c", check=False)
    assert refused.returncode == 1 and "there is no cache mount /c" in refused.stderr


def test_mounts_keep_owners_and_modes(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    text = "FROM busybox\nRUN --mount=type=cache,target=/c {}\n"
    make = "mkdir -m 0750 /c/d && echo 1 > /c/d/f && chown -R 12:34 /c/d && chmod 4711 /c/d/f && ln -s d /c/l"
    bench.dockerfile(text.format(f"{make} && touch -h -t 202001020304.05 /c/l /c/d/f /c/d"))
    bench.build("--cache-to", f"type=local,dest={cache},mounts=true")
    bench.dockerfile(text.format("stat -c '%n %a %u:%g %Y' /c/d /c/d/f /c/l > /seen"))
    seen = other.files("--cache-from", f"type=local,src={cache}").lines("/seen")
    assert [line.split()[:3] for line in seen] == [
        ["/c/d", "750", "12:34"],
        ["/c/d/f", "4711", "12:34"],
        ["/c/l", "777", "0:0"],
    ]
    assert {line.split()[3] for line in seen} == {"1577934245"}


def test_mounts_keep_extended_attributes(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    look = (
        "import os; names = [n for n in sorted(os.listxattr('/c/f')) if 'stagewright' not in n];"
        " print([(n, os.getxattr('/c/f', n)) for n in names], os.getxattr('/c/d', 'user.of'))"
    )
    # CAP_NET_RAW, permitted and effective.
    capability = "0100000200200000000000000000000000000000"
    make = (
        "import os; os.mkdir('/c/d'); open('/c/f', 'w').close(); os.chown('/c/f', 7, 8);"
        " os.setxattr('/c/f', 'user.note', bytes(range(256))); os.setxattr('/c/d', 'user.of', b'');"
        f" os.setxattr('/c/f', 'security.capability', bytes.fromhex('{capability}'))"
    )
    text = "FROM python:3.13-slim\nRUN --mount=type=cache,target=/c python3 -c \"{}\" > /seen\n"
    bench.dockerfile(text.format(make))
    bench.build("--cache-to", f"type=local,dest={cache},mounts=true")
    bench.dockerfile(text.format(look))
    assert other.files("--cache-from", f"type=local,src={cache}").text("/seen") == (
        f"{[('security.capability', bytes.fromhex(capability)), ('user.note', bytes(range(256)))]} b''\n"
    )


@pytest.fixture
def proxy() -> Iterator[CountingProxy]:
    made = CountingProxy()
    yield made
    made.close()


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    made = PackageIndex()
    yield made
    made.close()


PIP = """
    FROM python:3.13-slim
    ARG INDEX
    RUN --mount=type=cache,target=/root/.cache/pip \\
        pip install --index-url=$INDEX --trusted-host=127.0.0.1 --target /site flask==3.0.3 && : {}
"""
UV = """
    FROM python:3.13-slim
    ARG INDEX
    COPY --from=ghcr.io/astral-sh/uv:latest /uv /bin/
    RUN --mount=type=cache,target=/root/.cache/uv \\
        uv pip install --link-mode=copy --default-index=$INDEX --target /site flask==3.0.3 && : {}
"""
NPM = """
    FROM node:22-slim
    RUN --mount=type=cache,target=/root/.npm --mount=type=secret,id=npmrc,target=/root/.npmrc \\
        npm install --prefer-offline --no-audit --no-fund --prefix /app is-odd@3.0.1 && : {}
"""
APT = """
    FROM debian:trixie-slim
    RUN --mount=type=cache,target=/var/cache/apt --mount=type=cache,target=/var/lib/apt/lists \\
        --mount=type=secret,id=apt.conf,target=/etc/apt/apt.conf.d/90machine \\
        rm -f /etc/apt/apt.conf.d/docker-clean; ls /var/lib/apt/lists/*Packages* > /dev/null 2>&1 || apt-get update; \\
        apt-get install -y --no-install-recommends tree && : {}
"""


def on_two_machines(bench: Workbench, other: Workbench, text: str, *flags: object) -> Iterator[None]:
    """Run a step here, and on a machine that is empty but for what travels; the step differs, so that it has to run."""
    cache = bench.scratch / "cache"
    for machine, word, place in (
        (bench, "first", ("--cache-to", f"type=local,dest={cache},mounts=true")),
        (other, "second", ("--cache-from", f"type=local,src={cache}")),
    ):
        bench.dockerfile(text.format(word))
        build = machine.build("--network=host", *flags, *place)
        assert any(f": {word}" in name for name in build.ran)
        yield


@pytest.mark.parametrize("text", [PIP, UV], ids=["pip", "uv"])
def test_a_second_machine_downloads_no_python_package(
    bench: Workbench, other: Workbench, index: PackageIndex, text: str
) -> None:
    builds = on_two_machines(bench, other, text, f"--build-arg=INDEX={index.url}/")
    next(builds)
    assert any(name.startswith("flask") for name in index.packages)
    without = index.received
    index.reset()
    next(builds)
    print(f"{without} bytes without mounts, {index.received} with")
    # pip asks whether its index pages are as they were; the answer has no body.
    assert (index.packages, index.received) == ([], 0)


@pytest.mark.parametrize("text", [NPM, APT], ids=["npm", "apt"])
def test_a_second_machine_downloads_no_package(
    bench: Workbench, other: Workbench, proxy: CountingProxy, text: str
) -> None:
    flags = list(package_flags(bench.scratch / "settings"))
    flags += [f"--build-arg={name}={proxy.url}" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")]
    builds = on_two_machines(bench, other, text, *flags)
    next(builds)
    without = proxy.received
    assert without > 5_000
    proxy.reset()
    next(builds)
    print(f"{without} bytes without mounts, {proxy.received} with")
    assert (proxy.received, proxy.hosts) == (0, [])
