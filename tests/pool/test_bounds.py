"""What a pool may have and how long a call may wait: workers, waiting calls, timeouts."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio
import pytest

from async_peewee import PoolFull, PoolTimeout
from tests.fakes import Blocker, FakePool, all_running, nothing
from tests.support import on_asyncio, wait_until


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


async def test_a_timeout_names_those_who_wait_and_the_block_that_holds() -> None:
    """And since when: a block that lasts too long is found by that."""
    async with FakePool(pool_size=1, acquire_timeout=0.3) as fake:
        lease = await fake.lease("the long block")
        lease.since = time.monotonic() - 5
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
        await fake.end(lease)


@on_asyncio
async def test_a_timeout_comes_though_somebody_has_cancelled_every_task(anyio_backend: Any) -> None:
    """As asyncio.run does at the end, when clean-up code may still wait for a worker."""
    async with FakePool(pool_size=1, acquire_timeout=0.3) as fake:
        blocker = (await all_running(fake, 1))[0]
        first = fake.submit(nothing)
        await asyncio.sleep(0)
        for task in asyncio.all_tasks():
            if task.get_name().startswith("fake "):
                task.cancel()
        await asyncio.sleep(0)
        fake.submit(nothing)
        # Not awaited: where no timeout comes, waiting for one would never end.
        try:
            await wait_until(lambda: fake.pool.stats().timed_out == 2, seconds=1)
        finally:
            blocker.end.set()
        with pytest.raises(PoolTimeout):
            first.outcome()
