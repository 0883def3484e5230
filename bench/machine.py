"""What machine the benchmark ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def facts(scratch: Path) -> dict[str, str | int | float]:
    """Processor, memory, kernel, system, Python, and the file system of `scratch`, by name."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) / (1 << 20), 1),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
        "python": platform.python_version(),
        "file_system": _file_system(scratch),
        "load_before": os.getloadavg()[0],
    }


def mounts_below(folder: Path) -> list[str]:
    """The mount points below a folder, the deepest first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True)


def _field(path: str, name: str) -> str | None:
    """The first value of `name : value` lines."""
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _file_system(folder: Path) -> str:
    """The type of the mount that holds the folder."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4]
        if f"{folder}/".startswith(f"{point.rstrip('/')}/") and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind
