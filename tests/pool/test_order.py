"""Who runs next: in order of arrival, one worker while nobody waits, others when somebody does."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import anyio
import pytest

from async_peewee._pool import gil
from async_peewee._pool.gil import ExpectedTime
from async_peewee._pool.jobs import State
from async_peewee._pool.write_lock import WriteLock
from tests.fakes import Blocker, FakeConnection, FakePool, all_running, nothing, worker_here
from tests.support import wait_until, worker_threads

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


async def test_jobs_run_in_order_on_at_most_pool_size_threads() -> None:
    """Ten jobs on two workers: first come first served, and never a third thread."""
    async with FakePool(pool_size=2) as fake:
        blockers = [Blocker(), Blocker()]
        order: list[int] = []
        async with anyio.create_task_group() as group:
            for blocker in blockers:
                group.start_soon(fake.run, blocker)
            for blocker in blockers:
                await wait_until(blocker.running.is_set)
            for number in range(10):
                group.start_soon(fake.run, lambda number=number: order.append(number))
                await wait_until(lambda number=number: fake.pool.stats().waiting == number + 1)
            assert fake.pool.stats().workers == len(worker_threads()) == 2
            blockers[0].end.set()
            await wait_until(lambda: len(order) == 10)
            blockers[1].end.set()
        assert order == list(range(10))
        stats = fake.pool.stats()
        assert (stats.calls, stats.idle, stats.busy, stats.waiting) == (12, 2, 0, 0)


async def test_the_worker_used_last_is_used_next() -> None:
    """Always the same one, so that the others may retire."""
    async with FakePool(pool_size=3) as fake:
        blockers = await all_running(fake, 3)
        for number, blocker in enumerate(blockers):
            blocker.end.set()
            await wait_until(lambda number=number: fake.pool.stats().idle == number + 1)
        names = {await fake.run(lambda: threading.current_thread().name) for _ in range(10)}
        assert names == {blockers[-1].thread}


async def test_the_order_holds_when_one_in_the_middle_leaves() -> None:
    """Cancelled in the queue, it takes only itself out of it."""
    async with FakePool(pool_size=1) as fake:
        blocker, order = Blocker(), list[int]()
        scopes = [anyio.CancelScope() for _ in range(5)]

        async def call(number: int) -> None:
            with scopes[number]:
                await fake.run(lambda: order.append(number))

        async with anyio.create_task_group() as group:
            group.start_soon(fake.run, blocker)
            await wait_until(blocker.running.is_set)
            for number in range(5):
                group.start_soon(call, number)
                await wait_until(lambda number=number: fake.pool.stats().waiting == number + 1)
            for number in (2, 0):
                scopes[number].cancel()
            await wait_until(lambda: fake.pool.stats().waiting == 3)
            blocker.end.set()
        assert order == [1, 3, 4]


@pytest.mark.usefixtures("nobody_watches")
async def test_one_worker_does_it_all_while_nobody_waits() -> None:
    """A hundred calls at once on a pool of ten: a second thread would only be in the way."""
    async with FakePool(pool_size=10) as fake:
        names: list[str] = []
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(fake.run, lambda: names.append(threading.current_thread().name))
        assert len(names) == 100
        assert (len(set(names)), fake.pool.stats().workers) == (1, 1)


@pytest.mark.usefixtures("nobody_watches")
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
        worker_here().turns.statement(ExpectedTime(seconds), nothing)

    async with FakePool(pool_size=10) as fake:
        for _ in range(20):
            await fake.run(call)
        busy = Blocker(), Blocker()
        for blocker in busy:
            fake.submit(blocker)
        await wait_until(busy[0].running.is_set)
        late = [fake.submit(call) for _ in range(3)]
        if at_once == 2:
            await wait_until(busy[1].running.is_set)
        assert fake.pool.stats().busy == at_once
        assert fake.pool.stats().waiting == 5 - at_once
        for blocker in busy:
            blocker.end.set()
        await wait_until(lambda: all(job.state is State.DONE for job in late))


@pytest.mark.usefixtures("nobody_watches")
async def test_without_the_gil_every_worker_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four calls wait for one another, though nobody looks whether one is stuck."""
    monkeypatch.setattr(gil, "has_gil", lambda: False)
    async with FakePool(pool_size=4) as fake:
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


