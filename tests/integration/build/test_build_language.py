"""Instructions as Dockerfiles write them, and the files and the config that they make."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from harness import output_of
from workbench import Workbench


def config_of(bench: Workbench, *flags: object) -> dict[str, Any]:
    """The image config, as skopeo reads it from an OCI archive."""
    archive = bench.scratch / "image.tar"
    bench.build("-o", f"type=oci,dest={archive}", *flags)
    config: dict[str, Any] = json.loads(output_of("skopeo", "inspect", "--config", "--raw", f"oci-archive:{archive}"))
    return config


def test_the_config_of_every_instruction(bench: Workbench) -> None:
    bench.dockerfile("""
        # syntax=registry.invalid/never/fetched:1
        FROM scratch AS base
        ENV INHERITED=1 GONE=before
        LABEL base=yes

        FROM base
        MAINTAINER Some One <one@example.com>
        ARG NAME=world
        ENV GONE=after HELLO="hello ${NAME}" PATH=/opt/bin:$PATH
        LABEL version="1.0" multi="a \\
        b"
        WORKDIR /srv
        WORKDIR app/../data
        USER 12:34
        EXPOSE 80 443/tcp 53/udp 9000-9002
        VOLUME /data /logs
        VOLUME ["/more", "/volumes"]
        STOPSIGNAL SIGUSR1
        HEALTHCHECK --interval=5s --timeout=3s --start-period=1m --retries=4 CMD curl -f http://localhost/ || exit 1
        SHELL ["/bin/ash", "-ec"]
        ENTRYPOINT echo $HELLO
        CMD ["one", "two"]
    """)
    image = config_of(bench)
    config = image["config"]
    assert image["author"] == "Some One <one@example.com>"
    assert config["Env"] == [
        "PATH=/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "INHERITED=1",
        "GONE=after",
        "HELLO=hello world",
    ]
    assert config["Labels"] == {"base": "yes", "version": "1.0", "multi": "a b"}
    assert config["WorkingDir"] == "/srv/data"
    assert config["User"] == "12:34"
    ports = {"80/tcp", "443/tcp", "53/udp", "9000/tcp", "9001/tcp", "9002/tcp"}
    assert config["ExposedPorts"] == {port: {} for port in ports}
    assert config["Volumes"] == {volume: {} for volume in ("/data", "/logs", "/more", "/volumes")}
    assert config["StopSignal"] == "SIGUSR1"
    assert config["Healthcheck"] == {
        "Test": ["CMD-SHELL", "curl -f http://localhost/ || exit 1"],
        "Interval": 5_000_000_000,
        "Timeout": 3_000_000_000,
        "StartPeriod": 60_000_000_000,
        "Retries": 4,
    }
    assert config["Shell"] == ["/bin/ash", "-ec"]
    assert config["Entrypoint"] == ["/bin/ash", "-ec", "echo $HELLO"]
    assert config["Cmd"] == ["one", "two"]
    layers = [entry for entry in image["history"] if not entry.get("empty_layer")]
    assert len(layers) == len(image["rootfs"]["diff_ids"]) == 2
    assert all(entry["comment"] == "buildkit.dockerfile.v0" for entry in image["history"])


def test_an_entrypoint_takes_the_command_of_the_base_away(bench: Workbench) -> None:
    bench.dockerfile('FROM busybox\nENTRYPOINT ["top"]\n')
    config = config_of(bench)["config"]
    assert config["Entrypoint"] == ["top"]
    assert "Cmd" not in config


def test_continuations_comments_here_documents_and_another_escape(bench: Workbench) -> None:
    bench.dockerfile("""
        # escape=`
        # a comment

        FROM busybox
        RUN echo one `
            # a comment in the middle

            two > /continued
        RUN <<EOF
        set -e
        name=inside
        echo "$name" > /script
        EOF
        RUN <<-'RAW' cat > /raw
        \ttabs go, $variables stay
        RAW
        RUN <<EOF
        #!/bin/awk -f
        BEGIN { print "awk" > "/shebang" }
        EOF
        COPY <<one <<"two" /documents/
        value ${UNSET:-default}
        one
        value ${UNSET:-default}
        two
        RUN ["/bin/sh", "-c", "printf 'exec form' > /exec"]
        SHELL ["/bin/busybox", "sh", "-euc"]
        RUN echo "$0" > /shell
    """)
    files = bench.files()
    assert files.text("/continued") == "one two\n"
    assert files.text("/script") == "inside\n"
    assert files.text("/raw") == "tabs go, $variables stay\n"
    assert files.text("/shebang") == "awk\n"
    assert files.text("/documents/one") == "value default\n"
    assert files.text("/documents/two") == "value ${UNSET:-default}\n"
    assert files.text("/exec") == "exec form"
    assert "/dev/pipes" not in files


def test_scopes_of_arguments(bench: Workbench) -> None:
    bench.dockerfile("""
        ARG BASE=busybox
        ARG TAG=latest
        ARG SHARED=global
        FROM ${BASE}:$TAG AS first
        RUN echo "[$SHARED]" > /undeclared
        ARG SHARED
        ARG DERIVED=${SHARED}-derived
        RUN echo "$SHARED $DERIVED" > /declared
        ENV SHARED=environment
        ARG SHARED=late
        RUN echo "$SHARED" > /newest-wins
        FROM first
        RUN echo "[$DERIVED]" > /next-stage
        ARG TARGETARCH
        ARG TARGETPLATFORM
        ARG BUILDPLATFORM
        RUN echo "$TARGETPLATFORM $BUILDPLATFORM" > /platforms
        RUN echo "$HTTP_PROXY" > /proxy
    """)
    files = bench.files("--build-arg", "HTTP_PROXY=http://proxy.example.com")
    assert files.text("/undeclared") == "[]\n"
    assert files.text("/declared") == "global global-derived\n"
    assert files.text("/newest-wins") == "late\n"
    assert len(set(files.text("/platforms").split())) == 1
    assert files.text("/platforms").startswith("linux/")
    assert files.text("/proxy") == "http://proxy.example.com\n"
    config = config_of(bench, "--build-arg", "HTTP_PROXY=http://proxy.example.com")
    assert "proxy.example.com" not in json.dumps(config)


def test_copies_with_owners_and_modes(bench: Workbench) -> None:
    bench.write("src/a.txt", "a", 0o600)
    bench.write("src/b.txt", "b", 0o755)
    bench.write("src/deep/c.md", "c")
    bench.dockerfile("""
        FROM busybox AS made
        RUN mkdir /made && echo made > /made/file && chown 5:6 /made/file /made && chmod 4711 /made/file
        RUN echo 'app:x:77:88::/:' >> /etc/passwd && echo 'team:x:99:' >> /etc/group
        FROM made
        COPY src/*.txt /wild/
        COPY src /whole
        COPY --chown=app src/a.txt /named
        COPY --chown=app:team src/a.txt /group
        COPY --chown=10:20 src /numbers
        COPY --chmod=0711 src/a.txt /octal
        COPY --chmod=u=rwX,go=rX src /symbolic
        COPY --from=made /made /stage
        COPY --from=0 /made/file /index
        COPY --from=made --chown=1:2 /made /owned
        COPY --from=nginx:latest /etc/nginx/nginx.conf /image
        COPY ["src/a.txt", "/with space/"]
        ADD src/b.txt relative/
    """)
    files = bench.files()
    assert files.below("/wild") == ["a.txt", "b.txt"]
    assert files.below("/whole") == ["a.txt", "b.txt", "deep", "deep/c.md"]
    assert (files.mode("/whole/a.txt"), files.owner("/whole/a.txt")) == (0o600, (0, 0))
    assert files.owner("/named") == (77, 88)
    assert files.owner("/group") == (77, 99)
    assert {files.owner(f"/numbers{path}") for path in ("", "/a.txt", "/deep/c.md")} == {(10, 20)}
    assert files.mode("/octal") == 0o711
    assert (files.mode("/symbolic/a.txt"), files.mode("/symbolic/b.txt")) == (0o644, 0o755)
    assert files.mode("/symbolic/deep") == 0o755
    assert (files.mode("/stage/file"), files.owner("/stage/file")) == (0o4711, (5, 6))
    assert files.text("/index") == "made\n"
    assert files.owner("/owned/file") == files.owner("/owned") == (1, 2)
    assert "http" in files.text("/image")
    assert files.text("/with space/a.txt") == "a"
    assert files.mode("/relative/b.txt") == 0o755


def test_add_unpacks_archives_and_copy_does_not(bench: Workbench) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        entry = tarfile.TarInfo("inside/file")
        entry.size, entry.mode, entry.uid, entry.gid = 4, 0o640, 3, 4
        tar.addfile(entry, io.BytesIO(b"data"))
    bench.write("archive.tgz", packed.getvalue())
    bench.write("not-an.tar", "text")
    bench.dockerfile("""
        FROM scratch
        ADD archive.tgz /added/
        COPY archive.tgz /copied/
        ADD not-an.tar /plain/
    """)
    files = bench.files()
    assert files.text("/added/inside/file") == "data"
    assert (files.mode("/added/inside/file"), files.owner("/added/inside/file")) == (0o640, (3, 4))
    assert files.contents["/copied/archive.tgz"] == packed.getvalue()
    assert files.text("/plain/not-an.tar") == "text"


def test_an_ignore_file_with_negations(bench: Workbench) -> None:
    for name in (
        "keep.md",
        "drop.md",
        "README.md",
        "logs/a.log",
        "logs/keep.log",
        "deep/x/y.tmp",
        "deep/x/y.c",
        ".git/HEAD",
    ):
        bench.write(name)
    bench.write(
        ".dockerignore", "# a comment\n*.md\n!keep.md\n!README*\nlogs\n!logs/keep.log\n**/*.tmp\n.git\nDockerfile*\n"
    )
    bench.dockerfile("FROM scratch\nCOPY . /\n")
    names = [".dockerignore", "README.md", "deep", "deep/x", "deep/x/y.c", "keep.md", "logs", "logs/keep.log"]
    assert bench.files().below("/") == names


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("COPY missing /", "missing"),
        ("COPY ignored /", "ignored"),
        ("COPY ../outside /", "outside"),
        ("COPY --chmod=rwx Dockerfile /", "rwx"),
        ("CPY a b", "CPY"),
        ("RUN --mount=type=casche,target=/x true", "casche"),
        ("COPY --form=x a b", "form"),
        ("EXPOSE eighty", "eighty"),
        ("HEALTHCHECK --interval=x CMD true", "x"),
        ("ENV novalue", "ENV"),
        ("STOPSIGNAL SIGNONE", "SIGNONE"),
        ("USER", "USER"),
        ("RUN <<EOF", "EOF"),
        ('LABEL a="open', "LABEL"),
        ("FROM busybox AS 1x", "1x"),
    ],
)
def test_a_wrong_instruction_is_shown_at_its_line(bench: Workbench, instruction: str, message: str) -> None:
    bench.write("ignored")
    bench.write(".dockerignore", "ignored\n")
    bench.dockerfile(f"FROM busybox\n{instruction}\n")
    text = bench.fail()
    assert "Dockerfile:2" in text
    assert ">>>" in text
    assert message in text


def test_work_directories_and_users(bench: Workbench) -> None:
    bench.write("file")
    bench.dockerfile("""
        FROM busybox
        RUN echo 'app:x:77:88::/home/app:/bin/sh' >> /etc/passwd
        ENV PLACE=/srv/place
        USER app
        WORKDIR $PLACE
        COPY file .
        RUN pwd > /tmp/pwd && id -u >> /tmp/pwd && echo $HOME >> /tmp/pwd
        WORKDIR sub
        COPY file ./
    """)
    files = bench.files()
    assert files.lines("/tmp/pwd") == ["/srv/place", "77", "/home/app"]
    assert files.owner("/srv/place") == files.owner("/srv/place/sub") == (77, 88)
    assert files.owner("/srv/place/file") == files.owner("/srv/place/sub/file") == (0, 0)


def test_bytes_that_are_no_characters(bench: Workbench) -> None:
    name = os.fsdecode(b"f\xff")
    bench.write(name, "odd")
    bench.write(
        "Dockerfile",
        b"FROM busybox\nENV A=\xfe\nCOPY f\xff /d\xff\n"
        b"RUN --mount=type=cache,id=\xff,target=/c printf '%s' \xfd$A > /file; echo \xff\n",
    )
    files = bench.files()
    assert files.contents["/file"] == b"\xfd\xfe"
    assert files.text("/d" + os.fsdecode(b"\xff")) == "odd"
    assert bench.build().ran == []
    assert bench.stagewright.run("du").returncode == 0


def test_the_result_of_an_image_without_steps_is_its_base(bench: Workbench, tmp_path: Path) -> None:
    bench.dockerfile("FROM busybox\n")
    assert config_of(bench)["rootfs"]["diff_ids"]
    assert "/bin/busybox" in bench.files()
