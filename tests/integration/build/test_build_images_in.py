"""Base images from registries: forms of images, credentials, mirrors, and registries that are gone."""

from __future__ import annotations

import base64
import json
import struct
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Stagewright, is_root_of_machine, output_of
from images_world import Layer, image_of, serve_index
from registry_servers import Handler, ScriptedServer, TokenServer
from workbench import Workbench

from stagewright.image.platform import Platform, host_platform

HELPER = """#!/bin/sh
[ "$1" = get ] || exit 1
printf '{"ServerURL":"%s","Username":"user","Secret":"secret"}' "$(cat)"
"""


@pytest.fixture
def plain(stagewright: Stagewright, tmp_path: Path) -> Workbench:
    """A context and a command line that knows no mirror; loopback registries may speak plain HTTP."""
    (tmp_path / "context").mkdir()
    return Workbench(stagewright, tmp_path / "context")


def use(bench: Workbench, image: str) -> None:
    """Write a Dockerfile of that image alone."""
    bench.dockerfile(f"FROM {image}\nCOPY Dockerfile /\n")


# --- platforms --------------------------------------------------------------------------------------------------------


def test_an_image_for_another_platform(plain: Workbench, server: ScriptedServer, tmp_path: Path) -> None:
    here, there = str(host_platform()), "linux/arm64"
    images = {
        text: image_of(Layer().file("arch", text.encode()), platform=Platform(*text.split("/")))
        for text in (here, there)
    }
    serve_index(server, images)
    plain.dockerfile(f"""
        FROM --platform=$BUILDPLATFORM {server.address}/app:1 AS build
        FROM {server.address}/app:1
        ARG TARGETPLATFORM
        COPY --from=build /arch /built-on
        ENV FOR=$TARGETPLATFORM
        WORKDIR /work
    """)
    layout = tmp_path / "image"
    plain.build("-o", f"type=oci,tar=false,dest={layout}", f"--platform={there}")
    config = json.loads(output_of("skopeo", "inspect", "--config", "--raw", f"oci:{layout}"))
    assert (config["os"], config["architecture"], "variant" in config) == ("linux", "arm64", False)
    assert config["config"]["Env"][-1] == f"FOR={there}"
    files = plain.files(f"--platform={there}")
    assert (files.text("/arch"), files.text("/built-on")) == (there, here)


def test_a_step_of_another_platform_does_not_run(plain: Workbench, server: ScriptedServer) -> None:
    # The header of a program for AArch64, which this machine has no emulator for.
    program = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<HHIQQQIHHH", 2, 183, 1, 0x400000, 64, 0, 0, 64, 56, 1)
    server.serve_image(image_of(Layer().file("run", program.ljust(200, b"\0"), mode=0o755)))
    plain.dockerfile(f'FROM {server.address}/app:1\nRUN ["/run"]\n')
    assert 'process "/run" did not complete successfully' in plain.fail()


# --- forms of images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("form", ["oci", "docker"])
def test_layers_of_all_forms(plain: Workbench, server: ScriptedServer, form: str, compression: str) -> None:
    lower = Layer().file("gone", b"x").file("kept", b"kept", mode=0o4755, uid=5, gid=6)
    lower.member("opaque", tarfile.DIRTYPE).file("opaque/below", b"x").file("dir/sub/below", b"x")
    upper = Layer().file(".wh.gone").file("opaque/.wh..wh..opq").file("opaque/above", b"above").file("dir/.wh.sub")
    upper.link("hard", "kept", hard=True, mode=0o4755, uid=5, gid=6).link("soft", "kept").member(
        "sticky", tarfile.DIRTYPE, mode=0o1777
    )
    upper.file(
        "capable", b"x", pax_headers={"SCHILY.xattr.user.note": "noted", "SCHILY.xattr.security.capability": CAPABILITY}
    )
    upper.member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666).member("pipe", tarfile.FIFOTYPE)
    server.serve_image(image_of(lower, upper, form=form, compression=compression))
    use(plain, f"{server.address}/app:1")
    files = plain.files()
    # Nobody makes devices in a user namespace, where an image does without.
    devices = ["null"] if is_root_of_machine() else []
    others = ["Dockerfile", "capable", "dir", "hard", "kept", "opaque", "opaque/above", "pipe", "soft", "sticky"]
    assert files.below("/") == sorted([*others, *devices])
    linked = files.members["/kept"] if files.members["/kept"].islnk() else files.members["/hard"]
    assert linked.islnk()
    assert {files.owner(path) for path in ("/kept", "/hard")} == {(5, 6)}
    assert {files.mode(path) for path in ("/kept", "/hard")} == {0o4755}
    assert files.mode("/sticky") == 0o1777
    headers = files.members["/capable"].pax_headers
    assert headers["SCHILY.xattr.security.capability"] == CAPABILITY
    for path in devices:
        assert (files.members[f"/{path}"].devmajor, files.members[f"/{path}"].devminor) == (1, 3)
    assert files.members["/pipe"].isfifo()


