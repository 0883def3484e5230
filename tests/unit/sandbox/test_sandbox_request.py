"""What a step becomes on its way to the launcher."""

from __future__ import annotations

import marshal
from pathlib import Path

import pytest

from stagewright.errors import SandboxError
from stagewright.records import replace
from stagewright.sandbox import request, wire
from stagewright.sandbox.oci import bundle_config
from stagewright.sandbox.request import build_request, hosts_file
from stagewright.sandbox.spec import BindMount, Root, SecretMount, SshMount, Step, TmpfsMount

STEP = Step(("sh",), Root(("/lower",), "/upper", "/work"))


def test_mounts_come_in_the_order_of_their_depth() -> None:
    mounts = (
        SecretMount("/run/secrets/a", b"x"),
        BindMount("/run", "/source"),
        SshMount("/run/ssh", "/agent"),
        TmpfsMount("/tmp/"),
    )
    built = build_request(replace(STEP, mounts=mounts))
    targets = [mount[1] for mount in built["mounts"]]
    assert targets == ["/run", "/tmp/", "/etc/hosts", "/etc/resolv.conf", "/run/ssh", "/run/secrets/a"]


def test_a_request_survives_the_wire() -> None:
    built = build_request(replace(STEP, mounts=(SecretMount("/s", bytes(range(256))),), ulimits=(("nofile", 1, -1),)))
    assert marshal.loads(marshal.dumps(built)) == built


def test_no_repr_shows_a_secret() -> None:
    step = replace(STEP, env=("TOKEN=hunter2",), mounts=(SecretMount("/s", b"hunter2"),))
    assert "hunter2" not in repr(step)


def test_hosts() -> None:
    text = hosts_file(replace(STEP, hostname="me", extra_hosts=(("a.example", "10.0.0.1"), ("b.example", "::2"))))
    assert text == (
        "127.0.0.1\tlocalhost me\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.1\ta.example\n::2\tb.example\n"
    )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (replace(STEP, args=()), "the step has no program to run"),
        (replace(STEP, cwd="relative"), "the working directory 'relative' is not an absolute path"),
        (replace(STEP, mounts=(TmpfsMount("relative"),)), "the mount target 'relative' is not an absolute path"),
        (replace(STEP, mounts=(TmpfsMount("/./"),)), "a mount cannot take the place of the root directory"),
        (replace(STEP, mounts=(TmpfsMount("/a\0"),)), "a NUL character in '/a\\x00'"),
        (replace(STEP, env=("A=\0",)), "a NUL character in the environment variable A"),
        (replace(STEP, root=Root((), "/upper")), "a root has an upper and a work directory, or neither"),
        (replace(STEP, ulimits=(("nothing", 1, 1),)), "there is no resource limit 'nothing'"),
        (replace(STEP, ulimits=(("nofile", 2, 1),)), "the soft limit of nofile is above its hard limit"),
        (replace(STEP, ulimits=(("nofile", -1, 1),)), "the soft limit of nofile is above its hard limit"),
    ],
)
def test_what_is_refused(step: Step, message: str) -> None:
    with pytest.raises(SandboxError) as caught:
        build_request(step)
    assert caught.value.message == message


def test_certificates_do_not_override_what_is_set(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(b"certificates")
    built = build_request(replace(STEP, host_ca=str(bundle), env=("CURL_CA_BUNDLE=/mine", "A=b")))
    names = [entry.partition("=")[0] for entry in built["env"]]
    assert names.count("CURL_CA_BUNDLE") == 1
    assert set(request.HOST_CA_VARIABLES) < set(names)
    assert b"certificates" in [mount[3] for mount in built["mounts"]]


def test_the_bundle_of_a_step_without_network() -> None:
    step = replace(STEP, network="none", shm_size=1234, ulimits=(("nofile", 10, -1),))
    config = bundle_config(step, build_request(step)["limits"], "name")
    assert {"type": "network"} in config["linux"]["namespaces"]
    assert config["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": (1 << 64) - 1}]
    assert any("size=1234" in mount["options"] for mount in config["mounts"])
    assert "/proc/kcore" in config["linux"]["maskedPaths"]
    assert config["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]


def test_a_message_in_pieces() -> None:
    inbox = wire.Inbox()
    data = wire.pack(("one", 1)) + wire.pack(("two", b"2" * 1000))
    found = [message for at in range(len(data)) for message in inbox.feed(data[at : at + 1])]
    assert found == [("one", 1), ("two", b"2" * 1000)]
