"""A lease's whole life: taken by a job, its jobs in order on its worker, ended once."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from async_peewee import PoolClosed, TransactionFinished
from async_peewee._pool.jobs import Job, Lease, State
from tests.fakes import Blocker, FakePool, all_running, nothing, until_interrupted, worker_here
from tests.support import wait_until, worker_threads


async def test_a_leased_worker_serves_its_own_jobs_only() -> None:
    """Until the lease ends; then it is cleaned up and free for all."""
    async with FakePool(pool_size=1) as fake:
        lease = await fake.lease()
        assert lease.worker.lease is lease
        assert fake.pool.stats().leased == 1
        order: list[str] = []
        async with anyio.create_task_group() as group:
            group.start_soon(fake.run, lambda: order.append("other"))
            await wait_until(lambda: fake.pool.stats().waiting == 1)
            own = Job(lambda: order.append("own"), "own", lease=lease)
            await fake.pool.run(own)
            assert own.worker is lease.worker
            assert fake.connections[0].calls.count("clean_up") == 0
            await fake.end(lease, lambda: order.append("last"))
        assert order == ["own", "last", "other"]
        assert fake.pool.stats().leased == 0
        assert lease.state is Lease.ENDED


async def test_a_job_that_fails_takes_no_lease() -> None:
    """Its worker is free for the next call, and the lease is nobody's."""
    async with FakePool(pool_size=1) as fake:
        lease = Lease("block")
        with pytest.raises(ZeroDivisionError):
            await fake.run(lambda: 1 / 0, lease=lease, takes_lease=True)
        assert (lease.state, fake.pool.stats().leased) == (Lease.ENDED, 0)
        assert await fake.run(lambda: 42) == 42


@pytest.mark.usefixtures("nobody_watches")
async def test_a_second_call_of_a_block_waits_for_the_first_though_that_gives_up_its_turn() -> None:
    """Two tasks on one connection: the worker that comes back must not find its turn taken for the other."""
    async with FakePool(pool_size=2) as fake:
        lease, order = await fake.lease(), list[str]()
        is_waiting, may_return = threading.Event(), threading.Event()

        def first() -> None:
            with worker_here().turns.waiting():
                is_waiting.set()
                assert may_return.wait(10)
            order.append("first")

        async with anyio.create_task_group() as group:
            group.start_soon(lambda: fake.run(first, lease=lease))
            await wait_until(is_waiting.is_set)
            second = fake.submit(lambda: order.append("second"), lease=lease)
            assert await fake.run(lambda: 42) == 42  # others are served meanwhile
            assert (second.state, lease.worker.job is second) == (State.PLACED, False)
            may_return.set()
            await wait_until(lambda: second.state is State.DONE)
        assert order == ["first", "second"]
        await fake.end(lease)


async def test_a_lease_ends_after_what_was_placed_for_it() -> None:
    """In the order in which its jobs came, the last one last."""
    async with FakePool(pool_size=1) as fake:
        lease, blocker, order = await fake.lease(), Blocker(), list[str]()
        fake.submit(blocker, lease=lease)
        await wait_until(blocker.running.is_set)
        for number in range(3):
            fake.submit(lambda number=number: order.append(str(number)), lease=lease)
        async with anyio.create_task_group() as group:
            group.start_soon(fake.end, lease, lambda: order.append("last"))
            await wait_until(lambda: lease.state is Lease.ENDING)
            blocker.end.set()
        assert order == ["0", "1", "2", "last"]


async def test_a_call_after_the_end_is_refused_before_the_last_job_has_run() -> None:
    """And later: the worker may serve another block by then."""
    async with FakePool(pool_size=1) as fake:
        lease, blocker = await fake.lease("the first block"), Blocker()
        async with anyio.create_task_group() as group:
            group.start_soon(fake.end, lease, blocker)
            await wait_until(blocker.running.is_set)
            with pytest.raises(TransactionFinished, match="the first block"):
                await fake.run(nothing, lease=lease)
            blocker.end.set()
        other = await fake.lease("the second block")
        with pytest.raises(TransactionFinished, match="the first block"):
            await fake.run(nothing, lease=lease)
        assert other.worker.lease is other
        await fake.end(other)


async def test_a_lease_ends_once() -> None:
    """Whoever comes second is told so, and takes nothing from whoever has the worker by then."""
    async with FakePool(pool_size=1) as fake:
        lease, ran = await fake.lease(), list[str]()
        await fake.end(lease)
        other = await fake.lease()
        with pytest.raises(TransactionFinished):
            await fake.end(lease, lambda: ran.append("again"))
        fake.pool.end_later(lease, Job(lambda: ran.append("later"), "later", lease=lease))
        assert await fake.run(lambda: 42, lease=other) == 42
        assert (ran, fake.pool.stats().leased) == ([], 1)
        await fake.end(other)


async def test_a_finalizer_may_end_a_lease_inside_the_pools_lock() -> None:
    """The collector runs wherever it likes: what it asks for is done at the loop's next turn."""
    async with FakePool(pool_size=1) as fake:
        lease, ran = await fake.lease(), list[str]()
        with fake.pool._lock:
            fake.pool.submit_later(Job(lambda: ran.append("job"), "job", lease=lease))
            fake.pool.end_later(lease, Job(lambda: ran.append("last"), "last", lease=lease))
        await wait_until(lambda: lease.state is Lease.ENDED)
        assert ran == ["job", "last"]
        assert fake.pool.stats().idle == 1