# CAP_NET_BIND_SERVICE, effective and permitted, version 2.
CAPABILITY = "\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"


def test_the_right_image_of_an_index(plain: Workbench, server: ScriptedServer) -> None:
    platforms = ["linux/arm64/v8", "linux/amd64", "windows/amd64", "linux/386"]
    images = {
        text: image_of(Layer().file("platform", text.encode()), platform=Platform(*text.split("/")))
        for text in platforms
    }
    serve_index(server, images)
    use(plain, f"{server.address}/app:1")
    assert plain.files("--platform=linux/amd64").text("/platform") == "linux/amd64"
    del images["linux/amd64"], images["linux/386"]
    serve_index(server, images, tag="2")
    use(plain, f"{server.address}/app:2")
    text = plain.fail("--platform=linux/amd64")
    assert "Dockerfile:1" in text
    assert "linux/amd64" in text


def test_by_digest_nothing_else_will_do(plain: Workbench, server: ScriptedServer) -> None:
    right, wrong = image_of(Layer().file("right")), image_of(Layer().file("wrong"))
    server.serve_image(right)
    use(plain, f"{server.address}/app:other@{right.descriptor.digest}")
    assert "/right" in plain.files()
    server.on(
        f"* /v2/app/manifests/{wrong.descriptor.digest}",
        lambda handler: handler.reply(200, right.data, Content_Type=right.manifest.media_type),
    )
    use(plain, f"{server.address}/app@{wrong.descriptor.digest}")
    assert wrong.descriptor.digest in plain.fail()


# --- registries that lie or break -------------------------------------------------------------------------------------


def test_wrong_bytes_fail_the_build_and_poison_nothing(plain: Workbench, server: ScriptedServer) -> None:
    image = image_of(Layer().file("file", b"right" * 1000), compression="gzip")
    descriptor, data = image.blobs[1]
    server.serve_image(image)
    use(plain, f"{server.address}/app:1")
    for wrong in (data[:-1] + b"!", data[:100], data + b"more", b""):
        server.on(f"GET /v2/app/blobs/{descriptor.digest}", lambda handler, wrong=wrong: handler.reply(200, wrong))
        assert descriptor.digest in plain.fail()
    server.serve_image(image)
    assert plain.files().text("/file") == "right" * 1000


def test_a_wrong_manifest_fails_the_build(plain: Workbench, server: ScriptedServer) -> None:
    image, other = image_of(Layer().file("a")), image_of(Layer().file("b"))
    server.serve_image(image)
    server.on(
        f"GET /v2/app/manifests/{image.descriptor.digest}",
        lambda handler: handler.reply(200, other.data, Content_Type=image.manifest.media_type),
    )
    use(plain, f"{server.address}/app:1")
    assert image.descriptor.digest in plain.fail()


