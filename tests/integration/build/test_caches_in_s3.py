"""Caches in an S3 server: moto's, on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from harness import Stagewright
from workbench import Workbench

KEY, SECRET = "access-key-id-of-a-test", "secret-access-key-of-a-test"
START = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of an S3 server with the bucket `caches`."""
    process = subprocess.Popen(
        [sys.executable, "-c", START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
    client(url).create_bucket(Bucket="caches")
    yield url
    process.kill()
    process.wait()


def client(url: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )


def keys(url: str) -> list[str]:
    return [entry["Key"] for entry in client(url).list_objects_v2(Bucket="caches").get("Contents", [])]


def place(url: str, prefix: str) -> str:
    return (
        f"type=s3,bucket=caches,region=us-east-1,prefix={prefix}/,endpoint_url={url},use_path_style=true"
        f",access_key_id={KEY},secret_access_key={SECRET}"
    )


def test_a_cache_with_its_mounts(bench: Workbench, other: Workbench, s3: str) -> None:
    text = """
        FROM busybox
        RUN --mount=type=cache,target=/c echo x >> /c/count && cp /c/count /seen
        RUN echo {} > /last
    """
    bench.dockerfile(text.format("one"))
    where = place(s3, "first")
    bench.build("--cache-to", f"{where},mode=max,mounts=true,name=a;b")
    found = [key for key in keys(s3) if key.startswith("first/")]
    assert {"first/manifests/a", "first/manifests/b"} < set(found)
    assert all(key.startswith(("first/manifests/", "first/blobs/sha256:")) for key in found)
    build = other.build("--cache-from", f"{where},name=b")
    assert build.ran == []
    assert [name for name in os.listdir(other.stagewright.root / "snapshots") if name.isdecimal()] == []
    bench.dockerfile(text.format("two").replace("echo x", "echo y"))
    assert other.files("--cache-from", f"{where},name=b").lines("/seen") == ["x", "y"]


def test_what_is_there_is_not_sent_again(bench: Workbench, s3: str) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1 > /1\n")
    where = place(s3, "again")
    bench.build("--cache-to", where)
    before = {entry["Key"]: entry["LastModified"] for entry in client(s3).list_objects_v2(Bucket="caches")["Contents"]}
    time.sleep(1.1)  # The server tells times in seconds.
    bench.build("--cache-to", where)
    after = {entry["Key"]: entry["LastModified"] for entry in client(s3).list_objects_v2(Bucket="caches")["Contents"]}
    changed = {key for key in after if before.get(key) != after[key]}
    assert changed == {"again/manifests/buildkit"}


def test_prefixes_and_what_was_not_touched_for_long(bench: Workbench, other: Workbench, s3: str) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1 > /1\n")
    where = place(s3, "named") + ",blobs_prefix=b/,manifests_prefix=m/"

    def blobs() -> dict[str, Any]:
        entries = client(s3).list_objects_v2(Bucket="caches")["Contents"]
        return {entry["Key"]: entry["LastModified"] for entry in entries if entry["Key"].startswith("named/b/")}

    bench.build("--cache-to", where)
    before = blobs()
    assert "named/m/buildkit" in keys(s3) and before
    time.sleep(1.1)  # The server tells times in seconds.
    bench.build("--cache-to", where)
    assert blobs() == before
    bench.build("--cache-to", f"{where},touch_refresh=1s,upload_parallelism=1")
    after = blobs()
    assert after.keys() == before.keys()
    assert all(after[key] > before[key] for key in before)
    other.dockerfile("FROM busybox\nRUN echo 1 > /1\nRUN cat /1 > /2\n")
    assert len(other.build("--cache-from", where).ran) == 1


def test_credentials_are_in_no_message(bench: Workbench, s3: str) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1 > /1\n")
    wrong = place(s3, "x").replace("bucket=caches", "bucket=nowhere")
    flags = ("--cache-from", wrong, "--cache-to", f"{wrong},ignore-error=false", "-D")
    build = bench.stagewright.build(bench.context, *flags, check=False)
    assert build.status == 1
    assert "could not be exported to s3://nowhere/x/manifests/buildkit" in build.stderr
    shown = build.stdout + build.stderr
    assert SECRET not in shown and KEY not in shown
    for path in bench.stagewright.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert SECRET.encode() not in path.read_bytes()


def test_a_bucket_from_the_environment_and_a_server_that_is_gone(bench: Workbench, stagewright: Stagewright) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1 > /1\n")
    env = {"AWS_BUCKET": "b", "AWS_REGION": "r", "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    env["AWS_MAX_ATTEMPTS"] = "1"
    flags = ("--cache-from", "type=s3,endpoint_url=http://127.0.0.1:9")
    build = bench.build(*flags, env=env)
    assert len(build.ran) == 2
    assert SECRET not in build.stderr
