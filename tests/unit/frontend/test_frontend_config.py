"""The image config and its history, field by field."""

from __future__ import annotations

import pytest
from frontend_world import PATH, build, history, image

from stagewright.errors import DockerfileError
from stagewright.frontend.format import duration
from stagewright.image.config import HealthCheck, History


def refused(text: str) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        build(text)
    assert caught.value.location is not None
    return caught.value


def test_history_of_every_instruction() -> None:
    plan = build(
        """
FROM a
ARG A B=2
ENV C=3 D="4 5"
LABEL e=6 "f g"="7 8"
RUN make $B
COPY --chown=1:2 --chmod=0600 x y /z/
ADD x /z
WORKDIR /w
WORKDIR v
USER nobody:users
EXPOSE 80 53/UDP 8000-8001
VOLUME /v1 /v2
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=90s --retries=3 CMD true
SHELL ["/bin/bash", "-c"]
CMD echo "hi"
ENTRYPOINT ["/e", "a b"]
MAINTAINER Someone <some@one>
ONBUILD RUN true
""",
        build_args={"A": "1"},
    )
    assert history(plan) == [
        "ARG A=1 B=2",
        "ENV C=3 D=4 5",
        "LABEL e=6 f g=7 8",
        "RUN |2 A=1 B=2 /bin/sh -c make $B # buildkit",
        "COPY --chown=1:2 --chmod=0600 x y /z/ # buildkit",
        "ADD x /z # buildkit",
        "WORKDIR /w",
        "WORKDIR /w/v",
        "USER nobody:users",
        "EXPOSE [53/udp 80/tcp 8000/tcp 8001/tcp]",
        "VOLUME [/v1 /v2]",
        "STOPSIGNAL SIGTERM",
        "HEALTHCHECK {Test:[CMD-SHELL true] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:3}",
        "SHELL [/bin/bash -c]",
        'CMD ["/bin/bash" "-c" "echo \\"hi\\""]',
        'ENTRYPOINT ["/e" "a b"]',
        "MAINTAINER Someone <some@one>",
    ]
    layers = [entry.created_by.split()[0] for entry in plan.config.history[1:] if not entry.empty_layer]
    assert layers == ["RUN", "COPY", "ADD", "WORKDIR", "WORKDIR"]


def test_history_of_the_image_is_kept_before_the_own() -> None:
    plan = build("FROM a\nENV A=1")
    assert plan.config.history == (
        History(created_by="layer 0"),
        History(created_by="ENV A=1", comment="buildkit.dockerfile.v0", empty_layer=True),
    )


def test_history_of_a_stage_goes_on_with_its_bases() -> None:
    assert history(build("FROM a AS x\nENV A=1\nFROM x\nENV B=2")) == ["ENV A=1", "ENV B=2"]


def test_created_is_left_to_the_exporter_and_diff_ids_to_the_layers() -> None:
    plan = build("FROM a\nENV A=1")
    assert plan.config.created is None


def test_config_of_scratch() -> None:
    plan = build("FROM scratch\nLABEL a=1")
    config = plan.config.config
    assert (config.env, config.working_dir, config.cmd) == ((f"PATH={PATH}",), "/", ())


def test_config_is_inherited_from_the_image() -> None:
    base = image(
        user="u", working_dir="/w", cmd=("c",), entrypoint=("e",), labels={"l": "1"}, stop_signal="SIGINT",
        exposed_ports=frozenset({"80/tcp"}), volumes=frozenset({"/v"}), shell=("/bin/ash", "-c"), args_escaped=True,
        healthcheck=HealthCheck(("NONE",)), env=("PATH=/bin",), on_build=(),
    )  # fmt: skip
    plan = build("FROM a", images={"a": base})
    assert plan.config.config == base.config


# --- CMD and ENTRYPOINT ---------------------------------------------------------------------------------------------


def test_cmd_forms() -> None:
    assert build("FROM a\nCMD a  b").config.config.cmd == ("/bin/sh", "-c", "a  b")
    assert build('FROM a\nCMD ["a", "b"]').config.config.cmd == ("a", "b")
    assert build("FROM a\nCMD []").config.config.cmd == ()


def test_cmd_marks_its_arguments_as_escaped() -> None:
    assert build('FROM a\nCMD ["a"]').config.config.args_escaped
    assert not build('FROM a\nENTRYPOINT ["a"]').config.config.args_escaped


def test_cmd_does_not_expand_variables() -> None:
    assert build("FROM a\nENV A=1\nCMD $A").config.config.cmd == ("/bin/sh", "-c", "$A")


