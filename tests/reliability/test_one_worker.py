"""On one worker alone, who reads a stream may call the database between its rows, as in Peewee."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncModel, AsyncSqliteDatabase
from tests.support import Maker

# More than the first chunk has, and the second.
ROWS = 450


class Table:
    """A table of numbers that are counted up."""

    def __init__(self, database: Any) -> None:
        class Item(AsyncModel):
            value = peewee.IntegerField()

        database.bind([Item])
        self.database = database
        self.Item: Any = Item

    async def create(self) -> None:
        await self.Item.create_table()
        await self.Item.insert_many([{"value": number} for number in range(ROWS)])

    def stream(self) -> Any:
        return self.Item.select().order_by(self.Item.id).iterator()

    async def total(self) -> int:
        return int(await self.Item.select(peewee.fn.SUM(self.Item.value)).scalar())


SUM = sum(range(ROWS))


@pytest.fixture(params=["memory", "one"])
async def table(request: pytest.FixtureRequest, make_database: Maker) -> AsyncIterator[Table]:
    """Return the table, on `:memory:` where that is a database, and on a pool of one."""
    is_memory = request.param == "memory" and make_database.server is None
    settings = {"acquire_timeout": 5.0}
    database: Any = (
        AsyncSqliteDatabase(":memory:", **settings) if is_memory else make_database(pool_size=1, **settings)
    )
    async with database:
        made = Table(database)
        await made.create()
        yield made
        pool = database.connections.pools.get()
        pool.check()
        assert (database.stats().leased, database.stats().waiting) == (0, 0)


async def test_it_saves_each_row_while_it_reads_on(table: Table) -> None:
    seen = 0
    async for item in table.stream():
        item.value += 1
        await item.save()
        seen += 1
    assert seen == ROWS
    assert await table.total() == SUM + ROWS


async def test_it_opens_a_transaction_for_each_row(table: Table) -> None:
    """Some are rolled back; the stream goes on all the same."""
    async for item in table.stream():
        try:
            async with table.database.atomic():
                await table.Item.update(value=table.Item.value + 1).where(table.Item.id == item.id)
                if item.value % 2:
                    raise KeyError(item.value)
        except KeyError:
            continue
    assert await table.total() == SUM + ROWS // 2


async def test_it_reads_another_stream_inside(table: Table) -> None:
    pairs = 0
    async for item in table.stream():
        if item.value % 150 == 0:
            async for _ in table.stream():
                pairs += 1
    assert pairs == 3 * ROWS


async def test_it_leaves_in_the_middle_and_writes_at_once(table: Table) -> None:
    """By `break`: what follows is not part of the stream, and waits for the worker at most."""
    for _ in range(3):
        async for item in table.stream():
            await table.Item.update(value=table.Item.value + 1).where(table.Item.id == item.id)
            break
        gc.collect()
        await table.Item.create(value=0)
    assert await table.total() == SUM + 3


async def test_it_stops_by_an_error_and_writes_on(table: Table) -> None:
    with pytest.raises(KeyError):
        async for item in table.stream():
            await item.save()
            raise KeyError(item.id)
    gc.collect()
    await table.Item.create(value=1)
    assert await table.total() == SUM + 1


async def test_two_tasks_with_a_stream_each_take_turns(table: Table) -> None:
    """The second waits until the first is through; neither waits for ever."""
    counts = []

    async def read() -> None:
        counts.append(len([item.id async for item in table.stream()]))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            tasks.start_soon(read)
    assert counts == [ROWS, ROWS]
