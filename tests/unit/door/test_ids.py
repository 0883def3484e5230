"""Which ids a user namespace gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagewright import privilege
from stagewright.door import ids
from stagewright.door.ids import Extent, best_id_map, lay_out, subordinate_ranges


def test_ranges_of_the_user_by_name_and_by_number(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    path.write_text("other:1:2\nann:100000:65536\n# ann:5:5\n1000:300000:10\nann:x:1\nann:7:0\nann\n\n")
    assert list(subordinate_ranges(str(path), ("ann", "1000"))) == [(100000, 65536), (300000, 10)]
    assert list(subordinate_ranges(str(path), ("bob", "1001"))) == []
    assert list(subordinate_ranges(str(tmp_path / "missing"), ("ann",))) == []


def test_the_own_id_comes_first_and_ranges_follow() -> None:
    laid = list(lay_out(1000, [(100000, 10), (200000, 65536), (400000, 5)]))
    assert laid == [Extent(0, 1000, 1), Extent(1, 100000, 10), Extent(11, 200000, 65536)]
    assert [str(extent) for extent in laid] == ["0 1000 1", "1 100000 10", "11 200000 65536"]


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An ordinary user with the helpers, whose lists of ids are in a folder."""
    monkeypatch.setattr(privilege, "capabilities", lambda: 0)
    monkeypatch.setattr(privilege, "may_gain_privileges", lambda: True)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    monkeypatch.setattr("os.getegid", lambda: 54322)
    for kind in ("uid", "gid"):
        (tmp_path / f"sub{kind}").write_text("54321:100000:65536\n")
        monkeypatch.setattr(ids, f"_SUBORDINATE_{kind.upper()}S", str(tmp_path / f"sub{kind}"))
    return tmp_path


def test_all_subordinate_ids_where_there_are_some(ordinary: Path) -> None:
    found = best_id_map()
    assert found.uids == (Extent(0, 54321, 1), Extent(1, 100000, 65536))
    assert found.gids == (Extent(0, 54322, 1), Extent(1, 100000, 65536))
    assert found.helpers == ("/usr/bin/newuidmap", "/usr/bin/newgidmap")
    assert found.lack is None


def test_one_id_without_a_range(ordinary: Path) -> None:
    (ordinary / "subgid").write_text("")
    found = best_id_map()
    assert (found.uids, found.gids) == ((Extent(0, 54321, 1),), (Extent(0, 54322, 1),))
    assert found.helpers is None
    assert found.lack is not None
    assert "subgid gives 54321 no ids (as root: usermod --add-subuids" in found.lack


def test_one_id_without_the_helpers(ordinary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert best_id_map().lack == "newuidmap and newgidmap are not installed (Debian's package uidmap)"


def test_one_id_where_no_program_gains_privileges(ordinary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privilege, "may_gain_privileges", lambda: False)
    assert best_id_map().lack == "newuidmap cannot work where programs gain no privileges (no_new_privs)"


def test_who_may_set_ids_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privilege, "capabilities", lambda: 1 << 6 | 1 << 7)
    found = best_id_map()
    assert found.helpers is None
    assert found.lack is None
    assert all(extent.inside == extent.outside for extent in (*found.uids, *found.gids))