def test_entrypoint_clears_an_inherited_cmd() -> None:
    base = {"a": image(cmd=("c",))}
    assert build('FROM a\nENTRYPOINT ["e"]', images=base).config.config.cmd == ()
    assert build('FROM a\nCMD ["own"]\nENTRYPOINT ["e"]', images=base).config.config.cmd == ("own",)


def test_entrypoint_clears_the_cmd_of_a_base_stage() -> None:
    plan = build('FROM a AS x\nCMD ["c"]\nFROM x\nENTRYPOINT ["e"]')
    assert plan.config.config.cmd == ()


def test_shell_counts_from_its_line_on_and_is_inherited() -> None:
    plan = build('FROM a AS x\nCMD one\nSHELL ["/bin/ash", "-eo", "pipefail", "-c"]\nFROM x\nENTRYPOINT two')
    assert plan.config.config.entrypoint == ("/bin/ash", "-eo", "pipefail", "-c", "two")
    assert plan.config.config.shell == ("/bin/ash", "-eo", "pipefail", "-c")


# --- WORKDIR and USER -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("WORKDIR /a/b", "/a/b"),
        ("WORKDIR a", "/a"),
        ("WORKDIR /a\nWORKDIR b/../c", "/a/c"),
        ("WORKDIR /a\nWORKDIR ..", "/"),
        ("ENV D=/d\nWORKDIR $D/e", "/d/e"),
        ('WORKDIR "/a b"', "/a b"),
        ("WORKDIR /a\nWORKDIR $UNSET", "/a"),
        # What is absolute is kept as it is written.
        ("WORKDIR /a/", "/a/"),
        ("WORKDIR /a/./b/..", "/a/./b/.."),
        ("WORKDIR /a/\nWORKDIR b/", "/a/b"),
    ],
)
def test_workdir(lines: str, expected: str) -> None:
    plan = build(f"FROM a\n{lines}")
    assert plan.config.config.working_dir == expected
    assert history(plan)[-1] == f"WORKDIR {expected}"


def test_workdir_below_that_of_the_image() -> None:
    plan = build("FROM a\nWORKDIR x", images={"a": image(working_dir="/app")})
    assert plan.config.config.working_dir == "/app/x"


def test_user_expands_variables() -> None:
    assert build("FROM a\nARG U=me\nUSER $U:${U}s").config.config.user == "me:mes"


# --- EXPOSE, VOLUME, LABEL, STOPSIGNAL ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "ports"),
    [
        ("80", ["80/tcp"]),
        ("80/", ["80/tcp"]),
        ("53/UDP 9/sctp", ["53/udp", "9/sctp"]),
        ("8000-8002/udp", ["8000/udp", "8001/udp", "8002/udp"]),
        ("80-80", ["80/tcp"]),
        ("127.0.0.1:80:8080", ["8080/tcp"]),
        ("[::1]:80:8080", ["8080/tcp"]),
        ("::1:80:8080", ["8080/tcp"]),
        (":80", ["80/tcp"]),
        ("5000-5001:80", ["80/tcp"]),
        ("5000-5001:80-81", ["80/tcp", "81/tcp"]),
        ("$P", ["1/tcp", "2/tcp"]),
        ("0 65535", ["0/tcp", "65535/tcp"]),
    ],
)
def test_expose(words: str, ports: list[str]) -> None:
    plan = build(f'FROM a\nENV P="1 2"\nEXPOSE {words}')
    assert sorted(plan.config.config.exposed_ports) == sorted(ports)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("/tcp", 'invalid port: "/tcp": no port specified'),
        ("80/http", 'invalid port: "80/http": invalid proto: http'),
        ("x", "invalid containerPort: x"),
        ("65536", "invalid containerPort: 65536"),
        ("-1", "invalid containerPort: -1"),
        ("+1", "invalid containerPort: +1"),
        ("80-", "invalid containerPort: 80-"),
        ("9-8", "invalid containerPort: 9-8"),
        ("1-2-3", "invalid containerPort: 1-2-3"),
        ("x:80", "invalid hostPort: x"),
        ("1-3:80-81", "invalid ranges specified for container and host Ports: 80-81 and 1-3"),
        ("1.2.3:80:80", "invalid IP address: 1.2.3"),
        ("[::1:80:80", "invalid IP address: [::1"),
        ("\u0663", "invalid containerPort: \u0663"),
        ("9" * 5000, "invalid containerPort: " + "9" * 5000),
    ],
)
def test_malformed_port(word: str, message: str) -> None:
    assert refused(f"FROM a\nEXPOSE {word}").message == message


