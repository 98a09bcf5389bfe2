"""How workers end: those that retire, close(), loops and runs that end, dismissal."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import anyio
import anyio.to_thread
import pytest

from async_peewee import PoolClosed, TransactionFinished
from async_peewee._pool import threads, worker
from async_peewee._pool.jobs import State
from async_peewee._pool.worker import current_worker
from tests.fakes import Blocker, FakePool, all_running, until_interrupted
from tests.support import in_thread, on_asyncio, wait_until, worker_threads

BACKENDS = [name for name in ("asyncio", "trio") if find_spec(name)]


async def test_idle_workers_retire_down_to_the_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """They close their connection on their own thread; the last ones stay."""
    monkeypatch.setattr(worker, "TICK", 0.02)
    async with FakePool(pool_size=4, pool_min_size=1, idle_timeout=0.05) as fake:
        for blocker in await all_running(fake, 4):
            blocker.end.set()
        await wait_until(lambda: fake.pool.stats().workers == 1)
        assert sum("close" in connection.calls for connection in fake.connections) == 3
        assert await fake.run(lambda: 42) == 42


async def test_idle_workers_that_look_at_once_leave_the_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even while the loop is busy and has not taken note of those that have gone."""
    monkeypatch.setattr(worker, "TICK", 0.01)
    async with FakePool(pool_size=6, pool_min_size=2, idle_timeout=0.05) as fake:
        for blocker in await all_running(fake, 6):
            blocker.end.set()
        end = time.monotonic() + 5
        while len(worker_threads()) > 2 and time.monotonic() < end:
            time.sleep(0.01)  # on the loop's thread, on purpose
        time.sleep(0.2)  # for those that would go too far
        assert len(worker_threads()) == 2
        await wait_until(lambda: fake.pool.stats().workers == 2)


