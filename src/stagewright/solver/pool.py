"""Threads for the work of a build, and how much of it may run at once."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Literal

Lane = Literal["step", "file", "source"]
_SOURCES_AT_ONCE = 8
# Steps wait for networks, disks and locks most of their time; the kernel shares the cores among those that do not.
_STEPS_PER_CORE = 4
_STEPS_AT_MOST = 512


class Pool:
    """Runs callables in threads that are started when needed and used again.

    Three lanes are bounded apart: `file` (hashing and copying: the cores), `source` (waiting for networks) and `step`
    (processes). A step lane of `jobs=None` takes four steps a core, and more of them as long as cores are idle: a step
    that waits holds no core. On a machine that others keep busy, idle cores alone would let too few steps start.
    """

    def __init__(self, jobs: int | None) -> None:
        cores = len(os.sched_getaffinity(0))
        self._limits: dict[Lane, int] = {
            "step": jobs or cores * _STEPS_PER_CORE,
            "file": cores,
            "source": _SOURCES_AT_ONCE,
        }
        self._adaptive = jobs is None
        self._extra_steps = 0
        self._running: dict[Lane, int] = {"step": 0, "file": 0, "source": 0}
        self._waiting: dict[Lane, deque[Callable[[], None]]] = {"step": deque(), "file": deque(), "source": deque()}
        self._tasks: SimpleQueue[tuple[Lane, Callable[[], None]] | None] = SimpleQueue()
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._idle_meter = _IdleMeter()

    def submit(self, lane: Lane, task: Callable[[], None]) -> None:
        """Run `task` as soon as its lane has room. It must not raise."""
        with self._lock:
            if lane == "step" and not self._waiting["step"]:
                # How idle the cores were before anything waited says nothing about what runs now.
                self._idle_meter.reset()
            self._waiting[lane].append(task)
            self._fill(lane)

    def admit_waiting_steps(self) -> None:
        """Let more steps start if cores were idle since the last call. To be called now and then while `crowded`."""
        with self._lock:
            idle_cores = self._idle_meter.idle_cores()
            if self._waiting["step"] and idle_cores:
                self._extra_steps = min(self._extra_steps + idle_cores, _STEPS_AT_MOST)
                self._fill("step")

    @property
    def crowded(self) -> bool:
        """Whether steps wait for others to end although waiting ones could be told apart."""
        return self._adaptive and bool(self._waiting["step"])

    def drop_waiting(self) -> int:
        """Forget what has not started; answers how much that was."""
        with self._lock:
            dropped = sum(len(queue) for queue in self._waiting.values())
            for queue in self._waiting.values():
                queue.clear()
            return dropped

    def close(self) -> None:
        """Forget what has not started, and wait for what runs."""
        self.drop_waiting()
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._tasks.put(None)
        for thread in threads:
            thread.join()

    def _fill(self, lane: Lane) -> None:
        limit = self._limits[lane] + (self._extra_steps if lane == "step" else 0)
        while self._waiting[lane] and self._running[lane] < limit:
            self._running[lane] += 1
            self._tasks.put((lane, self._waiting[lane].popleft()))
            if self._idle:
                self._idle -= 1
            else:
                thread = threading.Thread(target=self._work, name="stagewright-worker", daemon=True)
                thread.start()
                self._threads.append(thread)

    def _work(self) -> None:
        while (item := self._tasks.get()) is not None:
            lane, task = item
            task()
            with self._lock:
                self._running[lane] -= 1
                if lane == "step" and self._extra_steps:
                    self._extra_steps -= 1
                self._idle += 1
                self._fill(lane)


class _IdleMeter:
    """How many cores did nothing between two looks, by the kernel's count."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self._cores = os.cpu_count() or 1

    def reset(self) -> None:
        """Begin anew: the next look has nothing to compare with."""
        self._last = None

    def idle_cores(self) -> int:
        with open("/proc/stat", "rb") as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]
        idle, total = ticks[3] + ticks[4], sum(ticks)
        last, self._last = self._last, (idle, total)
        if last is None or total <= last[1]:
            return 0
        return round((idle - last[0]) / (total - last[1]) * self._cores)