def test_ports_and_volumes_add_up() -> None:
    base = {"a": image(exposed_ports=frozenset({"1/tcp"}), volumes=frozenset({"/a"}))}
    config = build('FROM a\nEXPOSE 2\nVOLUME ["/b", "/c d"]\nVOLUME /e', images=base).config.config
    assert config.exposed_ports == {"1/tcp", "2/tcp"}
    assert config.volumes == {"/a", "/b", "/c d", "/e"}


def test_volume_that_expands_to_nothing() -> None:
    assert refused("FROM a\nVOLUME $X").message == "VOLUME specified can not be an empty string"


def test_labels_replace_those_of_the_image() -> None:
    plan = build("FROM a\nENV V=1\nLABEL a=\"x $V\" b='$V' $V=k", images={"a": image(labels={"a": "0", "z": "9"})})
    assert plan.config.config.labels == {"a": "x 1", "b": "$V", "1": "k", "z": "9"}


def test_labels_of_a_stage_are_not_those_of_its_sibling() -> None:
    text = "FROM a AS base\nLABEL l=0\nFROM base AS x\nLABEL l=1\nFROM base\nCOPY --from=x / /"
    assert build(text).config.config.labels == {"l": "0"}


@pytest.mark.parametrize("signal", ["SIGTERM", "term", "9", "64", "SIGRTMIN+3", "RTMAX-14", "SIGRTMIN"])
def test_signals(signal: str) -> None:
    assert build(f"FROM a\nSTOPSIGNAL {signal}").config.config.stop_signal == signal


@pytest.mark.parametrize("signal", ["SIGNOTHING", "0", "", "RTMIN+16", "RTMAX-15", "SIGSIGTERM", "\u0669"])
def test_unknown_signal(signal: str) -> None:
    assert refused(f"FROM a\nENV S={signal}\nSTOPSIGNAL $S").message == f"invalid signal: {signal}"


# --- HEALTHCHECK and ONBUILD ----------------------------------------------------------------------------------------


def test_healthcheck() -> None:
    flags = "--interval=1h --timeout=1m30s --start-period=1.5s --start-interval=200ms --retries=2"
    plan = build(f'FROM a\nHEALTHCHECK {flags} CMD ["a", "b"]')
    second = 1_000_000_000
    assert plan.config.config.healthcheck == HealthCheck(
        ("CMD", "a", "b"), 3600 * second, 90 * second, 3 * second // 2, second // 5, 2
    )


def test_healthcheck_none_replaces_that_of_the_image() -> None:
    base = {"a": image(healthcheck=HealthCheck(("CMD", "x"), 5))}
    plan = build("FROM a\nHEALTHCHECK NONE", images=base)
    assert plan.config.config.healthcheck == HealthCheck(("NONE",))


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"), (1, "1ns"), (1500, "1.5µs"), (200_000_000, "200ms"), (1_000_000_000, "1s"),
        (1_500_000_000, "1.5s"), (60_000_000_000, "1m0s"), (3_600_000_000_000, "1h0m0s"),
        (90_061_000_000_001, "25h1m1.000000001s"), (-1_500_000_000, "-1.5s"),
    ],
)  # fmt: skip
def test_durations_as_go_prints_them(nanoseconds: int, text: str) -> None:
    assert duration(nanoseconds) == text


def test_onbuild_adds_no_history() -> None:
    plan = build("FROM a\nONBUILD RUN true")
    assert history(plan) == []


def test_maintainer() -> None:
    assert build("FROM a\nMAINTAINER Me").config.author == "Me"


def test_each_entry_of_the_history_knows_its_lines() -> None:
    text = "FROM a AS base\nENV A=1\nRUN one \\\n  two\nFROM base\nCOPY x /\nLABEL b=2\n"
    plan = build(text, images={"a": image(layers=2)})
    lines = [None if line is None else (line.start, line.end) for line in plan.history_lines]
    assert lines == [None, None, (2, 2), (3, 4), (6, 6), (7, 7)]
    assert len(lines) == len(plan.config.history)


def test_no_credentials_of_urls_in_history_and_names() -> None:
    text = "FROM a\nARG URL\nRUN curl https://me:word@host/ $URL\n"
    plan = build(text, build_args={"URL": "http://x:word@y/?token=word"})
    shown = "RUN |1 URL=http://***@y/?token=*** /bin/sh -c curl https://***@host/ $URL # buildkit"
    assert history(plan)[-1] == shown
    assert plan.vertex is not None
    assert plan.vertex.meta.name == "[2/2] RUN curl https://***@host/ http://***@y/?token=***"
