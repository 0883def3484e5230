import pytest

from stagewright.config import Config, RegistryTable
from stagewright.errors import UsageError
from stagewright.registry.hosts import Host, is_loopback, pull_hosts, registry_host, tables_by_address


def test_the_hub_has_an_address_of_its_own() -> None:
    table = RegistryTable(insecure=True, http=False)
    config = Config({"docker.io": table})
    assert registry_host(config, "docker.io") == Host("docker.io", "registry-1.docker.io")
    assert tables_by_address(config) == {"registry-1.docker.io": table}


def test_mirrors_come_first_each_with_its_own_table() -> None:
    config = Config(
        {
            "docker.io": RegistryTable(mirrors=("10.0.0.1:5000", "https://mirror.example.com/hub/")),
            "10.0.0.1:5000": RegistryTable(http=True),
        }
    )
    assert pull_hosts(config, "docker.io") == [
        Host("10.0.0.1:5000", "10.0.0.1:5000", schemes=("http",), namespace="docker.io"),
        Host("mirror.example.com", "mirror.example.com", prefix="hub/", namespace="docker.io"),
        Host("docker.io", "registry-1.docker.io"),
    ]
    assert pull_hosts(config, "docker.io")[1].repository("library/nginx") == "hub/library/nginx"


@pytest.mark.parametrize("name", ["localhost:5000", "127.0.0.1:5000", "[::1]:5000", "localhost"])
def test_loopback_may_speak_http(name: str) -> None:
    assert registry_host(Config(), name).schemes == ("http", "https")
    assert registry_host(Config({name: RegistryTable(http=False)}), name).schemes == ("https",)


def test_others_speak_https_unless_told() -> None:
    assert registry_host(Config(), "ghcr.io").schemes == ("https",)
    assert registry_host(Config({"r.io": RegistryTable(http=True)}), "r.io").schemes == ("http",)
    assert registry_host(Config({"r.io": RegistryTable(insecure=True)}), "r.io").schemes == ("https", "http")


@pytest.mark.parametrize("text", ["", "/", "https://", "a b/c", "user@host", "host/x?y"])
def test_a_mirror_that_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid mirror"):
        pull_hosts(Config({"docker.io": RegistryTable(mirrors=(text,))}), "docker.io")


def test_names_that_look_like_loopback_are_not() -> None:
    assert is_loopback("127.1.2.3") and is_loopback("[::1]")
    assert not is_loopback("localhost.example.com") and not is_loopback("127.0.0.1.example.com")
