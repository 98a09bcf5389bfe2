"""Who runs next: one worker while nobody waits, others when somebody does, writers one by one."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from async_peewee._drivers.statement_profiles import StatementProfile
from async_peewee._pool import gil, pool, scheduler
from async_peewee._pool.jobs import Job, State
from async_peewee._pool.worker import current_worker
from async_peewee._pool.write_lock import WriteGate
from tests.fakes import Blocker, FakeConnection, FakePool, all_running
from tests.support import wait_until


@pytest.fixture(autouse=True)
def with_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gil, "turns", lambda: 1)


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no worker lose its turn because the machine gave its thread no time."""
    for module in (pool, scheduler):
        monkeypatch.setattr(module, "LOOK", 1000)


def worker_here() -> Any:
    worker = current_worker()
    assert worker is not None
    return worker


@pytest.mark.usefixtures("nobody_looks")
async def test_one_worker_does_it_all_while_nobody_waits() -> None:
    """A hundred calls at once on a pool of ten: a second thread would only be in the way."""
    async with FakePool(pool_size=10) as fake:
        names: list[str] = []
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(fake.run, lambda: names.append(threading.current_thread().name))
        assert len(names) == 100
        assert (len(set(names)), fake.pool.stats().workers) == (1, 1)


@pytest.mark.usefixtures("nobody_looks")
@pytest.mark.parametrize(
    ("may_overlap", "seconds", "at_once"), [(True, 0.5, 2), (True, 0.0, 1), (False, 0.5, 1)]
)
async def test_a_second_worker_overlaps_where_calls_wait_for_a_server(
    monkeypatch: pytest.MonkeyPatch, may_overlap: bool, seconds: float, at_once: int
) -> None:
    """Not a third; none where they compute more than they wait, nor where there is no server."""
    monkeypatch.setattr(FakeConnection, "worth_passing", 1.0)
    monkeypatch.setattr(FakeConnection, "may_overlap", may_overlap)

    def call() -> None:
        worker_here().ask(StatementProfile(False, False, seconds), lambda: None)

    async with FakePool(pool_size=10) as fake:
        for _ in range(20):
            await fake.run(call)
        busy = Blocker(), Blocker()
        for blocker in busy:
            fake.pool.submit(Job(blocker, "blocker"))
        await wait_until(busy[0].running.is_set)
        late = [Job(call, "call") for _ in range(3)]
        for job in late:
            fake.pool.submit(job)
        if at_once == 2:
            await wait_until(busy[1].running.is_set)
        assert fake.pool.stats().busy == at_once
        assert fake.pool.stats().waiting == 5 - at_once
        for blocker in busy:
            blocker.end.set()
        await wait_until(lambda: all(job.state is State.DONE for job in late))


