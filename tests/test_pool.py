"""The pool without a database: order, bounds, pinning, cancellation, replies."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import Any

import anyio
import pytest

from async_peewee import PoolFull, PoolTimeout
from async_peewee._pool.jobs import Job
from async_peewee._pool.worker import current_worker
from tests.fakes import Blocker, FakePool, all_running, until_interrupted
from tests.support import on_asyncio, wait_until, worker_threads

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


async def test_a_pinned_worker_serves_its_own_jobs_only() -> None:
    """Until the job that unpins it; then it is settled and free for all."""
    async with FakePool(pool_size=1) as fake:
        pin = Job(current_worker, "pin", pin=True)
        await fake.pool.run(pin)
        worker = pin.outcome()
        assert fake.pool.stats().leased == 1
        order: list[str] = []
        async with anyio.create_task_group() as group:
            group.start_soon(fake.run, lambda: order.append("other"))
            await wait_until(lambda: fake.pool.stats().waiting == 1)
            await fake.run(lambda: order.append("own"), worker=worker)
            assert fake.connections[0].calls.count("clean_up") == 0
            await fake.run(lambda: order.append("last"), worker=worker, unpin=True)
        assert order == ["own", "last", "other"]
        assert fake.pool.stats().leased == 0


async def test_a_job_that_fails_pins_nothing() -> None:
    async with FakePool(pool_size=1) as fake:
        with pytest.raises(ZeroDivisionError):
            await fake.run(lambda: 1 / 0, pin=True)
        assert fake.pool.stats().leased == 0
        assert await fake.run(lambda: 42) == 42


async def test_max_waiting_bounds_the_queue() -> None:
    """With two running and three waiting the next two are refused at once, with the number."""
    async with FakePool(pool_size=2, max_waiting=3) as fake:
        blocker = Blocker()
        errors: list[str] = []

        async def call() -> None:
            try:
                await fake.run(blocker)
            except PoolFull as error:
                errors.append(str(error))

        async with anyio.create_task_group() as group:
            for _ in range(7):
                group.start_soon(call)
            await wait_until(lambda: len(errors) == 2)
            await wait_until(lambda: fake.pool.stats().waiting == 3)
            blocker.end.set()
        assert all("max_waiting=3" in error for error in errors)
        assert fake.pool.stats().refused == 2


async def test_a_call_waits_no_longer_than_acquire_timeout() -> None:
    """The error names size, queue and holders, and no thread is spent on the dead waiter."""
    async with FakePool(pool_size=1, acquire_timeout=0.3) as fake:
        blocker = Blocker()
        async with anyio.create_task_group() as group:
            group.start_soon(fake.run, blocker, "the slow one")
            await wait_until(blocker.running.is_set)
            with anyio.fail_after(2), pytest.raises(PoolTimeout, match="0.3 s: pool size 1.*the slow one"):
                await fake.run(lambda: 42)
            assert fake.pool.stats().waiting == 0
            blocker.end.set()
        assert fake.pool.stats().timed_out == 1
        assert await fake.run(lambda: 42) == 42


async def test_max_waiting_zero_uses_free_workers_and_lets_nobody_wait() -> None:
    """The very first call runs too, though its worker is still to come."""
    async with FakePool(pool_size=2, max_waiting=0) as fake:
        blockers = await all_running(fake, 2)
        with pytest.raises(PoolFull, match="max_waiting=0"):
            await fake.run(lambda: 42)
        blockers[0].end.set()
        await wait_until(lambda: fake.pool.stats().idle == 1)
        assert await fake.run(lambda: 42) == 42
        blockers[1].end.set()


async def test_a_timeout_names_those_who_wait_and_the_block_that_holds() -> None:
    async with FakePool(pool_size=1, acquire_timeout=0.3) as fake:
        worker = await fake.run(current_worker, pin=True)
        worker.holder = ("the long block", time.monotonic() - 5)
        errors: list[str] = []

        async def call() -> None:
            try:
                await fake.run(lambda: 42)
            except PoolTimeout as error:
                errors.append(str(error))

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(call)
        assert "0.3 s: pool size 1, 3 waiting, held by: the long block for 5." in errors[0]
        assert fake.pool.stats().timed_out == len(errors) == 3
        await fake.run(lambda: None, worker=worker, unpin=True)


@on_asyncio
async def test_a_timeout_comes_though_somebody_has_cancelled_every_task(anyio_backend: Any) -> None:
    """As asyncio.run does at the end, when clean-up code may still wait for a worker."""
    async with FakePool(pool_size=1, acquire_timeout=0.3) as fake:
        blocker = (await all_running(fake, 1))[0]
        first = Job(lambda: 42, "first")
        fake.pool.submit(first)
        await asyncio.sleep(0)
        for task in asyncio.all_tasks():
            if task.get_name() == "fake queue":
                task.cancel()
        await asyncio.sleep(0)
        fake.pool.submit(Job(lambda: 42, "second"))
        # Not awaited: where no timeout comes, waiting for one would never end.
        try:
            await wait_until(lambda: fake.pool.stats().timed_out == 2, seconds=1)
        finally:
            blocker.end.set()
        with pytest.raises(PoolTimeout):
            first.outcome()


async def test_cancelled_in_the_queue_a_job_never_runs() -> None:
    """Nine calls on three workers, all cancelled, the queue first: three free workers and no waiter."""
    async with FakePool(pool_size=3) as fake:
        ran: list[int] = []
        scopes = [anyio.CancelScope() for _ in range(9)]

        def until_interrupted(number: int) -> None:
            ran.append(number)
            worker = current_worker()
            assert worker is not None
            worker.connection.interrupts.acquire(timeout=10)  # type: ignore[attr-defined]

        async def call(number: int) -> None:
            with scopes[number]:
                await fake.run(lambda: until_interrupted(number))

        async with anyio.create_task_group() as group:
            for number in range(9):
                group.start_soon(call, number)
            await wait_until(lambda: len(ran) == 3 and fake.pool.stats().waiting == 6)
            running = list(ran)  # which three, trio leaves to chance
            for number in sorted(range(9), key=lambda number: number in running):
                scopes[number].cancel()
        assert ran == running
        stats = fake.pool.stats()
        assert (stats.idle, stats.waiting, stats.cancelled) == (3, 0, 9)


async def test_cancelled_while_it_runs_a_job_is_interrupted_and_then_its_worker_is_free() -> None:
    """Control comes back when the next call can be served, and not before."""
    async with FakePool(pool_size=1) as fake:
        interrupted, blocker, steps = threading.Event(), Blocker(), list[str]()

        def slow_to_end() -> None:
            until_interrupted()
            interrupted.set()
            blocker()
            steps.append("ended")

        async def call(scope: anyio.CancelScope) -> None:
            with scope:
                await fake.run(slow_to_end)
            steps.append("back")

        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()
            group.start_soon(call, scope)
            await wait_until(lambda: fake.pool.stats().busy == 1)
            scope.cancel()
            await wait_until(blocker.running.is_set)
            group.start_soon(fake.run, lambda: steps.append("next"))
            await wait_until(lambda: fake.pool.stats().waiting == 1)
            assert (steps, len(worker_threads())) == ([], 1)
            blocker.end.set()
        assert scope.cancelled_caught
        assert interrupted.is_set()
        assert steps[0] == "ended"
        assert sorted(steps) == ["back", "ended", "next"]


@on_asyncio
async def test_task_cancel_twice_gives_no_control_back_while_the_job_runs(anyio_backend: Any) -> None:
    async with FakePool(pool_size=1) as fake:
        blocker = Blocker()
        task = asyncio.ensure_future(fake.run(blocker))
        await wait_until(blocker.running.is_set)
        for _ in range(2):
            task.cancel()
            await wait_until(lambda: "interrupt" in fake.connections[0].calls)
            assert not task.done()
        blocker.end.set()
        with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
            await task
        assert fake.pool.stats().idle == 1


async def test_shielded_a_job_is_left_alone_and_the_cancellation_goes_on_after_it() -> None:
    """Like the COMMIT of a block whose task is cancelled."""
    async with FakePool(pool_size=1) as fake:
        blocker, job = Blocker(), list[Job]()

        async def call(scope: anyio.CancelScope) -> None:
            job.append(Job(blocker, "commit"))
            with scope:
                await fake.pool.run(job[0], shielded=True)

        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()
            group.start_soon(call, scope)
            await wait_until(blocker.running.is_set)
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert "interrupt" not in fake.connections[0].calls
            blocker.end.set()
        assert scope.cancelled_caught
        assert job[0].outcome() == "ended"


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), ValueError("x")]
)
async def test_whatever_a_job_raises_arrives_and_the_worker_lives(error: BaseException) -> None:
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
    async with FakePool() as fake:
        tenant.set("a")
        assert await fake.run(lambda: (tenant.get(), tenant.set("b"))[0]) == "a"
        assert tenant.get() == "a"


async def test_one_wake_brings_all_that_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four calls end while the loop's thread is busy; it is woken once for the four."""
    async with FakePool(pool_size=4) as fake:
        for blocker in await all_running(fake, 4):
            blocker.end.set()
        await wait_until(lambda: fake.pool.stats().idle == 4)
        replies, wakes = fake.pool._dispatch.replies, list[Any]()
        real = fake.pool.loop.wake
        monkeypatch.setattr(fake.pool.loop, "wake", lambda call: (wakes.append(call), real(call))[1])
        jobs = [Job(lambda: 42, "call") for _ in range(4)]
        for job in jobs:
            job.parker = fake.pool.loop.parker()
            fake.pool.submit(job)
        end = time.monotonic() + 5
        while len(replies._ready) < 4 and time.monotonic() < end:
            time.sleep(0.001)  # on the loop's thread, on purpose
        assert wakes == [replies.deliver]
        with anyio.fail_after(5):
            for job in jobs:
                await job.parker.park(lambda: True)  # type: ignore[union-attr]
        assert [job.outcome() for job in jobs] == [42] * 4