@pytest.mark.usefixtures("nobody_watches")
async def test_while_one_waits_another_runs_and_the_first_goes_on_before_new_calls() -> None:
    """It is in the middle of a job, and takes its turn back when the other is through with its own."""
    async with FakePool(pool_size=2) as fake:
        order: list[str] = []
        is_waiting, may_return, second = threading.Event(), threading.Event(), Blocker()

        def first() -> None:
            with worker_here().turns.waiting():
                is_waiting.set()
                assert may_return.wait(10)
            order.append("first")

        async with anyio.create_task_group() as group:
            group.start_soon(fake.run, first)
            await wait_until(is_waiting.is_set)
            group.start_soon(fake.run, second)
            await wait_until(second.running.is_set)
            group.start_soon(fake.run, lambda: order.append("third"))
            await wait_until(lambda: fake.pool.stats().waiting == 1)
            may_return.set()
            returning = fake.pool._scheduler._gil.returning
            await wait_until(lambda: len(returning) == 1)
            assert order == []
            second.end.set()
        assert order == ["first", "third"]


@pytest.mark.usefixtures("nobody_watches")
async def test_blocks_and_single_calls_take_turns() -> None:
    """Neither those that hold a worker nor those that wait for one have to wait for all the others."""
    async with FakePool(pool_size=2) as fake:
        lease = await fake.lease()
        blocker = Blocker()
        order: list[str] = []
        async with anyio.create_task_group() as group:
            group.start_soon(fake.run, blocker)
            await wait_until(blocker.running.is_set)
            for _ in range(3):
                fake.submit(lambda: order.append("block"), lease=lease)
                fake.submit(lambda: order.append("single"))
            blocker.end.set()
            await wait_until(lambda: len(order) == 6)
        assert sorted(order[:2]) == sorted(order[2:4]) == ["block", "single"]
        await fake.end(lease)


@pytest.mark.usefixtures("nobody_watches")
async def test_the_next_writer_gets_the_lock_with_the_worker() -> None:
    """Writers behind writers on one thread, though a second worker is there."""
    async with FakePool(pool_size=2) as fake:
        for lease in [await fake.lease() for _ in range(2)]:
            await fake.end(lease)
        lock, names = WriteLock(), list[str]()
        async with anyio.create_task_group() as group:
            for _ in range(20):
                write = lambda: names.append(threading.current_thread().name)  # noqa: E731
                group.start_soon(lambda write=write: fake.run(write, write_lock=lock))
        assert len(names) == 20
        assert len(set(names)) == 1
        assert not lock.is_held


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), ValueError("x")]
)
async def test_whatever_a_job_raises_arrives_and_the_worker_lives(error: BaseException) -> None:
    """What would end a thread or a task as well."""
    async with FakePool(pool_size=1) as fake:

        def fail() -> None:
            raise error

        caught: BaseException | None = None
        try:
            await fake.run(fail)
        except BaseException as raised:
            caught = raised
        assert caught is error
        assert await fake.run(lambda: 42) == 42
        assert fake.pool.stats().workers == 1


async def test_a_job_sees_its_callers_context_and_keeps_its_own_changes() -> None:
    """Spans and tenants are the caller's; what the job sets does not travel back."""
    async with FakePool() as fake:
        tenant.set("a")
        assert await fake.run(lambda: (tenant.get(), tenant.set("b"))[0]) == "a"
        assert tenant.get() == "a"


async def test_a_call_behind_another_of_its_block_does_not_wait_for_a_stuck_worker() -> None:
    """One that has come back from a long statement, and waits for what that call does."""
    async with FakePool(pool_size=2) as fake:
        lease, first = await fake.lease(), Blocker()
        away, may_return, done = threading.Event(), threading.Event(), threading.Event()

        def stuck() -> bool:
            with worker_here().turns.waiting():
                away.set()
                assert may_return.wait(10)
            return done.wait(10)

        waits = fake.submit(stuck)
        await wait_until(away.is_set)
        fake.submit(first, lease=lease)
        await wait_until(first.running.is_set)
        fake.submit(done.set, lease=lease)
        await wait_until(lambda: not fake.pool._scheduler._is_watched)
        may_return.set()
        await wait_until(lambda: len(fake.pool._scheduler._gil.returning) == 1)
        first.end.set()
        await wait_until(lambda: waits.state is State.DONE)
        assert waits.outcome() is True
        await fake.end(lease)
