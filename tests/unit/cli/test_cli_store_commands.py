import io
import json
import pathlib
import sys
import time
from typing import Any, BinaryIO

import pytest
from fake_library import FakeLibrary, ImageInfo, PruneReport, UsageRow

from stagewright.cli.main import main
from stagewright.cli.output import format_age
from stagewright.errors import StoreError
from stagewright.progress.events import VertexEvent
from stagewright.records import replace
from stagewright.reports import StoreCheck, StoreProblem


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_images_as_a_table(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    library.answers["images"] = [
        ImageInfo(created=time.time() - 7300),
        ImageInfo(name="registry.example.com/日本\x1b[2J:1", created=None, size=32),
    ]
    assert main(["images", "--root", "/r", "--config", "/c"]) == 0
    assert library.calls[0] == ("Store", (), {"root": "/r", "config": "/c"})
    assert lines(capsys) == [
        "NAME                         IMAGE ID      PLATFORM     CREATED      SIZE",
        "app:latest                   cccccccccccc  linux/amd64  2 hours ago  1.05MB",
        "registry.example.com/日本:1  cccccccccccc  linux/amd64               32B",
    ]


def test_images_for_machines(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    library.answers["images"] = [ImageInfo(), ImageInfo()]
    assert main(["images", "-q"]) == 0
    assert lines(capsys) == ["c" * 12] * 2
    assert main(["images", "-q", "--no-trunc"]) == 0
    assert lines(capsys) == ["sha256:" + "c" * 64] * 2
    assert main(["images", "--format", "json"]) == 0
    rows = [json.loads(line) for line in lines(capsys)]
    assert rows[0]["name"] == "app:latest"
    assert rows[0]["size"] == 1_050_000
    assert main(["images", "--format", "xml"]) == 1


def test_inspect(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    library.answers["inspect"] = lambda name: {"name": name}
    assert main(["inspect", "a", "b"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "a"}, {"name": "b"}]
    assert main(["inspect"]) == 1


def test_tag(library: FakeLibrary) -> None:
    assert main(["tag", "a", "b:1"]) == 0
    assert library.calls[-1] == ("tag", ("a", "b:1"), {})
    assert main(["tag", "a"]) == 1


def test_rm(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    library.answers["remove"] = lambda name: [f"Untagged: {name}"]
    assert main(["rm", "a", "b"]) == 0
    assert lines(capsys) == ["Untagged: a", "Untagged: b"]


@pytest.mark.parametrize("command", ["push", "pull"])
def test_transfers_show_progress_and_print_the_digest(
    library: FakeLibrary, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    def transfer(name: str, *, on_event: Any, **more: Any) -> str:
        on_event(VertexEvent("sha256:a", f"transfer {name}", started=1.0, completed=2.0))
        return "sha256:abc"

    library.answers[command] = transfer
    assert main([command, "app:1"]) == 0
    assert capsys.readouterr() == ("sha256:abc\n", "#1 transfer app:1\n#1 DONE 1.0s\n")
    assert main([command, "-q", "app:1"]) == 0
    assert capsys.readouterr() == ("sha256:abc\n", "")


def test_pull_for_a_platform(library: FakeLibrary) -> None:
    library.answers["pull"] = "sha256:abc"
    assert main(["pull", "--platform", "linux/arm64", "a"]) == 0
    assert library.calls[-1][2]["platform"] == "linux/arm64"


def test_a_failed_transfer_closes_the_display(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    def transfer(name: str, *, on_event: Any) -> str:
        on_event(VertexEvent("sha256:a", "pushing layers", started=1.0))
        raise StoreError("disk full")

    library.answers["push"] = transfer
    assert main(["push", "a"]) == 1
    assert capsys.readouterr().err == "#1 pushing layers\nERROR: disk full\n"


def save(names: list[str], stream: BinaryIO, *, format: str) -> None:
    stream.write(f"{names} {format}".encode())


def test_save_to_a_file(library: FakeLibrary, tmp_path: pathlib.Path) -> None:
    library.answers["save"] = save
    target = tmp_path / "a.tar"
    assert main(["save", "-o", str(target), "a", "--format=oci", "b"]) == 0
    assert target.read_bytes() == b"['a', 'b'] oci"


def test_a_failed_save_leaves_the_file_of_before(library: FakeLibrary, tmp_path: pathlib.Path) -> None:
    def fail(names: list[str], stream: BinaryIO, *, format: str) -> None:
        stream.write(b"half")
        raise StoreError("damaged")

    target = tmp_path / "a.tar"
    target.write_bytes(b"before")
    library.answers["save"] = fail
    assert main(["save", "-o", str(target), "a"]) == 1
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_save_to_standard_output(
    library: FakeLibrary, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    library.answers["save"] = save
    assert main(["save", "a"]) == 0
    assert capsysbinary.readouterr().out == b"['a'] docker"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["save", "a"]) == 1
    assert b"terminal" in capsysbinary.readouterr().err


def test_load(
    library: FakeLibrary,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library.answers["load"] = lambda stream: [stream.read().decode()]
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"app:1")
    assert main(["load", "-i", str(archive)]) == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"app:2")))
    assert main(["load"]) == 0
    assert lines(capsys) == ["Loaded image: app:1", "Loaded image: app:2"]
    assert main(["load", "-i", str(tmp_path / "gone")]) == 1
    assert "No such file" in capsys.readouterr().err


def prune_call(**given: object) -> tuple[str, tuple[()], dict[str, object]]:
    nothing = {"all": False, "filters": [], "reserved_space": 0, "max_used_space": 0, "min_free_space": 0}
    return "prune", (), {**nothing, **given}


def test_prune(library: FakeLibrary, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    row = UsageRow("cache", "1", 50_000, description="RUN make")
    library.answers["prune"] = PruneReport(1_050_000, (row,))
    assert main(["prune", "--all", "-f"]) == 0
    assert library.calls[-1] == prune_call(all=True)
    assert lines(capsys) == [
        "ID  KIND   RECLAIMABLE  SHARED  SIZE     LAST USED  DESCRIPTION",
        "1   cache  true         false   50.00kB             RUN make",
        "",
        "Total: 1.05MB",
    ]
    library.answers["prune"] = PruneReport(0, (), busy=True)
    assert main(["prune", "-f"]) == 0
    assert "is running" in lines(capsys)[0]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    library.calls.clear()
    assert main(["prune"]) == 0
    assert library.calls == []
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert main(["prune"]) == 0
    assert library.calls[-1] == prune_call()


def test_prune_by_filters_and_limits(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    row = UsageRow("cache", "1", 50_000, description="RUN make")
    library.answers["prune"] = PruneReport(50_000, (row,))
    limits = ["--max-used-space=2g", "--min-free-space", "1k", "--keep-storage=512"]
    assert main(["prune", "-f", "--filter", "until=24h", "--filter=type=regular", "--verbose", *limits]) == 0
    assert library.calls[-1] == prune_call(
        filters=["until=24h", "type=regular"], reserved_space=512, max_used_space=2 << 30, min_free_space=1024
    )
    said = lines(capsys)
    assert (said[0], said[-1]) == ("ID:           1", "Total: 50.00kB")


def test_du(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    library.answers["disk_usage"] = [
        UsageRow("blob", "b1", 1000, in_use=True, shared=True),
        UsageRow("cache", "s1", 3000, description="RUN make", parent="7"),
    ]
    assert main(["du", "--filter", "until=1h"]) == 0
    assert library.calls[-1] == ("disk_usage", (["until=1h"],), {})
    assert lines(capsys) == [
        "ID  KIND   RECLAIMABLE  SHARED  SIZE    LAST USED  DESCRIPTION",
        "s1  cache  true         false   3.00kB             RUN make",
        "b1  blob   false        true    1.00kB",
        "",
        "Cache: 3.00kB",
        "Blob: 1.00kB",
        "Shared: 1.00kB",
        "Private: 3.00kB",
        "Reclaimable: 3.00kB",
        "Total: 4.00kB",
    ]
    assert main(["du", "--verbose"]) == 0
    assert lines(capsys)[:9] == [
        "ID:           s1",
        "Parent:       7",
        "In use:       false",
        "Reclaimable:  true",
        "Shared:       false",
        "Size:         3.00kB",
        "Description:  RUN make",
        "Kind:         cache",
        "Type:         regular",
    ]
    for flag in ("--format=json", "--json"):
        assert main(["du", flag]) == 0
        found = [json.loads(line) for line in lines(capsys)]
        assert [(row["id"], row["reclaimable"]) for row in found] == [("s1", True), ("b1", False)]


def test_check(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    problem = StoreProblem("blob", "sha256:1", "is damaged", "it is fetched anew")
    library.answers["check"] = StoreCheck((problem,), False, 3, 2, 1)
    assert main(["check"]) == 1
    assert library.calls[-1] == ("check", (), {"repair": False})
    assert lines(capsys) == [
        "blob sha256:1: is damaged",
        "    a repair costs: it is fetched anew",
        "Looked at 3 blobs, 2 snapshots and 1 image.",
        "1 problem: see stagewright check --repair.",
    ]
    library.answers["check"] = StoreCheck((replace(problem, repaired=True),), False, 3, 2, 1)
    assert main(["check", "--repair", "--json"]) == 0
    assert library.calls[-1] == ("check", (), {"repair": True})
    assert json.loads(capsys.readouterr().out)["problems"][0]["repaired"] is True
    library.answers["check"] = StoreCheck((), True, 0, 0, 0)
    assert main(["check"]) == 0
    assert lines(capsys)[1] == "Nothing is wrong."


def test_info(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    library.answers["info"] = {
        "root": "/r",
        "sandbox": {"seccomp": True, "runtimes": ["native", "runc"], "cgroups": None},
    }
    assert main(["info"]) == 0
    assert lines(capsys) == ["root: /r", "sandbox:", "  seccomp: yes", "  runtimes: native, runc", "  cgroups: none"]
    assert main(["info", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == library.answers["info"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0, "just now"),
        (1, "1 second ago"),
        (59, "59 seconds ago"),
        (60, "1 minute ago"),
        (7300, "2 hours ago"),
        (100_000, "27 hours ago"),
        (200_000, "2 days ago"),
        (15 * 86_400, "2 weeks ago"),
        (800 * 86_400, "2 years ago"),
    ],
)
def test_ages(seconds: float | None, text: str) -> None:
    assert format_age(None if seconds is None else 10**9 - seconds, 10**9) == text
