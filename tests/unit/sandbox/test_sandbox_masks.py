"""What of the machine's state steps do not see."""

from __future__ import annotations

from pathlib import Path

from stagewright.sandbox.kernel_mounts import masked_in_sys


def test_every_cpus_heat_is_masked(tmp_path: Path) -> None:
    """GHSA-6fw5-f8r9-fgfm: what a CPU counts when it is too hot tells of the work of others."""
    for name in ("cpu0/thermal_throttle", "cpu11/thermal_throttle", "cpu2/topology", "online"):
        (tmp_path / "devices/system/cpu" / name).mkdir(parents=True)
    masked = masked_in_sys(str(tmp_path))
    assert {"devices/system/cpu/cpu0/thermal_throttle", "devices/system/cpu/cpu11/thermal_throttle"} < set(masked)
    assert "devices/system/cpu/cpu2/thermal_throttle" not in masked
    assert "firmware" in masked


def test_a_machine_that_tells_nothing_of_its_cpus(tmp_path: Path) -> None:
    assert masked_in_sys(str(tmp_path)) == ("devices/virtual/powercap", "firmware")
