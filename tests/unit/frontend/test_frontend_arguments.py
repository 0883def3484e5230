"""ARG, ENV, the predefined variables, and what of them a step and the history see."""

from __future__ import annotations

import pytest
from frontend_world import AMD64, PATH, Registry, build, environment, execs, history, image, last_exec, vertices

from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError, StagewrightError
from stagewright.frontend.convert import convert
from stagewright.frontend.options import Options
from stagewright.image.platform import Platform, host_platform

BASES = pytest.mark.parametrize("base", ["scratch", "a"])


def resolved(text: str, **options: object) -> list[str]:
    registry = Registry()
    convert(parse(text.encode()), Options(**{"platform": AMD64, **options}), registry)  # type: ignore[arg-type]
    return registry.asked[0]


# --- ARG before the first FROM --------------------------------------------------------------------------------------


def test_global_arg_in_from() -> None:
    text = "ARG V=1\nARG IMAGE=base-$V\nFROM ${IMAGE}\nRUN true"
    assert resolved(text) == ["base-1"]
    assert resolved(text, build_args={"V": "2"}) == ["base-2"]
    assert resolved(text, build_args={"IMAGE": "x"}) == ["x"]


def test_build_arg_that_is_not_declared_is_not_seen_in_from() -> None:
    assert resolved("FROM a${V}\nRUN true", build_args={"V": "2"}) == ["a"]


def test_several_global_args_on_one_line() -> None:
    assert resolved("ARG A=1 B=$A-2\nFROM x$B\nRUN true") == ["x1-2"]


def test_global_arg_is_not_seen_in_a_stage_unless_redeclared() -> None:
    assert environment(build("ARG V=1\nFROM a\nRUN true")) == {}
    assert environment(build("ARG V=1\nFROM a\nARG V\nRUN true")) == {"V": "1"}
    assert environment(build("ARG V=1\nFROM a\nARG V=2\nRUN true")) == {"V": "2"}


def test_global_arg_without_default_is_not_set() -> None:
    assert environment(build("ARG V\nFROM a\nARG V\nRUN true")) == {}


def test_error_in_a_global_arg_stands_at_its_line() -> None:
    with pytest.raises(DockerfileError) as caught:
        build("ARG A=1\nARG B=${A\nFROM a")
    assert caught.value.location is not None
    assert caught.value.location.start == 2


# --- ARG in a stage -------------------------------------------------------------------------------------------------


@BASES
def test_arg_value(base: str) -> None:
    text = f"FROM {base}\nARG A=1\nARG B\nARG C\nRUN true"
    assert environment(build(text, build_args={"B": "2", "X": "9"})) == {"A": "1", "B": "2"}


def test_build_arg_wins_over_the_default() -> None:
    assert environment(build("FROM a\nARG A=1\nRUN true", build_args={"A": ""})) == {"A": ""}


def test_arg_default_sees_args_and_env_before_it() -> None:
    text = "FROM a\nENV E=e\nARG A=$E-$LATER B=$A\nENV LATER=l\nRUN true"
    assert environment(build(text)) == {"E": "e", "A": "e-", "B": "e-", "LATER": "l"}


def test_default_that_is_not_used_may_be_wrong() -> None:
    assert environment(build("FROM a\nARG A=${x\nRUN true", build_args={"A": "1"})) == {"A": "1"}
    with pytest.raises(DockerfileError):
        build("FROM a\nARG A=${x\nRUN true")


def test_arg_is_seen_only_below_it() -> None:
    plan = build("FROM a\nRUN one\nARG A=1\nRUN two")
    assert [item for item in execs(plan)[0].env if item.startswith("A=")] == []
    assert "A=1" in execs(plan)[1].env


def test_arg_that_a_step_does_not_see_leaves_it_cached() -> None:
    def digests(value: str) -> list[str]:
        plan = build("FROM a\nRUN one\nARG A\nRUN two", build_args={"A": value})
        return [vertex.digest for vertex in vertices(plan)]

    first, second = digests("1"), digests("2")
    assert first[:2] == second[:2]
    assert first[2] != second[2]


def test_args_are_inherited_by_a_stage_on_the_stage() -> None:
    plan = build("FROM a AS x\nARG A=1\nFROM x\nRUN true")
    assert environment(plan) == {"A": "1"}
    assert history(plan)[-1] == "RUN |1 A=1 /bin/sh -c true # buildkit"


def test_args_are_not_in_the_image() -> None:
    assert build("FROM a\nARG A=1\nRUN true").config.config.env == (f"PATH={PATH}",)


