"""Caches that travel: exported by one state directory, imported into an empty one."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from harness import Stagewright, is_collected, output_of
from registry_servers import Handler, Script, ScriptedServer, make_image
from workbench import Workbench

APP = """
    FROM busybox AS tools
    RUN echo tool > /tool && cat /proc/sys/kernel/random/uuid > /made
    FROM busybox
    WORKDIR /app
    COPY requirements.txt .
    RUN echo installing && cp requirements.txt installed && cat /proc/sys/kernel/random/uuid > /when
    COPY --from=tools /tool /tool
    COPY app.py .
    RUN echo compiling && cp app.py compiled
"""


def app(bench: Workbench) -> Workbench:
    bench.dockerfile(APP)
    bench.write("requirements.txt", "a==1\n")
    bench.write("app.py", "print(1)\n")
    return bench


def snapshots_on_disk(stagewright: Stagewright) -> int:
    return sum(name.name.isdecimal() for name in (stagewright.root / "snapshots").iterdir())


def layer_bytes(stagewright: Stagewright, manifest_of: Path) -> int:
    """How many bytes of the layers of the cache in a folder are in the store."""
    index = json.loads((manifest_of / "index.json").read_text())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((manifest_of / "blobs" / "sha256" / digest).read_text())
    blobs = stagewright.root / "content" / "blobs" / "sha256"
    layers = [layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]
    return sum((blobs / layer).stat().st_size for layer in layers if (blobs / layer).exists())


def missing(stagewright: Stagewright, image: str) -> int:
    """How many layers of an image are not in the store."""
    layers = json.loads(stagewright.run("inspect", image).stdout)[0]["layers"]
    blobs = stagewright.root / "content" / "blobs" / "sha256"
    return sum(not (blobs / layer["digest"][7:]).exists() for layer in layers)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_empty_machine_finds_all_in_a_local_cache(bench: Workbench, other: Workbench, mode: str) -> None:
    cache = bench.scratch / "cache"
    app(bench).build("--cache-to", f"type=local,dest={cache},mode={mode}")
    build = other.build("--cache-from", f"type=local,src={cache}")
    assert build.ran == []
    assert snapshots_on_disk(other.stagewright) == 0
    assert layer_bytes(other.stagewright, cache) == 0


def test_a_missed_step_fetches_what_it_stands_on(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    when = app(bench).files("--cache-to", f"type=local,dest={cache}").text("/when")
    bench.write("app.py", "print(2)\n")
    build = other.build("--cache-from", f"type=local,src={cache}")
    assert [name.split("]")[1] for name in build.ran] == [" COPY app.py .", " RUN echo compiling && cp app.py compiled"]
    files = other.files("--cache-from", f"type=local,src={cache}")
    assert files.text("/when") == when
    assert files.text("/app/compiled") == "print(2)\n"


def test_the_image_is_the_same_one(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    first, second = bench.scratch / "1.tar", bench.scratch / "2.tar"
    app(bench).build("-o", f"type=oci,dest={first}", "--cache-to", f"type=local,dest={cache}")
    build = other.build("-o", f"type=oci,dest={second}", "--cache-from", f"type=local,src={cache}")
    assert build.ran == []
    assert snapshots_on_disk(other.stagewright) == 0
    assert first.read_bytes() == second.read_bytes()


def test_a_cache_is_the_same_bytes_each_time(bench: Workbench, other: Workbench) -> None:
    one, two, three = (bench.scratch / name for name in ("one", "two", "three"))
    app(bench).build("--cache-to", f"type=local,dest={one},mode=max", "--cache-to", f"type=local,dest={two},mode=max")
    other.build("--cache-from", f"type=local,src={one}", "--cache-to", f"type=local,dest={three},mode=max")
    indexes = [(folder / "index.json").read_bytes() for folder in (one, two, three)]
    assert indexes[0] == indexes[1] == indexes[2]
    assert snapshots_on_disk(other.stagewright) == 0


def test_the_metadata_file_names_the_cache(bench: Workbench, registry: str) -> None:
    metadata = bench.scratch / "metadata"
    ref = f"{registry}/named/cache"
    app(bench).build("--cache-to", f"type=registry,ref={ref}", "--metadata-file", metadata)
    told = json.loads(json.loads(metadata.read_text())["cache.manifest"])
    assert told["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert output_of("skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{ref}@{told['digest']}")
    bench.build("--cache-to", "type=registry,ref=127.0.0.1:9/no/cache", "--metadata-file", metadata)
    assert "cache.manifest" not in json.loads(metadata.read_text())


@pytest.mark.parametrize("form", ["", ",image-manifest=false", ",oci-mediatypes=false", ",compression=zstd"])
def test_a_cache_in_a_registry(bench: Workbench, other: Workbench, registry: str, form: str) -> None:
    place = f"type=registry,ref={registry}/cache{len(form)}:main"
    app(bench).build("--cache-to", f"{place},mode=max{form}")
    build = other.build("--cache-from", place)
    assert build.ran == []
    assert snapshots_on_disk(other.stagewright) == 0
    bench.write("app.py", "print(2)\n")
    files = other.files("--cache-from", place)
    assert files.text("/app/compiled") == "print(2)\n"
    assert files.text("/tool") == "tool\n"


def test_a_push_to_where_the_cache_is_fetches_no_layer(bench: Workbench, other: Workbench, registry: str) -> None:
    ref = f"{registry}/pushed/app"
    app(bench).build("--cache-to", f"type=registry,ref={ref}-cache")
    build = other.build("-t", f"{ref}:1", "--push", "--cache-from", f"type=registry,ref={ref}-cache")
    assert build.ran == []
    assert snapshots_on_disk(other.stagewright) == 0
    assert missing(other.stagewright, f"{ref}:1") == 7
    bench.stagewright.run("pull", f"{ref}:1")


def test_a_cache_in_the_image(bench: Workbench, other: Workbench, registry: str) -> None:
    ref = f"{registry}/inline/app:1"
    app(bench).build("-t", ref, "--push", "--cache-to", "type=inline")
    build = other.build("--cache-from", ref)
    assert build.ran == []
    assert snapshots_on_disk(other.stagewright) == 0
    bench.write("app.py", "print(2)\n")
    assert len(other.build("--cache-from", ref).ran) == 2


@pytest.mark.parametrize(("value", "wanted"), [("1", True), ("true", True), ("0", False), ("yes", False)])
def test_a_build_argument_asks_for_a_cache_in_the_image(bench: Workbench, value: str, wanted: bool) -> None:
    app(bench).build()
    archive = bench.scratch / "app.tar"
    build = bench.build("-o", f"type=oci,dest={archive}", "--build-arg", f"BUILDKIT_INLINE_CACHE={value}")
    assert build.ran == []
    assert build.warned == ""
    assert (b'"moby.buildkit.cache.v0":' in archive.read_bytes()) is wanted


def test_a_registry_that_nobody_vouches_for(
    bench: Workbench, server: ScriptedServer, certificate: tuple[Path, Path]
) -> None:
    server.use_tls(*certificate)
    server.serve_image(make_image(b"layer"))
    app(bench)
    place = f"type=registry,ref={server.address}/app:1"
    build = bench.build("--cache-from", place)
    assert f"the cache {server.address}/app:1 is not used: {server.address}: " in build.warned
    bench.write("app.py", "print(2)\n")
    build = bench.build("--cache-from", f"{place},registry.insecure=true")
    assert "it is an image without a cache" in build.warned


def test_several_caches_are_merged_and_a_missing_one_is_a_warning(
    bench: Workbench, other: Workbench, registry: str
) -> None:
    bench.dockerfile(
        "FROM busybox AS one\nRUN echo 1 > /1\nFROM busybox AS two\nRUN echo 2 > /2\n"
        "FROM busybox\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n"
    )
    places = [f"type=local,{{}}={bench.scratch / stage}" for stage in ("one", "two")]
    for stage, place in zip(("one", "two"), places, strict=True):
        bench.build("--target", stage, "--cache-to", place.format("dest"))
    sources = [word for place in places for word in ("--cache-from", place.format("src"))]
    build = other.build("--cache-from", f"{registry}/no/such:cache", *sources)
    assert [name.split("]")[1] for name in build.ran] == [" COPY --from=one /1 /", " COPY --from=two /2 /"]
    assert f"the cache {registry}/no/such:cache is not used" in build.warned


def test_several_caches_of_one_folder_are_merged(bench: Workbench, other: Workbench) -> None:
    bench.dockerfile("FROM busybox AS one\nRUN echo 1 > /1\nFROM busybox AS two\nRUN echo 2 > /2\n")
    folder = bench.scratch / "caches"
    for stage in ("one", "two"):
        bench.build("--target", stage, "--cache-to", f"type=local,dest={folder},tag={stage}")
    sources = [word for tag in ("one", "two", "3") for word in ("--cache-from", f"type=local,src={folder},tag={tag}")]
    other.dockerfile(
        "FROM busybox AS one\nRUN echo 1 > /1\nFROM busybox AS two\nRUN echo 2 > /2\n"
        "FROM busybox\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n"
    )
    build = other.build(*sources)
    assert [name.split("]")[1] for name in build.ran] == [" COPY --from=one /1 /", " COPY --from=two /2 /"]
    assert build.warned == f"the cache {folder}:3 is not used: oci-layout {folder}: no image has the tag 3"


def test_a_damaged_cache_and_one_of_another_builder_are_warnings(bench: Workbench, other: Workbench) -> None:
    damaged, foreign = bench.scratch / "damaged", bench.scratch / "foreign"
    app(bench).build("--cache-to", f"type=local,dest={damaged}", "--cache-to", f"type=local,dest={foreign}")
    for blob in (damaged / "blobs" / "sha256").iterdir():
        blob.write_bytes(b"{}")
    forge(foreign, b'{"layers":[],"records":[]}')
    build = other.build(*(f"--cache-from=type=local,src={cache}" for cache in (damaged, foreign)))
    assert len(build.ran) == 8
    told = sorted(build.warned.splitlines())
    assert told[0].startswith(f"the cache {damaged} is not used: content has digest ")
    assert told[1:] == [f"the cache {foreign} is of no use: it was exported by another builder"]


def test_offline_asks_no_server_for_a_cache(bench: Workbench, registry: str) -> None:
    app(bench).build("--cache-to", f"type=registry,ref={registry}/offline")
    build = bench.build("--offline", "--cache-from", f"{registry}/offline")
    assert "--offline forbids to ask its server" in build.warned


def test_two_builds_fetch_one_cache_at_once(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    app(bench).build("--cache-to", f"type=local,dest={cache}")
    bench.write("app.py", "print(2)\n")
    builds = [other.start("--cache-from", f"type=local,src={cache}", "--build-arg", f"N={n}") for n in range(3)]
    assert [build.wait() for build in builds] == [0, 0, 0]
    assert other.build().ran == []


def test_a_build_that_is_killed_while_it_fetches_leaves_what_the_next_one_can_use(
    bench: Workbench, other: Workbench
) -> None:
    cache = bench.scratch / "cache"
    make = "head -c 30000000 /dev/urandom > /large && seq 3000 | xargs -n1 -I% touch /%"
    text = f"FROM busybox\nRUN {make}\nRUN echo {{}} > /x\n"
    bench.dockerfile(text.format(1))
    bench.build("--cache-to", f"type=local,dest={cache}")
    bench.dockerfile(text.format(2))
    for number in range(8):
        build = other.start("--cache-from", f"type=local,src={cache}")
        time.sleep(0.25 + number * 0.07)
        build.kill()
        build.communicate()
    files = other.files("--cache-from", f"type=local,src={cache}")
    assert (files.text("/x"), len(files.below("/")) > 3000) == ("2\n", True)
    while is_collected(other.stagewright.root):
        time.sleep(0.05)
    other.stagewright.run("prune", "--force")
    store = other.stagewright.root / "snapshots"
    assert [name for folder in ("drafts", "trash") for name in (store / folder).iterdir()] == []


def test_a_layer_that_is_lost_or_damaged_is_built_again(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    app(bench).build("--cache-to", f"type=local,dest={cache}")
    for blob in (cache / "blobs" / "sha256").iterdir():
        if blob.stat().st_size > 5000:
            blob.write_bytes(bytes(blob.stat().st_size))
    bench.write("app.py", "print(2)\n")
    build = other.build("--cache-from", f"type=local,src={cache}")
    assert "begins anew without imported caches" in build.warned
    shutil.rmtree(cache)
    assert other.build().ran == []
    assert other.files().text("/app/compiled") == "print(2)\n"


def test_a_layer_that_is_lost_where_the_build_cannot_begin_anew(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    bench.dockerfile("FROM busybox\nRUN echo 1 > /1\n")
    bench.build("--cache-to", f"type=local,dest={cache}")
    for blob in (cache / "blobs" / "sha256").iterdir():
        if blob.read_bytes()[:2] == b"\x1f\x8b":
            blob.unlink()
    machine = other.stagewright
    command = [*machine.program, "build", "--root", machine.root, "--config", machine.config, "-o", "type=cacheonly"]
    done = subprocess.run(
        [*command, "--cache-from", f"type=local,src={cache}", "-"],
        input="FROM busybox\nRUN echo 1 > /1\nRUN echo 2 > /2\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "is not in the store and cannot be fetched" in done.stderr
    assert "hint: standard input cannot be read twice: build again without --cache-from" in done.stderr


def test_a_layer_that_is_not_what_the_cache_says_is_built_again(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    app(bench).build("--cache-to", f"type=local,dest={cache},compression=uncompressed")
    blobs = cache / "blobs" / "sha256"
    config = next(path for path in blobs.iterdir() if path.read_bytes().startswith(b'{"layers"'))
    document = json.loads(config.read_bytes())
    first, second = (document["layers"][index]["annotations"] for index in (-1, -2))
    first["diffID"], second["diffID"] = second["diffID"], first["diffID"]
    forge(cache, json.dumps(document).encode())
    bench.dockerfile(APP + "    RUN echo 2\n")
    build = other.build("--cache-from", f"type=local,src={cache}")
    assert "begins anew without imported caches" in build.warned
    assert other.files().text("/app/compiled") == "print(1)\n"


def forge(cache: Path, data: bytes) -> None:
    """Let the cache in a folder have another record."""
    blobs = cache / "blobs" / "sha256"
    index = json.loads((cache / "index.json").read_bytes())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
    for holder, content in ((manifest["config"], data), (index["manifests"][0], None)):
        content = json.dumps(manifest).encode() if content is None else content
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        holder.update({"digest": f"sha256:{digest}", "size": len(content)})
    (cache / "index.json").write_text(json.dumps(index))


def test_what_was_imported_and_never_fetched_is_no_result_for_a_later_build(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    app(bench).build("--cache-to", f"type=local,dest={cache}")
    other.build("--cache-from", f"type=local,src={cache}")
    other.stagewright.run("du")
    build = other.build()
    assert len(build.ran) == 8
    other.stagewright.run("prune", "--all", "--force")
    assert snapshots_on_disk(other.stagewright) == 0


def test_an_export_that_fails_is_a_warning(bench: Workbench) -> None:
    app(bench)
    archive = bench.scratch / "app.tar"
    nowhere = "type=registry,ref=127.0.0.1:9/no/cache"
    build = bench.build("-o", f"type=oci,dest={archive}", "--cache-to", nowhere)
    assert "the cache is not exported to 127.0.0.1:9/no/cache" in build.warned
    archive.unlink()
    output = bench.fail("-o", f"type=oci,dest={archive}", "--cache-to", f"{nowhere},ignore-error=false")
    assert "the cache could not be exported to 127.0.0.1:9/no/cache" in output
    assert archive.exists()


def refuse(handler: Handler) -> None:
    handler.reply(403, b'{"errors":[{"code":"DENIED","message":"not yours"}]}')


@pytest.mark.parametrize(("script", "said"), [(refuse, "not yours"), (Handler.cut, "")])
def test_an_export_to_a_registry_that_refuses_or_dies(
    bench: Workbench, server: ScriptedServer, script: Script, said: str
) -> None:
    def begin(handler: Handler) -> None:
        handler.reply(202, Location=handler.path + "one")

    server.on("POST /v2/cache/blobs/uploads/", begin)
    server.on("PATCH /v2/cache/blobs/uploads/one", script)
    server.on("PUT /v2/cache/blobs/uploads/one", script)
    place = f"type=registry,ref={server.address}/cache"
    told = app(bench).build("--cache-to", place).warned
    assert f"the cache is not exported to {server.address}/cache:latest" in told
    assert said in told
    assert server.asked("PUT") or server.asked("PATCH")
    output = bench.fail("--cache-to", f"{place},ignore-error=false")
    assert f"the cache could not be exported to {server.address}/cache:latest" in output
    assert said in output


def test_a_run_without_the_cache_is_exported_under_names_that_others_know(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    app(bench).build("--no-cache", "--cache-to", f"type=local,dest={cache},mode=max")
    assert b'"n:' not in b"".join(
        blob.read_bytes() for blob in (cache / "blobs" / "sha256").iterdir() if blob.stat().st_size < 20000
    )
    assert other.build("--cache-from", f"type=local,src={cache}").ran == []


def test_no_result_that_holds_a_secret_is_exported(bench: Workbench, other: Workbench) -> None:
    cache = bench.scratch / "cache"
    secret = bench.scratch / "token"
    secret.write_text("hunter2-hunter2")
    bench.dockerfile(
        "FROM busybox\nRUN echo clean > /clean\n"
        "RUN --mount=type=secret,id=token cp /run/secrets/token /leak\nRUN echo after > /after\n"
    )
    flags = ("--secret", f"id=token,src={secret}")
    bench.build(*flags, "--secret-leak=warn", "--cache-to", f"type=local,dest={cache},mode=max")
    for blob in (cache / "blobs" / "sha256").iterdir():
        assert b"hunter2" not in blob.read_bytes()
    build = other.build(*flags, "--secret-leak=warn", "--cache-from", f"type=local,src={cache}")
    assert len(build.ran) == 2


def test_imported_layers_that_an_output_takes_are_searched_for_the_secrets_of_a_build(
    bench: Workbench, other: Workbench, registry: str
) -> None:
    cache = bench.scratch / "cache"
    bench.dockerfile("FROM busybox\nCOPY settings /settings\n")
    bench.write("settings", "password = hunter2-hunter2\n")
    bench.build("--cache-to", f"type=local,dest={cache}")
    secret = bench.scratch / "token"
    secret.write_text("hunter2-hunter2")
    flags = ("--cache-from", f"type=local,src={cache}", "--secret", f"id=token,src={secret}")
    # The build that has made the layer had no such secret, and this one has nothing of the layer.
    assert other.build(*flags).ran == []
    assert layer_bytes(other.stagewright, cache) == 0
    output = other.fail(*flags, "-o", f"type=oci,dest={other.scratch}/app.tar")
    assert "secret token leaks" in output
    # Now it is here.
    assert "secret token leaks" in other.fail(*flags)


def test_a_push_fetches_no_layer_to_search_it(bench: Workbench, other: Workbench, registry: str) -> None:
    ref = f"{registry}/searched/app"
    bench.dockerfile("FROM busybox\nRUN --mount=type=secret,id=token wc -c < /run/secrets/token > /size\n")
    secret = bench.scratch / "token"
    secret.write_text("hunter2-hunter2")
    flags = ("--secret", f"id=token,src={secret}")
    bench.build(*flags, "--cache-to", f"type=registry,ref={ref}:cache")
    build = other.build(*flags, "-t", f"{ref}:1", "--push", "--cache-from", f"{ref}:cache")
    assert build.ran == []
    assert snapshots_on_disk(other.stagewright) == 0
    assert missing(other.stagewright, f"{ref}:1") == 2
