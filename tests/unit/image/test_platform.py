import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.errors import UsageError
from stagewright.image.platform import Platform, host_platform, parse_platform, runnable_platforms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/X86-64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ("linux/riscv64", "linux/riscv64"),
    ],
)
def test_platforms_are_normalized(text: str, expected: str) -> None:
    assert str(parse_platform(text)) == expected


def test_what_is_left_out_comes_from_the_host() -> None:
    host = host_platform()
    assert parse_platform("linux") == host
    assert parse_platform(host.architecture) == host
    assert parse_platform("arm64") == Platform("linux", "arm64")


@pytest.mark.parametrize(
    "text", ["", "/", "linux/", "a/b/c/d", "linux/am d64", "nonsense", "linux/amd64\n", "li:nux/x"]
)
def test_nonsense_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_platform(text)


@given(st.text(max_size=30))
def test_any_text_is_a_platform_or_a_usage_error(text: str) -> None:
    try:
        platform = parse_platform(text)
    except UsageError:
        return
    assert parse_platform(str(platform)) == platform


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("linux/amd64", ["linux/amd64", "linux/386"]),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64/v1", "linux/386"]),
        ("linux/arm/v7", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm64", ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        (
            "linux/arm64/v8.1",
            ["linux/arm64/v8.1", "linux/arm64/v8", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"],
        ),
        ("linux/s390x", ["linux/s390x"]),
    ],
)
def test_what_a_platform_runs_is_in_containerds_order(wanted: str, expected: list[str]) -> None:
    assert [str(platform) for platform in runnable_platforms(parse_platform(wanted))] == expected


def test_armv9_runs_the_armv8_that_it_includes() -> None:
    order = [str(platform) for platform in runnable_platforms(parse_platform("linux/arm64/v9.1"))]
    assert order[:9] == [
        "linux/arm64/v9.1",
        "linux/arm64/v9",
        "linux/arm64/v8.6",
        "linux/arm64/v8.5",
        "linux/arm64/v8.4",
        "linux/arm64/v8.3",
        "linux/arm64/v8.2",
        "linux/arm64/v8.1",
        "linux/arm64/v8",
    ]


def test_an_os_version_is_only_compared_where_one_is_wanted() -> None:
    server = Platform("windows", "amd64", os_version="10.0.1")
    assert Platform("windows", "amd64").matches(server)
    assert server.matches(server)
    assert not Platform("windows", "amd64", os_version="10.0.2").matches(server)
