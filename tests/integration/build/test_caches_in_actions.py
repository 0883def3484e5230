"""Caches in the cache service of GitHub Actions, by both versions of its interface."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest
from actions_cache import ActionsCache, token
from harness import Stagewright, files_holding
from registry_servers import Handler, ScriptedServer
from workbench import Workbench

from stagewright.registry.http import HttpClient
from stagewright.travel.ghaservice import CacheService, ServiceV1, ServiceV2

MAIN = token(("refs/heads/main", 3))
BRANCH = token(("refs/heads/branch", 3), ("refs/heads/main", 1))
TEXT = """
    FROM busybox
    RUN --mount=type=cache,target=/c echo x >> /c/count && cp /c/count /seen
    RUN head -c 100000 /dev/urandom > /random
    RUN echo {} > /last
"""


@pytest.fixture
def service() -> Iterator[ActionsCache]:
    made = ActionsCache()
    yield made
    made.close()


def place(service: ActionsCache, version: int, job: str = MAIN) -> str:
    return f"type=gha,version={version},{'url_v2' if version == 2 else 'url'}={service.url},token={job}"


@pytest.mark.parametrize("version", [1, 2])
def test_a_cache_with_its_mounts(bench: Workbench, other: Workbench, service: ActionsCache, version: int) -> None:
    bench.dockerfile(TEXT.format("one"))
    where = place(service, version)
    bench.build("--cache-to", f"{where},mode=max,mounts=true")
    assert all(key.startswith(("buildkit-blob-1-sha256:", "index-buildkit-1-")) for key in service.uploads)
    assert service.uploads[-1].endswith("#1")
    build = other.build("--cache-from", where)
    assert build.ran == []
    assert [name for name in (other.stagewright.root / "snapshots").iterdir() if name.name.isdecimal()] == []
    bench.dockerfile(TEXT.format("two").replace("echo x", "echo y"))
    service.broken = 2
    assert other.files("--cache-from", where).lines("/seen") == ["x", "y"]


@pytest.mark.parametrize("version", [1, 2])
def test_only_the_index_is_written_again(bench: Workbench, service: ActionsCache, version: int) -> None:
    bench.dockerfile(TEXT.format("one"))
    bench.build("--cache-to", place(service, version))
    service.uploads.clear()
    bench.build("--cache-to", place(service, version))
    assert [key.rpartition("#")[2] for key in service.uploads] == ["2"]


def test_a_branch_finds_what_the_default_branch_has(bench: Workbench, other: Workbench, service: ActionsCache) -> None:
    bench.dockerfile(TEXT.format("main"))
    bench.build("--cache-to", place(service, 2))
    bench.dockerfile(TEXT.format("branch"))
    build = other.build("--cache-from", place(service, 2, BRANCH), "--cache-to", place(service, 2, BRANCH))
    assert [name.partition("] ")[2] for name in build.ran] == ["RUN echo branch > /last"]
    assert {entry.scope for entry in service.entries if entry.key.startswith("index-")} == {
        "refs/heads/main",
        "refs/heads/branch",
    }


@pytest.mark.parametrize("kind", [ServiceV1, ServiceV2])
def test_a_large_blob_goes_in_pieces(service: ActionsCache, kind: type[CacheService]) -> None:
    content = os.urandom(1 << 20) * 70
    client = HttpClient({}, {})
    cache = kind(lambda: client, service.url, MAIN)
    assert cache.save("large", lambda: io.BytesIO(content), len(content), None)
    assert not cache.save("large", lambda: io.BytesIO(content), len(content), None)
    found = cache.find("lar", None)
    assert found is not None and found.key == "large"
    assert b"".join(cache.read(found, None)) == content
    assert cache.find("other", None) is None
    client.close()


def test_scopes_keep_caches_apart(bench: Workbench, other: Workbench, service: ActionsCache) -> None:
    bench.dockerfile(TEXT.format("one"))
    bench.build("--cache-to", place(service, 1) + ",scope=a")
    assert len(other.build("--cache-from", place(service, 1) + ",scope=b").ran) == 4


def test_a_list_of_keys_takes_the_place_of_many_questions(bench: Workbench, service: ActionsCache) -> None:
    bench.dockerfile(TEXT.format("one"))
    where = f"{place(service, 2)},mode=max,ghtoken={service.api_token},repository=owner/name"
    env = {"GITHUB_API_URL": service.url}
    bench.build("--cache-to", where, env=env)
    uploads = len(service.uploads)
    service.asked.clear()
    build = bench.build("--cache-to", where, env=env)
    assert len(service.uploads) == uploads + 1  # The record.
    assert [path for path in service.asked if "/repos/" in path] == ["/repos/owner/name/actions/caches"]
    assert sum("GetCacheEntryDownloadURL" in path for path in service.asked) == 1
    wrong = where.replace(service.api_token, "wrong-token-of-a-test")
    output = bench.fail("--cache-to", f"{wrong},ignore-error=false", env=env)
    assert "GitHub's list of caches" in output and "denied access" in output
    assert "wrong-token" not in output + build.stderr and service.api_token not in build.stderr
    for secret in (service.api_token, "wrong-token-of-a-test", MAIN):
        assert files_holding(secret.encode(), bench.stagewright.root) == []


def test_a_service_that_takes_too_long(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1 > /1\n")

    def again(handler: Handler) -> None:
        handler.reply(503, Retry_After="60")

    slow = ScriptedServer()
    slow.on("* /.*", again)
    where = f"type=gha,url={slow.url},token={MAIN},timeout=300ms"
    build = bench.build("--cache-from", where)
    output = bench.fail("--cache-to", f"{where},ignore-error=false")
    slow.stop()
    assert "cache service: it takes longer than 0.3 seconds" in output
    assert build.warned == "the cache GitHub Actions (buildkit) is not used: there is no answer within 0.3 seconds"


def test_what_a_job_has_in_its_environment(bench: Workbench, other: Workbench, service: ActionsCache) -> None:
    bench.dockerfile(TEXT.format("one"))
    job = {"ACTIONS_RESULTS_URL": service.url, "ACTIONS_CACHE_SERVICE_V2": "True", "ACTIONS_RUNTIME_TOKEN": MAIN}
    bench.build("--cache-to", "type=gha", env=job)
    assert other.build("--cache-from", "type=gha", env=job).ran == []
    assert any("CacheService" in path for path in service.asked)


def test_whoever_is_no_job_does_without(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1 > /1\n")
    env = {"ACTIONS_RESULTS_URL": "", "ACTIONS_CACHE_URL": "", "ACTIONS_RUNTIME_TOKEN": ""}
    build = bench.build("--cache-from", "type=gha", "--cache-to", "type=gha,mode=max", env=env)
    assert build.warned.splitlines() == [
        "a cache is left out: --cache-from type=gha needs url=... or $ACTIONS_CACHE_URL",
        "a cache is left out: --cache-to type=gha needs url=... or $ACTIONS_CACHE_URL",
    ]
    done = bench.stagewright.run("cache", "mounts", "import", "type=gha", check=False, env=env)
    assert done.returncode == 1
    assert "type=gha needs url=... or $ACTIONS_CACHE_URL" in done.stderr


def test_the_token_is_in_no_message(bench: Workbench, stagewright: Stagewright, service: ActionsCache) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1 > /1\n")
    read_only = token(("refs/heads/main", 1))
    output = bench.fail("--cache-to", place(service, 2, read_only) + ",ignore-error=false")
    assert "GitHub Actions (buildkit): cache service: the token of this job may not write" in output
    assert read_only not in output
    service.close()
    build = bench.build("--cache-from", place(service, 2), "--no-cache")
    assert MAIN not in build.stderr