async def test_cancelled_in_the_queue_nobody_gets_a_lease() -> None:
    """It stays one that is wanted, and there is nothing to end."""
    async with FakePool(pool_size=1) as fake:
        blocker = (await all_running(fake, 1))[0]
        lease = Lease("block")
        with anyio.move_on_after(0.01) as scope:
            await fake.run(nothing, lease=lease, takes_lease=True)
        assert scope.cancelled_caught
        with pytest.raises(TransactionFinished):
            await fake.end(lease)
        blocker.end.set()
        assert await fake.run(lambda: 42) == 42
        assert (lease.is_held, fake.pool.stats().leased) == (False, 0)


async def test_interrupted_nobody_gets_a_lease() -> None:
    """A block whose BEGIN was interrupted has not begun."""
    async with FakePool(pool_size=1) as fake:
        lease = Lease("block")

        def begin() -> None:
            until_interrupted()
            worker_here().interrupter.check()

        async with anyio.create_task_group() as group:
            group.start_soon(lambda: fake.run(begin, lease=lease, takes_lease=True))
            await wait_until(lambda: fake.pool.stats().busy == 1)
            group.cancel_scope.cancel()
        assert (lease.state, fake.pool.stats().idle) == (Lease.ENDED, 1)


async def test_cancelled_when_the_job_has_succeeded_the_lease_is_held_and_can_be_ended() -> None:
    """Whoever cancelled it has the lease in hand: it was made before the job ran."""
    async with FakePool(pool_size=1) as fake:
        lease, blocker, ran = Lease("block"), Blocker(), list[str]()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: fake.run(blocker, lease=lease, takes_lease=True))
            await wait_until(blocker.running.is_set)
            group.cancel_scope.cancel()
            blocker.end.set()
        assert lease.is_held
        await fake.end(lease, lambda: ran.append("undone"))
        assert (ran, fake.pool.stats().idle) == (["undone"], 1)


async def test_a_call_that_is_cancelled_behind_another_of_its_lease_never_runs() -> None:
    """The one before it is left alone, and the one behind it comes next."""
    async with FakePool(pool_size=1) as fake:
        lease, blocker, order = await fake.lease(), Blocker(), list[str]()
        fake.submit(blocker, lease=lease)
        await wait_until(blocker.running.is_set)
        jobs = [fake.submit(lambda number=number: order.append(number), lease=lease) for number in range(3)]
        fake.pool.drop_if_waiting(jobs[1])
        fake.pool.abandon(jobs[0])
        assert [job.state for job in jobs] == [State.DROPPED, State.DROPPED, State.PLACED]
        blocker.end.set()
        await fake.end(lease)
        assert order == [2]
        assert "interrupt" not in fake.connections[0].calls


@pytest.mark.usefixtures("nobody_watches")
async def test_a_call_of_a_lease_that_is_dropped_before_its_turn_frees_the_worker_for_the_next() -> None:
    """Its worker had been given to it, and waited with it for the turn."""
    async with FakePool(pool_size=1) as fake:
        lease, order = await fake.lease(), list[str]()
        with fake.turn_taken():
            jobs = [fake.submit(lambda number=number: order.append(number), lease=lease) for number in (0, 1)]
            assert lease.worker.job is jobs[0]
            fake.pool.drop_if_waiting(jobs[0])
            assert lease.worker.job is jobs[1]
            assert order == []
        await fake.end(lease)
        assert order == [1]


async def test_a_worker_that_is_lost_takes_its_lease_along() -> None:
    """What was placed for it is refused, and so is whatever comes later."""
    async with FakePool(pool_size=2) as fake:
        lease, errors = await fake.lease(), list[str]()
        blocker = Blocker()
        fake.submit(blocker, lease=lease)
        await wait_until(blocker.running.is_set)

        async def call() -> None:
            with pytest.raises(PoolClosed):
                await fake.run(lambda: errors.append("ran"), lease=lease)

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await wait_until(lambda: len(lease.jobs) == 1)
            fake.pool._dismiss(lease.worker)
        with pytest.raises(PoolClosed):
            await fake.run(nothing, lease=lease)
        blocker.end.set()
        await wait_until(lambda: lease.state is Lease.ENDED)
        with pytest.raises(PoolClosed):
            await fake.end(lease)
        assert (errors, fake.pool.stats().leased) == ([], 0)
        assert await fake.run(lambda: 42) == 42


async def test_the_lease_of_a_worker_that_was_ended_by_force_ends_with_it() -> None:
    """Nobody can hold what is gone: a loop that was closed leaves its blocks unfinished."""
    async with FakePool(pool_size=1) as fake:
        lease = await fake.lease()
        held: Any = lease.worker
        fake.pool._close_at_once()
        await wait_until(lambda: lease.state is Lease.ENDED)
        assert (held.lease, worker_threads()) == (None, [])


async def test_a_lease_that_is_ending_when_its_worker_stops_ends_too() -> None:
    """Whoever waits for its last job is told that the pool is closed."""
    async with FakePool(pool_size=1) as fake:
        lease, blocker = await fake.lease(), Blocker()
        fake.submit(blocker, lease=lease)
        await wait_until(blocker.running.is_set)

        async def end() -> None:
            with pytest.raises(PoolClosed):
                await fake.end(lease)

        async with anyio.create_task_group() as group:
            group.start_soon(end)
            await wait_until(lambda: lease.state is Lease.ENDING)
            fake.pool._dismiss(lease.worker)
            blocker.end.set()
        await wait_until(lambda: lease.state is Lease.ENDED)
