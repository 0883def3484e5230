"""Stagewright's own image: built by Stagewright, and building in a container without privileges what others build."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from harness import EXAMPLES, PROJECT, Image, Stagewright, StandinImages, output_of

yaml = pytest.importorskip("yaml")

DOCKERFILE = """
FROM busybox AS base
RUN mkdir /d && echo one > /d/one && echo two > /d/two && ls -l /proc/self 2>/dev/null; test $(id -u) = 0
FROM base AS tools
RUN --mount=type=cache,target=/cache echo x >> /cache/log && cp /cache/log /log
FROM base
RUN rm /d/one && rm -r /home && mkdir /home && echo three > /d/three
COPY --from=tools /log /d/
RUN --mount=type=bind,from=tools,target=/t --mount=type=secret,id=token cat /t/log /run/secrets/token > /dev/null
USER 1234:56
RUN id -u > /tmp/id
ENTRYPOINT ["cat", "/d/three"]
"""

OUTER = """
FROM stagewright
COPY context /context
COPY busybox.tar token /
RUN ["stagewright", "load", "-i", "/busybox.tar"]
RUN mkdir /out && stagewright info --format json > /out/info.json
ENV SOURCE_DATE_EPOCH=1700000000
RUN stagewright build --progress=plain -t inner -o type=oci,dest=/out/image.tar,rewrite-timestamp=true \
    --secret id=token,src=/token /context 2> /out/log || { cat /out/log; exit 1; }
RUN stagewright build --progress=plain --target tools -o type=local,dest=/out/files /context 2> /out/second.log
FROM scratch
COPY --from=0 /out /
"""


@pytest.fixture(scope="module")
def own(standin_stagewright: Stagewright, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image, stored under its name as well."""
    archive = tmp_path_factory.mktemp("own") / "stagewright.tar"
    standin_stagewright.build(PROJECT, "-o", f"type=oci,dest={archive}", "-o", "type=image,name=stagewright")
    return archive


@pytest.fixture(scope="module")
def busybox(standin_images: StandinImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for busybox as an archive with its name."""
    archive = tmp_path_factory.mktemp("busybox") / "busybox.tar"
    source = f"docker://{standin_images.address}/docker.io/library/busybox:latest"
    output_of("skopeo", "copy", "--src-tls-verify=false", source, f"docker-archive:{archive}:busybox:latest")
    return archive


def test_the_image_is_the_program_and_no_more(own: Path, tmp_path: Path) -> None:
    image = Image.load(own, tmp_path)
    assert image.config["config"]["Entrypoint"] == ["stagewright"]
    assert not image.below("/src")
    assert not image.below("/root/.cache")
    assert image.run("version").startswith("stagewright")


def test_it_builds_in_a_container_without_privileges(
    standin_stagewright: Stagewright, own: Path, busybox: Path, tmp_path: Path
) -> None:
    context = tmp_path / "outer"
    inner = context / "context"
    inner.mkdir(parents=True)
    (inner / "Dockerfile").write_text(DOCKERFILE)
    (context / "Dockerfile").write_text(OUTER)
    (context / "token").write_text("a-token-of-some-length")
    shutil.copy(busybox, context)
    out = tmp_path / "out"
    standin_stagewright.build(context, "-o", f"type=local,dest={out}")

    facts = json.loads((out / "info.json").read_text())
    assert (facts["snapshotter"], facts["runtime"]) == ("copies", "chroot")
    log = (out / "log").read_text()
    assert log.count("WARN: steps run in a chroot only") == 1
    # The cached stage is not built again; the cache mount is still there.
    assert "CACHED" in (out / "second.log").read_text()
    assert (out / "files" / "log").read_text() == "x\n"

    reference = tmp_path / "reference.tar"
    standin_stagewright.build(
        inner,
        *("--secret", f"id=token,src={context / 'token'}"),
        *("-o", f"type=oci,dest={reference},rewrite-timestamp=true"),
        env={"SOURCE_DATE_EPOCH": "1700000000"},
    )
    made, expected = (_layers(archive) for archive in (out / "image.tar", reference))
    assert made[1:] == expected[1:]
    image = Image.load(out / "image.tar", tmp_path)
    assert image.run() == "three\n"
    assert "/d/one" not in image.files
    assert "/home" in image.tree


def _layers(archive: Path) -> list[str]:
    config = json.loads(output_of("skopeo", "inspect", "--config", f"oci-archive:{archive}"))
    return list(config["rootfs"]["diff_ids"])


def test_the_job_for_kubernetes_has_no_privilege() -> None:
    (job,) = yaml.safe_load_all((EXAMPLES / "08-kubernetes" / "job.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostPID", "hostNetwork", "hostIPC"} & set(pod)
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert not any("hostPath" in volume for volume in pod["volumes"])
    for container in (*pod["initContainers"], *pod["containers"]):
        security = container["securityContext"]
        assert not security.get("privileged", False)
        assert "add" not in security.get("capabilities", {})
        assert security["allowPrivilegeEscalation"] is False
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    (build,) = pod["containers"]
    assert "/var/lib/stagewright" in [mount["mountPath"] for mount in build["volumeMounts"]]


def test_the_job_for_gitlab_has_no_daemon() -> None:
    document = yaml.safe_load((EXAMPLES / "09-gitlab-ci" / ".gitlab-ci.yml").read_text())
    job = document["build-image"]
    assert job["stage"] in document["stages"]
    assert job["image"]["entrypoint"] == [""]
    assert "services" not in job
    assert any(line.startswith("stagewright build ") for line in job["script"])
    assert all(isinstance(line, str) for line in (*job["before_script"], *job["script"]))