def test_a_broken_connection_is_resumed(plain: Workbench, server: ScriptedServer) -> None:
    image = image_of(Layer().file("file", bytes(range(256)) * 4096))
    descriptor, data = image.blobs[1]
    server.serve_image(image)
    asked: list[str | None] = []

    def send_half(handler: Handler) -> None:
        wanted = handler.headers.get("Range")
        asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        handler.send_response(206 if wanted else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        handler.wfile.write(data[start : start + (len(data) - start) // 2] if len(asked) < 3 else data[start:])
        handler.cut()

    server.on(f"GET /v2/app/blobs/{descriptor.digest}", send_half)
    use(plain, f"{server.address}/app:1")
    assert plain.files().contents["/file"] == bytes(range(256)) * 4096
    assert len(asked) == 3
    assert asked[0] is None
    assert None not in asked[1:]


@pytest.mark.parametrize(
    "name", ["../outside", "a/../../outside", "/../outside", "..", "link/outside", "far/outside", "two/outside"]
)
def test_a_layer_that_would_leave_its_root(plain: Workbench, server: ScriptedServer, name: str) -> None:
    target = plain.scratch / "target"
    target.mkdir()
    up = "../" * 40
    layer = (
        Layer()
        .link("link", str(target))
        .link("far", f"{up}{str(target)[1:]}")
        .link("one", up)
        .link("two", f"one{target}")
    )
    layer.file(name, b"escaped").link("hard", f"{up}etc/passwd", hard=True)
    server.serve_image(image_of(layer))
    use(plain, f"{server.address}/app:1")
    assert "Traceback" not in plain.fail()
    assert list(target.iterdir()) == []
    assert [path for path in plain.scratch.rglob("outside*") if path.read_bytes() == b"escaped"] == []


# --- credentials ------------------------------------------------------------------------------------------------------


def push(registry: str, tmp_path: Path) -> str:
    """Have skopeo push a small image as "user"; gives its name."""
    image = image_of(Layer().file("private", b"content"))
    layout = tmp_path / "layout"
    (layout / "blobs" / "sha256").mkdir(parents=True)
    for descriptor, data in [*image.blobs, (image.descriptor, image.data)]:
        (layout / "blobs" / "sha256" / descriptor.digest.removeprefix("sha256:")).write_bytes(data)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = {"mediaType": image.descriptor.media_type, "digest": image.descriptor.digest, "size": image.descriptor.size}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    name = f"{registry}/private/app:1"
    output_of(
        "skopeo",
        "copy",
        "-q",
        "--dest-tls-verify=false",
        "--dest-creds=user:secret",
        f"oci:{layout}",
        f"docker://{name}",
    )
    return name


def docker_config(folder: Path, document: dict[str, object]) -> dict[str, str]:
    """Write a config.json, and a credential helper named `test` beside it; gives the environment for both."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(document))
    helper = folder / "docker-credential-test"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    return {"DOCKER_CONFIG": str(folder), "PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin"}


def logins(registry: str, password: str = "secret") -> dict[str, object]:
    """The part of a config.json with a user's name and password."""
    return {"auths": {registry: {"auth": base64.b64encode(f"user:{password}".encode()).decode()}}}


def test_basic_authentication(plain: Workbench, basic_registry: str, tmp_path: Path) -> None:
    use(plain, push(basic_registry, tmp_path))
    assert "Dockerfile:1" in plain.fail(env=docker_config(tmp_path / "none", {}))
    refused = plain.fail(env=docker_config(tmp_path / "wrong", logins(basic_registry, "wrong-password")))
    assert "wrong-password" not in refused
    right = docker_config(tmp_path / "right", logins(basic_registry))
    assert plain.files(env=right).text("/private") == "content"


def test_bearer_authentication_by_a_credential_helper(
    plain: Workbench, bearer_registry: tuple[str, TokenServer], tmp_path: Path
) -> None:
    registry, tokens = bearer_registry
    use(plain, push(registry, tmp_path))
    env = docker_config(tmp_path / "helper", {"credHelpers": {registry: "test"}})
    tokens.given.clear()
    assert plain.files(env=env).text("/private") == "content"
    assert set(tokens.given) == {"repository:private/app:pull"}


def test_a_broken_credential_helper_is_named(plain: Workbench, basic_registry: str, tmp_path: Path) -> None:
    use(plain, f"{basic_registry}/private/app:1")
    assert "docker-credential-missing" in plain.fail(env=docker_config(tmp_path / "helper", {"credsStore": "missing"}))


# --- mirrors and TLS --------------------------------------------------------------------------------------------------


def test_mirrors_in_their_order_and_then_the_registry(
    plain: Workbench, start_server: Callable[[], ScriptedServer]
) -> None:
    dead, empty, mirror, origin = (start_server() for _ in range(4))
    dead.stop()
    origin.serve_image(image_of(Layer().file("from", b"origin")), "team/app")
    names = ", ".join(f'"{server.address}{path}"' for server, path in ((dead, ""), (empty, ""), (mirror, "/prefix")))
    plain.stagewright.config.write_text(f'[registry."{origin.address}"]\nmirrors = [{names}]\n')
    use(plain, f"{origin.address}/team/app:1")
    assert plain.files().text("/from") == "origin"
    mirror.serve_image(image_of(Layer().file("from", b"mirror")), "prefix/team/app")
    asked = len(origin.requests)
    assert plain.files().text("/from") == "mirror"
    assert len(origin.requests) == asked


def test_an_own_authority_and_none_at_all(
    plain: Workbench, server: ScriptedServer, certificate: tuple[Path, Path]
) -> None:
    server.use_tls(*certificate)
    server.serve_image(image_of(Layer().file("file")))
    use(plain, f"{server.address}/app:1")
    table = f'[registry."{server.address}"]\n'
    plain.stagewright.config.write_text(table + "http = false\ninsecure = false\n")
    assert "certificate" in plain.fail()
    plain.stagewright.config.write_text(table + f'ca = ["{certificate[0]}"]\n')
    plain.build()
    plain.stagewright.config.write_text(table + "insecure = true\n")
    plain.build("--no-cache", "--pull")


# --- what a tag means, and when ---------------------------------------------------------------------------------------


def test_a_resolution_is_trusted_for_a_while(plain: Workbench, server: ScriptedServer) -> None:
    server.serve_image(image_of(Layer().file("version", b"1")))
    use(plain, f"{server.address}/app:1")
    plain.build()
    server.serve_image(image_of(Layer().file("version", b"2")))
    asked = len(server.requests)
    plain.stagewright.config.write_text('resolve-ttl = "1h"\n')
    assert plain.files().text("/version") == "1"
    assert len(server.requests) == asked
    plain.stagewright.config.write_text("")
    assert plain.files().text("/version") == "2"


def test_a_registry_that_is_gone(plain: Workbench, server: ScriptedServer) -> None:
    server.serve_image(image_of(Layer().file("file", b"pulled")))
    use(plain, f"{server.address}/app:1")
    plain.build()
    server.on("* .*", lambda handler: handler.reply(503))
    build = plain.build()
    assert build.ran == []
    assert '"warnings"' in build.stderr
    assert server.address in build.stderr
    plain.write("Dockerfile", f"FROM {server.address}/app:1\nCOPY Dockerfile /changed\n")
    assert plain.files().text("/file") == "pulled"
    use(plain, f"{server.address}/app:never-seen")
    assert "Dockerfile:1" in plain.fail()


def test_offline_asks_nobody_and_warns_of_nothing(plain: Workbench, server: ScriptedServer) -> None:
    server.serve_image(image_of(Layer().file("file", b"pulled")))
    use(plain, f"{server.address}/app:1")
    assert "--offline" in plain.fail("--offline")
    plain.build()
    asked = len(server.requests)
    build = plain.build("--offline")
    assert build.ran == []
    assert '"warnings"' not in build.stderr
    assert plain.files("--offline").text("/file") == "pulled"
    assert len(server.requests) == asked


def test_layers_are_pulled_at_once(plain: Workbench, server: ScriptedServer) -> None:
    image = image_of(*(Layer().file(f"file-{number}") for number in range(2)))
    server.serve_image(image)
    meeting = threading.Barrier(2, timeout=60)
    for descriptor, data in image.blobs[1:]:

        def meet(handler: Handler, data: bytes = data) -> None:
            meeting.wait()
            handler.reply(200, data)

        server.on(f"GET /v2/app/blobs/{descriptor.digest}", meet)
    use(plain, f"{server.address}/app:1")
    assert plain.files().below("/") == ["Dockerfile", "file-0", "file-1"]


def test_our_own_store_comes_before_the_registry(plain: Workbench, server: ScriptedServer) -> None:
    server.serve_image(image_of(Layer().file("from", b"registry")))
    plain.dockerfile("FROM scratch\nCOPY <<EOF /from\nstore\nEOF\n")
    plain.build("-t", f"{server.address}/app:1")
    use(plain, f"{server.address}/app:1")
    assert plain.files().text("/from") == "store\n"
    assert plain.files("--pull").text("/from") == "registry"