@pytest.mark.parametrize("name", ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"])
def test_args_for_the_builder_are_not_in_the_environment(name: str) -> None:
    assert environment(build(f"FROM a\nARG {name}=true\nRUN true")) == {}


# --- ENV and ARG ----------------------------------------------------------------------------------------------------


def test_env_below_an_arg_wins() -> None:
    plan = build("FROM a\nARG A=arg\nENV A=env-$A\nRUN true", build_args={"A": "given"})
    assert environment(plan) == {"A": "env-given"}
    assert plan.config.config.env[1:] == ("A=env-given",)


def test_arg_below_an_env_is_what_steps_see() -> None:
    plan = build("FROM a\nENV A=env\nARG A=arg\nRUN true")
    assert environment(plan) == {"A": "arg"}
    assert plan.config.config.env[1:] == ("A=env",)


def test_env_of_the_base_stage_wins_over_its_args() -> None:
    plan = build("FROM a AS x\nENV A=env\nARG A=arg\nFROM x\nRUN true")
    assert environment(plan) == {"A": "env"}


def test_env_pairs_of_a_line_see_what_was_before_it() -> None:
    plan = build("FROM a\nENV A=1\nENV A=2 B=$A\nRUN true")
    assert environment(plan) == {"A": "2", "B": "1"}


def test_env_changes_an_image_variable_in_place() -> None:
    base = image(env=("A=1", "PATH=/bin", "B=2"))
    plan = build("FROM a\nENV A=3 C=4\nRUN true", images={"a": base})
    assert plan.config.config.env == ("A=3", "PATH=/bin", "B=2", "C=4")


def test_steps_see_variables_in_the_order_of_their_last_setting() -> None:
    base = image(env=("A=1", "PATH=/bin", "B=2"))
    plan = build("FROM a\nARG X=x\nENV A=3\nRUN true", images={"a": base})
    assert last_exec(plan).env == ("PATH=/bin", "B=2", "X=x", "A=3")


def test_env_of_an_image_without_path_gets_one() -> None:
    plan = build("FROM a\nRUN true", images={"a": image(env=("A=1",))})
    assert plan.config.config.env == ("A=1", f"PATH={PATH}")


def test_scratch_has_a_path() -> None:
    assert build("FROM scratch\nENV A=1").config.config.env == (f"PATH={PATH}", "A=1")


def test_old_form_of_env() -> None:
    assert environment(build("FROM a\nENV A one  two\nRUN true")) == {"A": "one  two"}


# --- predefined arguments -------------------------------------------------------------------------------------------


def test_platform_arguments() -> None:
    parts = ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
    declared = " ".join(f"{prefix}{part}" for prefix in ("TARGET", "BUILD") for part in parts)
    plan = build(f"FROM a\nARG {declared}\nRUN true", platform=Platform("linux", "arm", "v7"))
    host = host_platform()
    assert environment(plan) == {
        "TARGETPLATFORM": "linux/arm/v7",
        "TARGETOS": "linux",
        "TARGETOSVERSION": "",
        "TARGETARCH": "arm",
        "TARGETVARIANT": "v7",
        "BUILDPLATFORM": str(host),
        "BUILDOS": "linux",
        "BUILDOSVERSION": "",
        "BUILDARCH": host.architecture,
        "BUILDVARIANT": host.variant,
    }


def test_platform_arguments_can_be_overridden() -> None:
    plan = build("FROM a\nARG TARGETARCH\nRUN true", build_args={"TARGETARCH": "x"})
    assert environment(plan) == {"TARGETARCH": "x"}


def test_platform_arguments_are_not_seen_undeclared() -> None:
    assert environment(build("FROM a\nRUN true")) == {}


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("FROM a\nARG TARGETSTAGE\nRUN true", None, "default"),
        ("FROM a AS App\nARG TARGETSTAGE\nRUN true", None, "app"),
        ("FROM a AS one\nARG TARGETSTAGE\nRUN true\nFROM b AS two", "one", "one"),
    ],
)
def test_target_stage(text: str, target: str | None, expected: str) -> None:
    assert environment(build(text, target=target)) == {"TARGETSTAGE": expected}


# --- proxies --------------------------------------------------------------------------------------------------------

PROXIES = {"no_proxy": "n", "HTTP_PROXY": "h", "https_proxy": "s", "ALL_PROXY": "a", "Ftp_Proxy": "f"}


def test_proxies_reach_steps_in_both_cases() -> None:
    plan = build("FROM a\nRUN true", build_args=PROXIES)
    assert last_exec(plan).proxy_env == (
        "HTTP_PROXY=h", "http_proxy=h", "HTTPS_PROXY=s", "https_proxy=s", "FTP_PROXY=f", "ftp_proxy=f",
        "NO_PROXY=n", "no_proxy=n", "ALL_PROXY=a", "all_proxy=a",
    )  # fmt: skip