async def test_a_leased_worker_does_not_retire(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long its block does nothing."""
    monkeypatch.setattr(worker, "TICK", 0.01)
    async with FakePool(pool_size=2, pool_min_size=0, idle_timeout=0.02) as fake:
        lease = await fake.lease()
        blocker = (await all_running(fake, 1))[0]
        blocker.end.set()
        await wait_until(lambda: fake.pool.stats().workers == 1)
        held = lease.worker
        assert await fake.end(lease, current_worker) is held
        await wait_until(lambda: fake.pool.stats().workers == 0)
        assert await fake.run(lambda: 42) == 42


async def test_close_lets_running_jobs_end_and_fails_waiting_ones() -> None:
    """Twice, and at the same time from two tasks; afterwards the pool refuses."""
    fake = FakePool(pool_size=1)
    blocker, outcomes = Blocker(), []

    async def call(function: Any) -> None:
        try:
            outcomes.append(await fake.run(function))
        except PoolClosed as error:
            outcomes.append(str(error))

    async with anyio.create_task_group() as group:
        group.start_soon(call, blocker)
        await wait_until(blocker.running.is_set)
        group.start_soon(call, lambda: "never")
        await wait_until(lambda: fake.pool.stats().waiting == 1)
        async with anyio.create_task_group() as closing:
            for _ in range(2):
                closing.start_soon(fake.pool.close, 10)
            await wait_until(lambda: len(outcomes) == 1)
            blocker.end.set()
    assert outcomes == ["the pool of fake is closed", "ended"]
    assert worker_threads() == []
    assert not await fake.pool.close(1)
    with pytest.raises(PoolClosed):
        await fake.run(lambda: 42)


async def test_a_pool_that_closes_hires_nobody() -> None:
    """Not even when a worker is through with its last job and the waiting ones have just been failed."""
    fake = FakePool(pool_size=2)

    async def waiting() -> None:
        with pytest.raises(PoolClosed):
            await fake.run(lambda: "never")

    async with anyio.create_task_group() as group:
        first, second = await all_running(fake, 2)
        group.start_soon(waiting)
        await wait_until(lambda: fake.pool.stats().waiting == 1)
        group.start_soon(fake.pool.close, 10)
        await wait_until(lambda: fake.pool.stats().waiting == 0)
        first.end.set()
        await wait_until(lambda: fake.pool.stats().workers == 1)
        second.end.set()
        with anyio.fail_after(5):
            await fake.pool.close(10)
    assert len(fake.connections) == 2


async def test_a_cancelled_close_interrupts_and_still_leaves_nothing() -> None:
    """The cancellation goes on when the last thread has ended."""
    fake = FakePool(pool_size=1)
    await fake.run(lambda: None)
    connection = fake.connections[0]

    async def call() -> None:
        await fake.run(lambda: connection.interrupts.acquire(timeout=10))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await wait_until(lambda: fake.pool.stats().busy == 1)
        with anyio.move_on_after(0.05) as scope:
            await fake.pool.close(10)
        assert scope.cancelled_caught
        assert worker_threads() == []
    assert "close" in connection.calls


async def test_close_interrupts_what_has_not_ended_in_time() -> None:
    """And waits for it."""
    fake = FakePool(pool_size=1)
    ended = threading.Event()
    fake.submit(lambda: (until_interrupted(), ended.set()))
    await wait_until(lambda: fake.pool.stats().busy == 1)
    with anyio.fail_after(5):
        assert await fake.pool.close(0.05)
    assert ended.is_set()
    assert worker_threads() == []


async def test_a_block_may_end_while_the_pool_closes() -> None:
    """Its calls run, a new block's do not; with its end the pool is closed."""
    fake = FakePool(pool_size=2)
    lease = await fake.lease()
    async with anyio.create_task_group() as group:
        group.start_soon(fake.pool.close, 10)
        await wait_until(lambda: fake.pool.is_closed)
        assert await fake.run(lambda: 42, lease=lease) == 42
        with pytest.raises(PoolClosed):
            await fake.run(lambda: 42)
        await fake.end(lease)
    assert fake.connections[0].calls[-2:] == ["clean_up", "close"]
    assert worker_threads() == []
    with pytest.raises(TransactionFinished):
        await fake.run(lambda: 42, lease=lease)


@on_asyncio
async def test_close_withstands_task_cancel(anyio_backend: Any) -> None:
    """Twice; the cancellation is raised when every thread has ended."""
    fake = FakePool(pool_size=1)
    blocker = (await all_running(fake, 1))[0]
    closing = asyncio.ensure_future(fake.pool.close(30))
    await wait_until(lambda: fake.pool.is_closed)
    for _ in range(2):
        closing.cancel()
        await wait_until(lambda: "interrupt" in fake.connections[0].calls)
        assert not closing.done()
    blocker.end.set()
    with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
        await closing
    assert worker_threads() == []


async def test_a_pool_that_was_never_used_closes() -> None:
    """Nobody is waited for."""
    fake = FakePool()
    with anyio.fail_after(5):
        assert await fake.pool.close(30)


def closed_loop(main: Callable[[], Any]) -> None:
    """Run on a loop that is closed without a word to those who work for it."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()


@pytest.mark.parametrize(
    "run", [closed_loop, *(partial(anyio.run, backend=name) for name in BACKENDS)], ids=["close", *BACKENDS]
)
@pytest.mark.parametrize("is_leased", [False, True])
def test_a_loop_that_ends_without_close_takes_its_workers_along(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[Any], None], is_leased: bool
) -> None:
    """They close their connections; leased by a block that nobody leaves any more, too."""
    monkeypatch.setattr(threads, "LOOK", 0.02)
    fakes: list[FakePool] = []

    async def main() -> None:
        fakes.append(FakePool(pool_size=2))
        for blocker in await all_running(fakes[0], 2):
            blocker.end.set()
        await wait_until(lambda: fakes[0].pool.stats().idle == 2)
        if is_leased:
            await fakes[0].lease()

    run(main)
    end = time.monotonic() + 5
    while worker_threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert worker_threads() == []
    assert [connection.calls[-1] for connection in fakes[0].connections] == ["close", "close"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_that_ends_interrupts_what_still_runs(backend: str) -> None:
    """And is over when that has ended."""
    fakes: list[FakePool] = []

    def slow_to_end() -> None:
        until_interrupted()
        threading.Event().wait(0.1)

    async def main() -> None:
        fakes.append(FakePool())
        fakes[0].submit(slow_to_end)
        await wait_until(lambda: fakes[0].pool.stats().busy == 1)

    anyio.run(main, backend=backend)
    assert worker_threads() == []
    assert "interrupt" in fakes[0].connections[0].calls
    assert fakes[0].connections[0].calls[-1] == "close"


@on_asyncio
async def test_a_worker_whose_owner_is_cancelled_before_it_begins_is_gone(anyio_backend: Any) -> None:
    """As asyncio.run cancels every task at its end; who waits then gets another worker, or closes."""
    fake = FakePool(pool_size=1)
    job = fake.submit(lambda: 42)
    await asyncio.sleep(0)
    owners = [task for task in asyncio.all_tasks() if task.get_name() == "fake worker 1, its owner"]
    owners[0].cancel()
    await wait_until(lambda: job.state is State.DONE)
    assert job.outcome() == 42
    await fake.pool.close(5)


async def test_close_between_two_statements_of_a_job_is_poolclosed_to_its_caller() -> None:
    """What the job is stopped by, where it asks, is for the job alone."""
    fake = FakePool(pool_size=1)
    running, seen = threading.Event(), []

    def work() -> None:
        running.set()
        while (own := current_worker()) is not None:
            own.interrupter.check()
            time.sleep(0.001)

    async def call() -> None:
        with pytest.raises(PoolClosed, match="the pool of fake is closed") as caught:
            await fake.run(work)
        seen.append(caught.value)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await wait_until(running.is_set)
        await fake.pool.close(0)
    assert type(seen[0]) is PoolClosed


async def test_where_there_is_no_thread_the_call_says_so_and_the_next_one_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Python 3.12 has none for a program whose main thread has ended."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    async with FakePool(pool_size=1) as fake:
        with monkeypatch.context() as patch:
            patch.setattr(anyio.to_thread, "run_sync", refuse)
            with anyio.fail_after(5), pytest.raises(RuntimeError, match="can't start new thread"):
                await fake.run(lambda: 42)
        assert await fake.run(lambda: 42) == 42


@on_asyncio
async def test_what_is_left_of_a_thread_is_let_go_of(anyio_backend: Any) -> None:
    """The task that would have ended it runs on, as long as the program does."""
    async with FakePool() as fake:
        thread = await fake.run(lambda: weakref.ref(threading.current_thread()))
    await wait_until(lambda: gc.collect() >= 0 and thread() is None)


class Overtaken(queue.SimpleQueue[Any]):
    """An inbox into which the end comes before the job that was decided on earlier."""

    def __init__(self) -> None:
        super().__init__()
        self.job_comes, self.ends = threading.Event(), threading.Event()

    def put(self, item: Any, *options: Any) -> None:  # type: ignore[override]
        if item is not None:
            self.job_comes.set()
            assert self.ends.wait(10)
        super().put(item)
        if item is None:
            self.ends.set()


@pytest.mark.usefixtures("nobody_watches")
async def test_a_job_that_was_handed_out_when_its_worker_was_told_to_end_still_ends() -> None:
    """Decided by another worker's thread, it may reach the inbox behind the end."""
    async with FakePool(pool_size=2) as fake:
        lease, blocker = await fake.lease(), Blocker()
        fake.submit(blocker)
        await wait_until(blocker.running.is_set)
        late: Any
        lease.worker.inbox = late = Overtaken()
        job = fake.submit(lambda: 42, lease=lease)
        blocker.end.set()
        await in_thread(late.job_comes.wait, 10)
        fake.pool._dismiss(lease.worker)
        await wait_until(lambda: job.state is State.DONE)
