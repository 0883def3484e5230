"""The pool: how much runs at once, and that all of it gets its turn."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from stagewright.solver import pool as pool_module
from stagewright.solver.pool import Pool


@pytest.fixture
def open_pools() -> Iterator[list[Pool]]:
    pools: list[Pool] = []
    yield pools
    for pool in pools:
        pool.close()


class Gauge:
    """Tasks that wait until they are let go, and how many of them run."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.changed = threading.Condition()
        self.running = self.most = self.done = 0

    def task(self) -> None:
        with self.changed:
            self.running += 1
            self.most = max(self.most, self.running)
            self.changed.notify_all()
        self.go.wait(30)
        with self.changed:
            self.running -= 1
            self.done += 1
            self.changed.notify_all()

    def wait_running(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.running == count, 30)

    def wait_done(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.done == count, 30)


def test_explicit_jobs_are_a_hard_bound(open_pools: list[Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module._IdleMeter, "idle_cores", lambda self: 4)
    pool, gauge = Pool(3), Gauge()
    open_pools.append(pool)
    for _ in range(10):
        pool.submit("step", gauge.task)
    gauge.wait_running(3)
    assert not pool.crowded
    gauge.go.set()
    gauge.wait_done(10)
    assert gauge.most == 3


def test_lanes_do_not_wait_for_each_other(open_pools: list[Pool]) -> None:
    pool, steps, files = Pool(1), Gauge(), Gauge()
    open_pools.append(pool)
    pool.submit("step", steps.task)
    pool.submit("step", steps.task)
    files.go.set()
    pool.submit("file", files.task)
    pool.submit("source", files.task)
    files.wait_done(2)
    steps.wait_running(1)
    steps.go.set()
    steps.wait_done(2)


def test_more_steps_start_only_while_cores_are_idle(open_pools: list[Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(pool_module, "_STEPS_PER_CORE", 1)
    idle = 0
    monkeypatch.setattr(pool_module._IdleMeter, "idle_cores", lambda self: idle)
    pool, gauge = Pool(None), Gauge()
    open_pools.append(pool)
    for _ in range(8):
        pool.submit("step", gauge.task)
    gauge.wait_running(2)
    assert pool.crowded
    pool.admit_waiting_steps()
    gauge.wait_running(2)
    idle = 2
    pool.admit_waiting_steps()
    gauge.wait_running(4)
    pool.admit_waiting_steps()
    pool.admit_waiting_steps()
    gauge.wait_running(8)
    assert not pool.crowded
    gauge.go.set()
    gauge.wait_done(8)


def test_four_steps_a_core_start_however_busy_the_machine_is(
    open_pools: list[Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(pool_module._IdleMeter, "idle_cores", lambda self: 0)
    pool, gauge = Pool(None), Gauge()
    open_pools.append(pool)
    for _ in range(10):
        pool.submit("step", gauge.task)
    gauge.wait_running(8)
    assert pool.crowded
    gauge.go.set()
    gauge.wait_done(10)


def test_idle_cores_are_counted_from_the_first_wait_on(open_pools: list[Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(pool_module, "_STEPS_PER_CORE", 1)
    meters = []
    monkeypatch.setattr(pool_module._IdleMeter, "reset", lambda self: meters.append(self))
    pool, gauge = Pool(None), Gauge()
    open_pools.append(pool)
    for _ in range(3):
        pool.submit("step", gauge.task)
    assert len(meters) == 2  # Before the first of those that run at once, and before the first that waits.
    gauge.go.set()
    gauge.wait_done(3)


def test_threads_are_used_again_and_end(open_pools: list[Pool]) -> None:
    before = set(threading.enumerate())
    pool, gauge = Pool(2), Gauge()
    gauge.go.set()
    for _ in range(500):
        pool.submit("step", gauge.task)
    gauge.wait_done(500)
    assert len(set(threading.enumerate()) - before) <= 2
    pool.close()
    assert set(threading.enumerate()) <= before


def test_what_was_dropped_never_runs(open_pools: list[Pool]) -> None:
    pool, gauge = Pool(1), Gauge()
    open_pools.append(pool)
    for _ in range(5):
        pool.submit("step", gauge.task)
    gauge.wait_running(1)
    assert pool.drop_waiting() == 4
    gauge.go.set()
    pool.close()
    assert gauge.done == 1


def test_the_idle_meter_compares_two_looks() -> None:
    meter = pool_module._IdleMeter()
    assert meter.idle_cores() == 0
    assert 0 <= meter.idle_cores() <= (os.cpu_count() or 1)
