"""Streaming ahead: the next chunk comes while this one is used, one and no more, and can be stopped."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable
from typing import Any

import anyio
import peewee
import pytest

from async_peewee._bridge import streams
from async_peewee._bridge.streams import CHUNK, CHUNK_SECONDS, Stream, next_size
from tests.numbers import Numbers
from tests.support import Maker, slow_sql, wait_until

ROWS = 10


class Fetches:
    """The fetches of ten rows each that one stream makes; what a later one does is up to the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = self.ended = 0
        self.later: Callable[[Any], None] = lambda chunks: None
        monkeypatch.setattr(streams, "FIRST_CHUNK", ROWS)
        # Whatever they take: a busy machine would make the next ones smaller.
        monkeypatch.setattr(streams, "next_size", lambda size, seconds: ROWS)
        native = streams.Chunks.next

        def count(chunks: Any) -> streams.Chunk:
            self.begun += 1
            try:
                if self.begun > 2:
                    self.later(chunks)
                return native(chunks)
            finally:
                self.ended += 1

        monkeypatch.setattr(streams.Chunks, "next", count)


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> Fetches:
    return Fetches(monkeypatch)


async def numbers_of(database: Any) -> Numbers:
    numbers = Numbers(database)
    await numbers.create(1000)
    return numbers


async def stream_of(database: Any) -> Any:
    return (await numbers_of(database)).stream()


async def slow_stream(make_database: Maker, database: Any, fetches: Fetches) -> Any:
    """Return a stream whose third chunk takes ten seconds in the database."""
    numbers, slow = await numbers_of(database), slow_sql(make_database.kind, 10)
    if not make_database.kind.startswith("psycopg"):
        # The padding fills the server's buffer, which would keep the first rows back; and
        # sqlite3, on some Pythons, goes one row further than it was asked to.
        slow = f"CASE WHEN value < {2 * ROWS + 3} THEN '{20_000 * 'x'}' ELSE ({slow}) END"
        return numbers.Number.raw(f"SELECT value, {slow} AS padding FROM number").iterator()
    # PostgreSQL has all rows of such a cursor when it gives the first.
    fetches.later = lambda chunks: database.execute_sql(slow).fetchall()
    return numbers.stream()


async def take(stream: Any, count: int) -> list[int]:
    return [(await stream.__anext__()).value for _ in range(count)]


async def test_one_chunk_is_fetched_while_another_is_used(db: Any, fetches: Fetches) -> None:
    """With the second chunk the third is on its way; the fourth waits until the third is used."""
    stream = await stream_of(db)
    assert await take(stream, ROWS) == list(range(ROWS))
    assert fetches.begun == 1
    assert await take(stream, 1) == [ROWS]
    await wait_until(lambda: fetches.ended == 3)
    await take(stream, ROWS - 1)
    assert fetches.begun == 3
    await take(stream, 1)
    await wait_until(lambda: fetches.ended == 4)
    await stream.aclose()
    assert fetches.begun == 4


async def test_a_last_chunk_that_comes_at_once_is_not_lost(
    db: Any, fetches: Fetches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there before the chunk in front of it has been handed out."""
    begin = Stream._begin

    def begin_and_wait(stream: Stream, *args: Any) -> Any:
        ended, job = fetches.ended, begin(stream, *args)
        while fetches.ended == ended:
            time.sleep(0.001)
        return job

    monkeypatch.setattr(Stream, "_begin", begin_and_wait)
    Number = (await numbers_of(db)).Number
    query = Number.select().order_by(Number.value).limit(3 * ROWS + 5)
    assert [row.value async for row in query.iterator()] == list(range(3 * ROWS + 5))


async def test_inside_a_block_nothing_is_fetched_ahead(db: Any, fetches: Fetches) -> None:
    """The connection is the block's: its statements do not wait, and an error is of a call that was made."""
    async with db.atomic_async():
        stream = await stream_of(db)
        await take(stream, ROWS + 1)
        await db.execute_sql("SELECT 1")
        assert fetches.begun == 2
        await stream.aclose()


async def test_a_fast_worker_lets_other_tasks_run(db: Any, fetches: Fetches) -> None:
    """A chunk that is there already is a checkpoint nevertheless."""
    stream = await stream_of(db)
    await take(stream, ROWS + 1)
    got_between = []
    async with anyio.create_task_group() as group:
        for chunk in range(3, 23):  # trio runs what is ready in any order: not every time
            await wait_until(lambda: fetches.ended == chunk)  # noqa: B023
            ran = anyio.Event()
            group.start_soon(_set, ran)
            await take(stream, ROWS)
            got_between.append(ran.is_set())
    assert True in got_between
    await stream.aclose()


async def _set(event: anyio.Event) -> None:
    event.set()


async def test_an_error_ahead_comes_when_its_rows_are_asked_for(db: Any, fetches: Fetches) -> None:
    """Not earlier, and once; the worker is free then."""

    def fail(chunks: Any) -> None:
        raise peewee.OperationalError("no more")

    fetches.later = fail
    stream = await stream_of(db)
    await take(stream, ROWS + 1)
    await wait_until(lambda: fetches.ended == 3)
    assert await take(stream, ROWS - 1) == list(range(ROWS + 1, 2 * ROWS))
    with pytest.raises(peewee.OperationalError, match="no more"):
        await take(stream, 1)
    assert db.stats().leased == 0
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()


@pytest.mark.parametrize("way", ["closed", "dropped", "cancelled", "cancelled twice"])
async def test_a_slow_fetch_ahead_is_interrupted(
    db: Any, make_database: Maker, fetches: Fetches, way: str
) -> None:
    """Ten seconds of work for rows that nobody wants end at once, and the connection serves others."""
    stream = await slow_stream(make_database, db, fetches)
    await take(stream, ROWS + 1)
    await wait_until(lambda: fetches.begun == 3)
    with anyio.fail_after(5):
        if way == "closed":
            await stream.aclose()
        elif way == "dropped":
            del stream
            gc.collect()
        elif way == "cancelled":
            with anyio.move_on_after(0.1):
                await take(stream, ROWS)
        else:
            await _cancel_twice(stream)
        await wait_until(lambda: db.stats().leased == 0)
        assert (await db.execute_sql("SELECT 42")).fetchone() == (42,)


async def _cancel_twice(stream: Any) -> None:
    """Cancel a task that waits for rows, and again while it ends its stream."""
    with contextlib.suppress(RuntimeError):  # no asyncio: two scopes, one inside the other
        asyncio.get_running_loop()
        task = asyncio.ensure_future(take(stream, ROWS))
        for _ in range(2):
            await asyncio.sleep(0.05)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return
    with anyio.move_on_after(0.1), anyio.move_on_after(0.05):
        await take(stream, ROWS)


def test_chunks_fit_the_time_that_they_take() -> None:
    """Twice as large while they are quick, smaller at once when they are not, within bounds."""
    assert next_size(100, CHUNK_SECONDS / 100) == 200
    assert next_size(100, 2 * CHUNK_SECONDS) == 50
    assert next_size(100, 1e6) == 1
    assert next_size(1, CHUNK_SECONDS / 100) == 2
    assert next_size(CHUNK, 0) == CHUNK