def test_lower_case_proxy_wins_and_empty_ones_are_left_out() -> None:
    plan = build("FROM a\nRUN true", build_args={"http_proxy": "low", "HTTP_PROXY": "UP", "no_proxy": ""})
    assert last_exec(plan).proxy_env == ("HTTP_PROXY=low", "http_proxy=low")


def test_proxies_are_in_no_key_and_no_history() -> None:
    with_proxy, without = (build("FROM a\nRUN true", build_args=args) for args in (PROXIES, {}))
    assert with_proxy.vertex is not None and without.vertex is not None
    assert with_proxy.vertex.digest == without.vertex.digest
    assert with_proxy.config == without.config


def test_declared_proxy_is_an_argument_like_others() -> None:
    plan = build("FROM a\nARG HTTP_PROXY\nRUN true", build_args=PROXIES)
    assert environment(plan) == {"HTTP_PROXY": "h"}
    assert history(plan)[-1] == "RUN |1 HTTP_PROXY=h /bin/sh -c true # buildkit"


# --- SOURCE_DATE_EPOCH ----------------------------------------------------------------------------------------------


def test_epoch_dates_the_history() -> None:
    plan = build("FROM a\nRUN true", build_args={"SOURCE_DATE_EPOCH": "1700000000"})
    assert plan.epoch == 1700000000
    assert plan.config.history[-1].created == "2023-11-14T22:13:20Z"


def test_epoch_from_a_global_arg() -> None:
    text = "ARG SOURCE_DATE_EPOCH=5\nFROM a\nRUN true"
    assert build(text).epoch == 5
    assert build(text, build_args={"SOURCE_DATE_EPOCH": "6"}).epoch == 6


def test_epoch_of_a_stage_argument_does_not_count() -> None:
    assert build("FROM a\nARG SOURCE_DATE_EPOCH=5\nRUN true").epoch is None


def test_without_epoch_the_history_has_no_dates() -> None:
    plan = build("FROM a\nRUN true")
    assert plan.epoch is None
    assert plan.config.history[-1].created is None


def test_empty_epoch_is_none_and_no_argument() -> None:
    plan = build("FROM a\nARG SOURCE_DATE_EPOCH\nRUN true", build_args={"SOURCE_DATE_EPOCH": ""})
    assert plan.epoch is None
    assert environment(plan) == {}


@pytest.mark.parametrize("value", ["context", "1_000", " 5", "\u0661", "253402300800", "-1", "9" * 5000])
def test_epoch_that_is_no_date(value: str) -> None:
    with pytest.raises(StagewrightError, match="invalid SOURCE_DATE_EPOCH"):
        build("FROM a", build_args={"SOURCE_DATE_EPOCH": value})


def test_epoch_before_and_after_a_stage() -> None:
    plan = build("FROM a\nWORKDIR /w\nCOPY x /", build_args={"SOURCE_DATE_EPOCH": "7"})
    made = [action for vertex in vertices(plan) for action in getattr(vertex.op, "actions", ())]
    assert [action.mtime for action in made] == [7, 7]


# --- options of the build -------------------------------------------------------------------------------------------


def test_hostname_from_a_build_argument() -> None:
    plan = build("FROM a\nRUN true", build_args={"BUILDKIT_SANDBOX_HOSTNAME": "box"})
    assert last_exec(plan).hostname == "box"


def test_labels_of_the_build_are_the_targets_alone() -> None:
    plan = build("FROM a AS x\nLABEL a=1 b=1\nFROM x", labels={"b": "2", "c": "3"})
    assert plan.config.config.labels == {"a": "1", "b": "2", "c": "3"}


def test_options_of_the_step() -> None:
    plan = build(
        "FROM a\nRUN true",
        extra_hosts=(("db", "10.0.0.1"),),
        ulimits=(("nofile", 1, 2),),
        shm_size=1 << 20,
        network="none",
    )
    op = last_exec(plan)
    assert (op.extra_hosts, op.ulimits, op.shm_size, op.network) == (
        (("db", "10.0.0.1"),), (("nofile", 1, 2),), 1 << 20, "none",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "expected"), [("", "none"), ("--network=default ", "none"), ("--network=host ", "host")]
)
def test_network_of_a_step(flag: str, expected: str) -> None:
    plan = build(f"FROM a\nRUN {flag}true", network="none", entitlements=frozenset({"network.host"}))
    assert last_exec(plan).network == expected
