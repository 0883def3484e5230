"""What RUN steps are given, what they may do, and how they end, with both runtimes."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest
from processes import processes_with
from workbench import Workbench, wait_for

RUNTIMES = {"native": (), "runc": ("--oci-runtime", "runc")}


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The flags that choose a runtime."""
    return RUNTIMES[request.param]


def test_steps_get_the_proxies_of_docker_s_settings(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN echo $http_proxy $HTTP_PROXY $no_proxy > /proxies\n")
    config = bench.scratch / "docker"
    config.mkdir()
    (config / "config.json").write_text('{"proxies": {"default": {"httpProxy": "http://p:1", "noProxy": "here"}}}')
    env = {"DOCKER_CONFIG": str(config)}
    assert bench.files(env=env).text("/proxies") == "http://p:1 http://p:1 here\n"
    assert bench.files("--no-cache", "--build-arg=http_proxy=own", env=env).text("/proxies") == "own own here\n"
    assert bench.build("--no-cache-filter=none").ran == []


def test_users(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    shared_bench.dockerfile("""
        FROM busybox
        RUN echo 'app:x:77:88::/home/app:/bin/sh' >> /etc/passwd
        RUN printf '%s\\n' 'appgroup:x:88:' 'extra:x:99:other,app' 'last:x:111:app' >> /etc/group && chmod 777 /
        USER app
        RUN echo "$(id -u) $(id -g) $(id -G) $HOME" >> /ids
        USER app:last
        RUN echo "$(id -u) $(id -g) $(id -G)" > /ids-group
        USER 77
        RUN echo "$(id -u) $(id -g) $(id -G) $HOME" > /ids-number
        USER 1234
        RUN echo "$(id -u) $(id -g) $(id -G) $HOME" > /ids-unknown
        USER 12:34
        RUN echo "$(id -u) $(id -g) $(id -G)" > /ids-numbers
        USER root
        RUN echo "$(id -u) $(id -g) $HOME" > /ids-root
    """)
    files = shared_bench.files("--no-cache", *runtime)
    assert files.text("/ids") == "77 88 88 99 111 /home/app\n"
    assert files.text("/ids-group").split()[:2] == ["77", "111"]
    assert files.text("/ids-number") == "77 88 88 99 111 /home/app\n"
    assert files.text("/ids-unknown") == "1234 0 0 /\n"
    assert files.text("/ids-numbers").split()[:2] == ["12", "34"]
    assert files.text("/ids-root") == "0 0 /root\n"
    assert files.owner("/ids") == (77, 88)


@pytest.mark.parametrize("user", ["nobody-knows", "root:nogroup-known"])
def test_an_unknown_user(shared_bench: Workbench, runtime: tuple[str, ...], user: str) -> None:
    shared_bench.dockerfile(f"FROM busybox\nUSER {user}\nRUN true\n")
    text = shared_bench.fail("--no-cache", *runtime)
    assert "Dockerfile:3" in text
    assert user.rpartition(":")[2] in text


def test_names_and_resolver(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    shared_bench.dockerfile("""
        FROM busybox
        RUN cat /etc/hosts > /hosts; cat /etc/resolv.conf > /resolver; hostname > /name
    """)
    hosts = ("--add-host", "db:10.1.2.3", "--add-host=six=[fd00::1]")
    files = shared_bench.files("--no-cache", *hosts, *runtime)
    entries = [line.split() for line in files.lines("/hosts") if line.strip()]
    assert ["10.1.2.3", "db"] in entries
    assert ["fd00::1", "six"] in entries
    assert any(entry[0] == "127.0.0.1" and "localhost" in entry for entry in entries)
    assert any(line.startswith("nameserver") for line in files.lines("/resolver"))
    assert files.text("/name") == "buildkitsandbox\n"


def test_limits_and_shared_memory(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    shared_bench.dockerfile(
        "FROM busybox\nRUN ulimit -n > /files; ulimit -Hn >> /files; df -k /dev/shm | tail -1 > /shm\n"
    )
    files = shared_bench.files("--no-cache", "--ulimit=nofile=100:200", "--shm-size=5m", *runtime)
    assert files.lines("/files") == ["100", "200"]
    assert files.text("/shm").split()[1] == "5120"


def test_networks(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    shared_bench.dockerfile("""
        FROM busybox
        RUN ls /sys/class/net | wc -w > /default
        RUN --network=none ip -o link | grep -vc ' lo:' > /none; ip -o link | grep -c UP >> /none; true
        RUN --network=host readlink /proc/self/ns/net > /host
    """)
    assert "network.host is not allowed" in shared_bench.fail(*runtime)
    files = shared_bench.files("--no-cache", "--allow=network.host", *runtime)
    assert files.lines("/none") == ["0", "1"]
    assert files.text("/host").strip() == os.readlink("/proc/self/ns/net")
    files = shared_bench.files("--no-cache", "--network=none", "--allow=network.host", *runtime)
    assert files.text("/none") == "0\n1\n"


def test_networks_that_change_from_step_to_step(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    steps = ("default", "default", "host", "none", "default", "none", "host", "default")
    look = "readlink /proc/self/ns/net; ls /sys/class/net"
    lines = [f"RUN --network={name} ({look}) > /{number}" for number, name in enumerate(steps)]
    shared_bench.dockerfile("FROM busybox\n" + "\n".join(lines) + "\n")
    files = shared_bench.files("--no-cache", "--allow=network.host", *runtime)
    seen = [(name, files.text(f"/{number}")) for number, name in enumerate(steps)]
    machine = [os.readlink("/proc/self/ns/net"), *sorted(os.listdir("/sys/class/net"))]
    assert all(text.split() == machine for name, text in seen if name == "host")
    own = {text for name, text in seen if name == "default"}
    assert len(own) == 1
    assert own != {text for name, text in seen if name == "host"} or machine[0] in own.pop()
    apart = [text.split() for name, text in seen if name == "none"]
    assert all(devices == ["lo"] and namespace != machine[0] for namespace, *devices in apart)


def test_the_flag_for_the_hosts_network_grants_it(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    shared_bench.dockerfile("""
        FROM busybox
        RUN readlink /proc/self/ns/net > /one
        RUN --network=host readlink /proc/self/ns/net > /other
    """)
    files = shared_bench.files("--no-cache", "--network=host", *runtime)
    assert files.text("/one") == files.text("/other") == os.readlink("/proc/self/ns/net") + "\n"


def test_insecure_steps(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    shared_bench.dockerfile("""
        FROM busybox
        RUN --security=insecure grep -E '^(Cap(Prm|Eff|Amb)|Seccomp):' /proc/self/status > /root-has && \\
            mkdir /m && mount -t tmpfs none /m && echo yes > /mounted
        USER 1000
        RUN --security=insecure sh -c 'grep CapEff: /proc/self/status' > /tmp/user-has
    """)
    assert "security.insecure is not allowed" in shared_bench.fail(*runtime)
    files = shared_bench.files("--no-cache", "--allow=security.insecure", *runtime)
    found = dict(line.split(":\t") for line in files.lines("/root-has"))
    assert found["Seccomp"] == "0"
    assert found["CapPrm"] == found["CapEff"] == found["CapAmb"] == files.text("/tmp/user-has").split()[1]
    assert int(found["CapEff"], 16) & 1 << 21
    assert files.text("/mounted") == "yes\n"


@pytest.mark.root("an old hierarchy of control groups counts processes")
@pytest.mark.skipif(not Path("/sys/fs/cgroup/pids").exists(), reason="no old hierarchy that counts processes")
def test_limits_of_a_step(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    shared_bench.dockerfile("""
        FROM busybox
        RUN for i in $(seq 60); do sleep 60 & done
    """)
    assert "exit code: 2" in shared_bench.fail("--pids-limit=20", "--ulimit=nproc=500", *runtime)
    shared_bench.files("--pids-limit=100", *runtime)


def test_what_a_step_is_given_is_in_no_layer(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    shared_bench.dockerfile("FROM busybox\n")
    before = shared_bench.files()
    shared_bench.dockerfile("""
        FROM busybox
        RUN --mount=type=cache,target=/cache/deep --mount=type=tmpfs,target=/tmpfs \\
            --mount=type=bind,target=/bound,rw --mount=type=secret,id=none,target=/secret \\
            touch /cache/deep/a /tmpfs/b /bound/c /dev/shm/d /dev/e; ls /bound/Dockerfile
    """)
    after = shared_bench.files("--no-cache", "--add-host=a:1.2.3.4", *runtime)
    assert sorted(after.members) == sorted(before.members)
    assert all(
        (entry.mode, entry.uid, entry.gid, entry.mtime)
        == (after.members[path].mode, after.members[path].uid, after.members[path].gid, after.members[path].mtime)
        for path, entry in before.members.items()
    )
    assert not (shared_bench.context / "c").exists()


def test_what_a_step_may_not_do(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    shared_bench.dockerfile("""
        FROM busybox
        RUN ! mount -t tmpfs none /mnt
        RUN ! umount /proc
        RUN ! (mknod /disk b 254 0 && head -c 1 /disk) && rm -f /disk
        RUN ! (echo 1 > /proc/sys/kernel/printk) && ! (echo b > /proc/sysrq-trigger)
        RUN ! head -c 1 /proc/kcore | grep -q . && ! ls /proc/acpi/* /sys/firmware/* 2>/dev/null
        RUN ! reboot -f && ! hostname other && ! hwclock -w && date -s 2000-01-01 2>&1 | grep 'not permitted'
        RUN [ $(ls -d /proc/[0-9]* | wc -l) -le 5 ]
        RUN ! chroot /proc/1/root/.. true || [ -e /bin/busybox ]
        RUN [ "$(grep CapEff /proc/self/status | cut -f2)" = 00000000a80425fb ]
        RUN [ "$(grep Seccomp: /proc/self/status | cut -f2)" = 2 ]
        USER 5
        RUN [ "$(grep CapEff /proc/self/status | cut -f2)" = 0000000000000000 ] && ! touch /x
    """)
    shared_bench.build("--no-cache", *runtime)


def test_the_hosts_authorities(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    bundle = shared_bench.scratch / "bundle.pem"
    bundle.write_text("-----the authorities of this host-----\n")
    shared_bench.dockerfile("""
        FROM busybox
        RUN if [ -n "$SSL_CERT_FILE" ]; then cat $SSL_CERT_FILE $PIP_CERT $REQUESTS_CA_BUNDLE $NODE_EXTRA_CA_CERTS \\
            $GIT_SSL_CAINFO $CURL_CA_BUNDLE; fi | sort | uniq -c | tr -s ' '
    """)
    archive = shared_bench.scratch / "image.tar"
    build = shared_bench.build("--no-cache", f"--host-ca={bundle}", "-o", f"type=oci,dest={archive}", *runtime)
    assert build.step("SSL_CERT_FILE").log == b" 6 -----the authorities of this host-----\n"
    assert b"SSL_CERT_FILE=" not in archive.read_bytes()
    # The cache key does not hold it: the same step without it is a hit.
    assert shared_bench.build(*runtime).ran == []
    files = shared_bench.files("--no-cache", f"--host-ca={bundle}", *runtime)
    shared_bench.dockerfile("FROM busybox\n")
    assert sorted(files.members) == sorted(shared_bench.files().members)


def test_a_missing_bundle_of_authorities(shared_bench: Workbench) -> None:
    shared_bench.dockerfile("FROM busybox\nRUN true\n")
    assert "/does/not/exist" in shared_bench.fail("--host-ca=/does/not/exist")


# --- how steps end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_kills_the_whole_tree(shared_bench: Workbench, runtime: tuple[str, ...], number: signal.Signals) -> None:
    marker = f"{1_000_000 + os.getpid()}.{time.monotonic_ns()}"
    shared_bench.dockerfile(f"""
        FROM busybox AS one
        RUN trap '' INT TERM; (sleep {marker} & setsid sleep {marker} &); echo I am; sleep {marker}
        FROM busybox
        COPY --from=one / /
    """)
    process = shared_bench.start(*runtime)
    wait_for(process, " I am")
    assert processes_with(marker)
    process.send_signal(number)
    rest = process.communicate()[1]
    assert process.returncode == 130, rest
    assert rest.splitlines()[-1] == "ERROR: canceled"
    assert "Traceback" not in rest
    assert processes_with(marker) == []
    shared_bench.dockerfile("FROM busybox\nRUN echo works > /after\n")
    assert shared_bench.files("--no-cache", *runtime).text("/after") == "works\n"


def test_a_failing_sibling_ends_the_others(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    marker = f"{2_000_000 + os.getpid()}.{time.monotonic_ns()}"
    shared_bench.dockerfile(f"""
        FROM busybox AS patient
        RUN --mount=type=cache,id={marker},target=/meet touch /meet/here; sleep {marker}
        FROM busybox AS failing
        RUN --mount=type=cache,id={marker},target=/meet until [ -e /meet/here ]; do sleep 0.02; done; echo why; exit 7
        FROM scratch
        COPY --from=patient / /
        COPY --from=failing / /
    """)
    text = shared_bench.fail("--no-cache", "--jobs=4", *runtime)
    assert "Dockerfile:4" in text
    assert "exit code: 7" in text
    assert processes_with(marker) == []


def test_background_processes_end_with_their_step(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    marker = f"{3_000_000 + os.getpid()}.{time.monotonic_ns()}"
    shared_bench.dockerfile(f"FROM busybox\nRUN sleep {marker} & echo done > /done\n")
    assert shared_bench.files("--no-cache", *runtime).text("/done") == "done\n"
    assert processes_with(marker) == []


@pytest.mark.parametrize(
    ("command", "code"), [("exit 42", 42), ("sh -c 'kill -9 $$'; exit $?", 137), ("does-not-exist", 127)]
)
def test_exit_codes(shared_bench: Workbench, runtime: tuple[str, ...], command: str, code: int) -> None:
    shared_bench.dockerfile(f"FROM busybox\nRUN {command}\n")
    assert f"exit code: {code}\n" in shared_bench.fail("--no-cache", *runtime) + "\n"


def test_a_runtime_that_is_not_there(shared_bench: Workbench) -> None:
    shared_bench.dockerfile("FROM busybox\nRUN true\n")
    assert "no-such-runtime" in shared_bench.fail("--no-cache", "--oci-runtime=no-such-runtime")


def test_stdin_is_empty_and_output_may_be_large(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    shared_bench.dockerfile("""
        FROM busybox
        RUN cat; yes 0123456789 | head -c 3000000; printf 'no newline'
    """)
    log = shared_bench.build("--no-cache", *runtime).step("yes 0123").log
    assert log.endswith(b"no newline")


def test_nobody_else_gets_at_the_layers(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN cp /bin/busybox /setuid && chmod 4755 /setuid\n")
    bench.build()
    assert stat.S_IMODE(bench.stagewright.root.stat().st_mode) == 0o700
