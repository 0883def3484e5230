import base64

import pytest

from stagewright.errors import UsageError
from stagewright.registry.proxy import Proxy, proxy_for

ENV = {"HTTP_PROXY": "http://p:1", "https_proxy": "q:2"}


def test_each_scheme_has_its_proxy_in_either_case() -> None:
    assert proxy_for("http", "x.io", 80, ENV) == Proxy("p", 1)
    assert proxy_for("https", "x.io", 443, ENV) == Proxy("q", 2)
    assert proxy_for("https", "x.io", 443, {"HTTPS_PROXY": "http://p"}) == Proxy("p", 80)
    assert proxy_for("https", "x.io", 443, {}) is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "a.localhost"])
def test_loopback_never_goes_through_one(host: str) -> None:
    assert proxy_for("http", host, 80, ENV) is None


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"),
    [
        ("*", "x.io", 443, True),
        ("x.io", "x.io", 443, True),
        ("x.io", "a.x.io", 443, True),
        ("x.io", "ax.io", 443, False),
        (".x.io", "a.x.io", 443, True),
        (".x.io", "x.io", 443, False),
        ("*.x.io", "a.x.io", 443, True),
        ("a.io, X.io", "x.IO", 443, True),
        ("x.io:443", "x.io", 443, True),
        ("x.io:444", "x.io", 443, False),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.1.2.3", "10.1.2.3", 443, True),
        ("10.1.2.3:443", "10.1.2.3", 443, True),
        ("10.1.2.3:444", "10.1.2.3", 443, False),
        ("fd00::/8", "fd00::1", 443, True),
        ("[fd00::1]:443", "fd00::1", 443, True),
        ("", "x.io", 443, False),
        (",,", "x.io", 443, False),
    ],
)
def test_no_proxy_is_gos(no_proxy: str, host: str, port: int, direct: bool) -> None:
    found = proxy_for("https", host, port, {**ENV, "NO_PROXY": no_proxy})
    assert (found is None) == direct


def test_a_proxys_password_is_sent_but_not_shown() -> None:
    proxy = proxy_for("https", "x.io", 443, {"HTTPS_PROXY": "http://me:p%40ss@p:8"})
    assert proxy is not None
    assert proxy.authorization == "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert proxy.authorization not in repr(proxy)


@pytest.mark.parametrize("text", ["socks5://u:secret@p:1", "https://u:secret@p:1", "http://u:secret@:x", "http://"])
def test_another_kind_of_proxy_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        proxy_for("https", "x.io", 443, {"HTTPS_PROXY": text})
    assert caught.value.message == "HTTPS_PROXY does not name a proxy that can be used"
    assert caught.value.hint == "write it as http://HOST:PORT"