async def test_without_the_gil_as_many_run_at_once_as_there_are_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here four: four calls wait for one another, though nobody looks whether one is stuck."""
    monkeypatch.setattr(gil, "turns", lambda: 4)
    for module in (pool, scheduler):
        monkeypatch.setattr(module, "LOOK", 1000)
    async with FakePool(pool_size=8) as fake:
        barrier = threading.Barrier(4, timeout=10)
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(fake.run, barrier.wait)
        assert fake.pool.stats().workers == 4


async def test_a_worker_that_is_stuck_does_not_keep_the_others() -> None:
    """It waits in Python code, for what the call behind it does."""
    async with FakePool(pool_size=2) as fake:
        blocker = Blocker()
        async with anyio.create_task_group() as group:
            group.start_soon(fake.run, blocker)
            await wait_until(blocker.running.is_set)
            await fake.run(blocker.end.set)
        assert fake.pool.stats().workers == 2


@pytest.mark.usefixtures("nobody_looks")
async def test_while_one_steps_aside_another_runs_and_the_first_goes_on_before_new_calls() -> None:
    async with FakePool(pool_size=2) as fake:
        order: list[str] = []
        is_aside, may_return, second = threading.Event(), threading.Event(), Blocker()

        def first() -> None:
            with worker_here().aside():
                is_aside.set()
                assert may_return.wait(10)
            order.append("first")

        async with anyio.create_task_group() as group:
            group.start_soon(fake.run, first)
            await wait_until(is_aside.is_set)
            group.start_soon(fake.run, second)
            await wait_until(second.running.is_set)
            group.start_soon(fake.run, lambda: order.append("third"))
            await wait_until(lambda: fake.pool.stats().waiting == 1)
            may_return.set()
            returning = fake.pool._schedule.turnstile._returning
            await wait_until(lambda: len(returning) == 1)
            assert order == []
            second.end.set()
        assert order == ["first", "third"]


@pytest.mark.usefixtures("nobody_looks")
async def test_a_second_call_of_a_block_waits_for_the_first_though_that_steps_aside() -> None:
    """Two tasks on one connection: the worker that comes back must not find its turn taken for the other."""
    async with FakePool(pool_size=2) as fake:
        pinned = await fake.run(worker_here, pin=True)
        order: list[str] = []
        is_aside, may_return = threading.Event(), threading.Event()

        def first() -> None:
            with worker_here().aside():
                is_aside.set()
                assert may_return.wait(10)
            order.append("first")

        async with anyio.create_task_group() as group:
            group.start_soon(lambda: fake.run(first, worker=pinned))
            await wait_until(is_aside.is_set)
            second = Job(lambda: order.append("second"), "second", worker=pinned, lease=pinned.lease)
            fake.pool.submit(second)
            assert await fake.run(lambda: 42) == 42  # others are served meanwhile
            assert (second.state, pinned.running is second) == (State.QUEUED, False)
            may_return.set()
            await wait_until(lambda: second.state is State.DONE)
        assert order == ["first", "second"]
        await fake.run(lambda: None, worker=pinned, unpin=True)


@pytest.mark.usefixtures("nobody_looks")
async def test_blocks_and_single_calls_take_turns() -> None:
    """Neither those that hold a worker nor those that wait for one have to wait for all the others."""
    async with FakePool(pool_size=2) as fake:
        pinned = await fake.run(worker_here, pin=True)
        blocker = Blocker()
        order: list[str] = []
        async with anyio.create_task_group() as group:
            group.start_soon(fake.run, blocker)
            await wait_until(blocker.running.is_set)
            for _ in range(3):
                fake.pool.submit(
                    Job(lambda: order.append("block"), "block", worker=pinned, lease=pinned.lease)
                )
                fake.pool.submit(Job(lambda: order.append("single"), "single"))
            blocker.end.set()
            await wait_until(lambda: len(order) == 6)
        assert sorted(order[:2]) == sorted(order[2:4]) == ["block", "single"]
        await fake.run(lambda: None, worker=pinned, unpin=True)


@pytest.mark.usefixtures("nobody_looks")
async def test_the_next_writer_gets_the_gate_with_the_worker() -> None:
    """Writers behind writers on one thread, though a second worker is there."""
    async with FakePool(pool_size=2) as fake:
        pins = [await fake.run(worker_here, pin=True) for _ in range(2)]
        for worker in pins:
            await fake.run(lambda: None, worker=worker, unpin=True)
        gate, names = WriteGate(), list[str]()
        async with anyio.create_task_group() as group:
            for _ in range(20):
                write = lambda: names.append(threading.current_thread().name)  # noqa: E731
                group.start_soon(lambda write=write: fake.run(write, gate=gate))
        assert len(names) == 20
        assert len(set(names)) == 1
        assert not gate.is_held


async def test_a_writer_that_was_placed_still_runs_when_its_worker_is_told_to_end() -> None:
    """Else the gate, which it holds, would stay closed for every loop of the process."""
    async with FakePool(pool_size=2) as fake:
        blockers = await all_running(fake, 2)
        gate = WriteGate()
        assert gate.enter(lambda: False)
        job = Job(lambda: None, "writer", gate=gate)
        blockers[0].end.set()
        await wait_until(lambda: fake.pool.stats().idle == 1)
        fake.pool._schedule.turnstile.take(worker := fake.pool._crew.idle[0])
        fake.pool.submit(job)
        with fake.pool._lock:
            assert fake.pool._schedule.queue.pop() is job
            assert not fake.pool._schedule._may_start(job)
        gate.leave()
        assert (job.state, job.holds_gate) == (State.TAKEN, True)
        with fake.pool._lock:
            fake.pool._crew.stop(job.worker)
            fake.pool._schedule.turnstile.leave(worker)
        await wait_until(lambda: job.state is State.DONE)
        await wait_until(lambda: not gate.is_held)
        blockers[1].end.set()
