"""The queue for a worker, on real databases: bounded, timed, and left without a trace."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest

from async_peewee import PoolFull, PoolTimeout
from tests.support import Maker, slow_sql, wait_until, worker_threads

on_two = pytest.mark.parametrize("make_database", ["sqlite", "psycopg2"], indirect=True)


async def works(database: Any) -> None:
    with anyio.fail_after(5):
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)


@on_two
async def test_nine_calls_cancelled_in_reverse_leave_three_free_workers(make_database: Maker) -> None:
    """Three run and six wait; cancelled from the last to the first, none is left anywhere."""
    async with make_database(pool_size=3) as database:
        scopes = [anyio.CancelScope() for _ in range(9)]

        async def call(scope: anyio.CancelScope) -> None:
            with scope:
                await database.execute_sql(slow_sql(make_database.kind, 30))

        async with anyio.create_task_group() as group:
            for scope in scopes:
                group.start_soon(call, scope)
            await wait_until(lambda: database.stats().waiting == 6 and database.stats().busy == 3)
            for scope in reversed(scopes):
                scope.cancel()
        assert all(scope.cancelled_caught for scope in scopes)
        stats = database.stats()
        assert (stats.workers, stats.idle, stats.waiting, stats.leased) == (3, 3, 0, 0)
        await works(database)


@on_two
async def test_max_waiting_refuses_at_once(make_database: Maker) -> None:
    """Of seven calls on two workers with max_waiting=3 two are refused, without waiting for anything."""
    async with make_database(pool_size=2, max_waiting=3) as database:
        errors: list[tuple[int, str]] = []
        results: list[Any] = []

        async def call() -> None:
            try:
                results.append(await database.execute_sql(slow_sql(make_database.kind, 0.2)))
            except PoolFull as error:
                errors.append((len(results), str(error)))

        async with anyio.create_task_group() as group:
            for _ in range(7):
                group.start_soon(call)
        assert (len(results), len(errors)) == (5, 2)
        assert all(ended == 0 and "max_waiting=3" in text for ended, text in errors)
        await works(database)


@on_two
async def test_a_timeout_in_the_queue_costs_no_thread_and_no_connection(make_database: Maker) -> None:
    """The error comes when the timeout is over, and not before."""
    async with make_database(pool_size=1, acquire_timeout=0.3) as database:
        async with database.connection_context():
            await database.execute_sql("SELECT 1")
            before = worker_threads()

            async def call() -> None:
                start = time.monotonic()
                with pytest.raises(PoolTimeout):
                    await database.execute_sql("SELECT 1")
                assert 0.3 <= time.monotonic() - start < 5

            async with anyio.create_task_group() as group:
                group.start_soon(call)
            assert worker_threads() == before
            if make_database.server is not None:
                assert len(make_database.server.backends()) == 1
        await works(database)
