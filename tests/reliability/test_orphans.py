"""Blocks that nobody leaves: the task has ended, or the generator that holds it was dropped."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from tests.support import Maker, Models, on_asyncio, wait_until


async def forgetful(models: Models) -> None:
    """Enter a block, write, and end without leaving it."""
    await models.database.atomic().__aenter__()
    await models.User.create(name="orphan")


async def reclaimed(models: Models) -> None:
    """Wait until no worker is held, and fail if anything of the block has stayed."""
    await wait_until(lambda: models.database.stats().leased == 0)
    assert await models.User.select().count() == 0


async def test_a_task_that_ends_inside_its_block_is_rolled_back(
    make_database: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """Its worker, the only one, comes back; nothing is committed, and the log names the task."""
    async with make_database(pool_size=1) as database:
        models = Models(database)
        await database.create_tables(models.all)
        async with anyio.create_task_group() as group:
            group.start_soon(forgetful, models, name="the forgetful one")
        gc.collect()  # trio's task is gone by itself; what a test's own frames keep is not
        await reclaimed(models)
        assert "in task 'the forgetful one' was never left; it is rolled back" in caplog.text


@on_asyncio
async def test_a_task_that_is_kept_does_not_keep_its_worker(
    make_database: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio tells of a task's end, so the garbage collector need not find it first."""
    async with make_database(pool_size=1) as database:
        models = Models(database)
        await database.create_tables(models.all)
        task = asyncio.create_task(forgetful(models), name="the kept one")
        await task
        await reclaimed(models)
        assert "in task 'the kept one' was never left" in caplog.text
        assert task.done()


async def test_blocks_that_are_left_are_not_reclaimed(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that left all of its blocks ends without a word, and what it had committed stays."""

    async def orderly() -> None:
        for number in range(3):
            async with models.database.atomic(), models.database.atomic():
                await models.User.create(name=str(number))

    async with anyio.create_task_group() as group:
        group.start_soon(orderly)
    gc.collect()
    assert await models.User.select().count() == 3
    assert caplog.text == ""


async def rows(models: Models) -> AsyncIterator[int]:
    """Hold a block from the first value to the last."""
    async with models.database.atomic():
        await models.User.create(name="dropped")
        for number in range(10):
            yield number


# trio warns of generators that are dropped, whatever they hold.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_generator_that_is_dropped_in_the_middle_gives_its_worker_back(make_database: Maker) -> None:
    """The task that dropped it goes on outside the block, whatever task the loop closes it in."""
    async with make_database(pool_size=1) as database:
        models = Models(database)
        await database.create_tables(models.all)
        async for _ in rows(models):
            break
        gc.collect()
        await wait_until(lambda: not database.in_transaction())
        await reclaimed(models)
        async with database.atomic():
            await models.User.create(name="kept")
        assert await models.User.select().count() == 1


async def test_a_generator_that_outlives_its_task_is_rolled_back_once(
    make_database: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """The task ends with it half way: the block is rolled back, and closing the generator raises nothing."""
    async with make_database(pool_size=1) as database:
        models = Models(database)
        await database.create_tables(models.all)
        kept: list[Any] = []

        async def consumer() -> None:
            kept.append(rows(models))
            async for _ in kept[0]:
                break

        async with anyio.create_task_group() as group:
            group.start_soon(consumer, name="the consumer")
        gc.collect()
        await reclaimed(models)
        await kept.pop().aclose()
        assert await models.User.select().count() == 0
        assert "in task 'the consumer' was never left" in caplog.text


async def test_cancelled_when_it_has_just_entered_a_block_is_left_again(models: Models) -> None:
    """The cancellation comes after BEGIN and before the task knows: the transaction is ended, not leaked."""
    database = models.database
    begun, go_on = threading.Event(), threading.Event()
    real = database.begin

    def begin(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        begun.set()
        assert go_on.wait(10)

    async def cancel() -> None:
        await wait_until(begun.is_set)
        scope.cancel()
        go_on.set()

    database.begin = begin
    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        with anyio.CancelScope() as scope:
            async with database.atomic():
                pytest.fail("the block was entered")
    del database.begin
    assert scope.cancelled_caught
    assert database.stats().leased == 0
    await models.User.create(name="after")
    assert await models.User.select().count() == 1
