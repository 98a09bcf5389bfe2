"""Streams that are left in every way: the worker comes back, no cursor stays open, and all goes on."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import TransactionFinished
from async_peewee._bridge import streams
from tests.numbers import Numbers
from tests.support import Maker, slow_sql, wait_until

# Rows of a table, and of each chunk of a stream of it.
COUNT = 100
ROWS = 10

# How many rows are read before a stream is left: within the first chunk, the second, and the third.
SOME = (1, 15, 25)

# trio warns of generators that are dropped, whatever they hold. As an error, which pytest would
# keep, the warning would keep the streams alive as well.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FIRST_CHUNK", ROWS)
    monkeypatch.setattr(streams, "next_size", lambda size, seconds: ROWS)


async def numbers_of(database: Any) -> Numbers:
    numbers = Numbers(database)
    await numbers.create(COUNT)
    return numbers


async def take(stream: Any, count: int) -> list[int]:
    return [(await stream.__anext__()).value for _ in range(count)]


async def check_at_rest(numbers: Numbers) -> None:
    """Fail unless all workers are back, nothing is open on any, and the next calls are right."""
    database = numbers.database
    gc.collect()
    await wait_until(lambda: database.stats().idle == database.stats().workers)
    stats = database.stats()
    database.connections.pools.get().check()
    assert (stats.leased, stats.busy, stats.waiting) == (0, 0, 0)
    with anyio.fail_after(10):
        assert [row.value async for row in numbers.stream()] == list(range(COUNT))
        await check_each_worker(database, stats.workers)
        await numbers.Number.drop_table()  # refused, or for ever at a lock, if a cursor is open
        await numbers.create(COUNT)


async def check_each_worker(database: Any, workers: int) -> None:
    """Have each of the workers make a table and drop it, and write."""
    all_in, entered = anyio.Event(), 0

    async def use(number: int) -> None:
        nonlocal entered
        async with database.connection_context():
            entered += 1
            if entered == workers:
                all_in.set()
            await all_in.wait()
            await database.execute_sql(f"CREATE TABLE made_{number} (n INTEGER)")
            await database.execute_sql(f"INSERT INTO made_{number} VALUES (1)")
            await database.execute_sql(f"DROP TABLE made_{number}")

    async with anyio.create_task_group() as group:
        for number in range(workers):
            group.start_soon(use, number)


# -- ways to leave a stream -----------------------------------------------------------------


async def by_break(stream: Any, rows: int) -> None:
    async for row in stream:
        if row.value == rows - 1:
            break


async def by_del(stream: Any, rows: int) -> None:
    await take(stream, rows)
    del stream


async def by_exception(stream: Any, rows: int) -> None:
    with pytest.raises(KeyError):
        async for row in stream:
            if row.value == rows - 1:
                raise KeyError


async def by_cancelled_consumer(stream: Any, rows: int) -> None:
    """The consumer waits for something else between two rows."""
    with anyio.CancelScope() as scope:
        async for row in stream:
            if row.value == rows - 1:
                scope.cancel()
                await anyio.sleep_forever()


async def by_cancelled_task(stream: Any, rows: int) -> None:
    has_read = anyio.Event()

    async def read(stream: Any) -> None:
        await take(stream, rows)
        has_read.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(read, stream)
        del stream
        await has_read.wait()
        group.cancel_scope.cancel()
    # The cancellation refers to the task's frame, and that to the stream and to the cancellation.
    gc.collect()


async def by_end_of_task(stream: Any, rows: int) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(take, stream, rows)
        del stream


async def rows_of(stream: Any, rows: int) -> AsyncIterator[int]:
    for _ in range(rows):
        yield (await stream.__anext__()).value


async def by_end_of_generator(stream: Any, rows: int) -> None:
    assert [value async for value in rows_of(stream, rows)] == list(range(rows))


async def by_closed_generator(stream: Any, rows: int) -> None:
    async with contextlib.aclosing(rows_of(stream, COUNT)) as values:
        async for value in values:
            if value == rows - 1:
                break


async def by_dropped_generator(stream: Any, rows: int) -> None:
    async for value in rows_of(stream, COUNT):
        if value == rows - 1:
            break
    await anyio.wait_all_tasks_blocked()  # the loop closes it when it gets to it


async def never_begun(stream: Any, rows: int) -> None:
    del stream


async def never_begun_and_closed(stream: Any, rows: int) -> None:
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()


async def closed_twice(stream: Any, rows: int) -> None:
    await take(stream, rows)
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()


async def by_async_with(stream: Any, rows: int) -> None:
    async with stream:
        await take(stream, rows)


WAYS = [
    by_break,
    by_del,
    by_exception,
    by_cancelled_consumer,
    by_cancelled_task,
    by_end_of_task,
    by_end_of_generator,
    by_closed_generator,
    by_dropped_generator,
    never_begun,
    never_begun_and_closed,
    closed_twice,
    by_async_with,
]

in_every_way = pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])


@in_every_way
async def test_left_outside_a_block(make_database: Maker, way: Any) -> None:
    """In each of the first three chunks, on one worker and on several."""
    for pool_size in (1, 3):
        async with make_database(pool_size=pool_size) as database:
            numbers = await numbers_of(database)
            for rows in SOME:
                await way(numbers.stream(), rows)
                await check_at_rest(numbers)
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(way, numbers.stream(), SOME[-1])
            await check_at_rest(numbers)
            await numbers.Number.drop_table()


@in_every_way
async def test_left_inside_a_block_that_goes_on(make_database: Maker, way: Any) -> None:
    """The block's next statement finds no cursor open: it drops the table that was read, at once."""
    async with make_database(pool_size=2) as database:
        numbers = await numbers_of(database)
        for rows in SOME:
            async with database.atomic():
                await way(numbers.stream(), rows)
                await numbers.Number.drop_table()
                await numbers.create(COUNT)
                await numbers.Number.update(value=-1).where(numbers.Number.value == 0)
            assert await numbers.Number.select(peewee.fn.MIN(numbers.Number.value)).scalar() == -1
            await numbers.Number.update(value=0).where(numbers.Number.value == -1)
            await check_at_rest(numbers)


@in_every_way
async def test_left_inside_a_block_that_is_rolled_back(make_database: Maker, way: Any) -> None:
    """The block's statements are undone, those after the stream as well, and its savepoints before."""
    async with make_database(pool_size=2) as database:
        numbers = await numbers_of(database)
        for rows in SOME:
            with pytest.raises(KeyError, match="the block"):
                async with database.atomic():
                    with pytest.raises(KeyError, match="the savepoint"):
                        async with database.atomic():
                            await numbers.Number.create(value=2 * COUNT)
                            await way(numbers.stream(), rows)
                            raise KeyError("the savepoint")
                    assert await numbers.Number.select().count() == COUNT
                    await way(numbers.stream(), rows)
                    await numbers.Number.create(value=2 * COUNT)
                    raise KeyError("the block")
            await check_at_rest(numbers)


@pytest.mark.parametrize("is_rolled_back", [False, True], ids=["kept", "rolled back"])
async def test_dropped_after_its_block(make_database: Maker, is_rolled_back: bool) -> None:
    """What the block had open ended with it; the stream says so when it is asked for a row it lacks."""
    async with make_database(pool_size=2) as database:
        numbers = await numbers_of(database)
        for ends in ("read on", "closed", "dropped"):
            with contextlib.suppress(KeyError):
                async with database.atomic():
                    stream = numbers.stream()
                    await take(stream, 15)
                    if is_rolled_back:
                        raise KeyError
            await check_at_rest(numbers)
            if ends == "read on":
                with pytest.raises(TransactionFinished):
                    await take(stream, COUNT)
            elif ends == "closed":
                await stream.aclose()
            del stream
            await check_at_rest(numbers)


# -- with a fetch under way -----------------------------------------------------------------


class Barrier:
    """Holds one fetch of a stream's rows on its worker until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.holds_fetch = 0
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._fetches = 0
        self._next = streams.Chunks.next
        monkeypatch.setattr(streams.Chunks, "next", lambda chunks: self._fetch(chunks))

    def hold(self, fetch: int) -> None:
        """Hold the fetch of this number, from now on."""
        self.holds_fetch, self._fetches = fetch, 0
        self.begun.clear()
        self.go_on.clear()

    def _fetch(self, chunks: Any) -> Any:
        self._fetches += 1
        if self._fetches == self.holds_fetch:
            self.begun.set()
            assert self.go_on.wait(10)
        return self._next(chunks)

    async def let_go(self) -> None:
        """Let the fetch go on when it is under way, and when whoever wants to wait for it does."""
        await wait_until(self.begun.is_set)
        await anyio.wait_all_tasks_blocked()
        self.go_on.set()


@pytest.fixture
def barrier(monkeypatch: pytest.MonkeyPatch) -> Barrier:
    return Barrier(monkeypatch)


@pytest.mark.parametrize(
    "way", [way for way in WAYS if "never" not in way.__name__], ids=lambda way: way.__name__
)
async def test_left_while_the_next_chunk_is_fetched(make_database: Maker, barrier: Barrier, way: Any) -> None:
    """The fetch ahead is on its worker when the stream is left; the worker comes back after it."""
    async with make_database(pool_size=2) as database:
        numbers = await numbers_of(database)
        barrier.hold(3)
        async with anyio.create_task_group() as group:
            group.start_soon(barrier.let_go)
            await way(numbers.stream(), 15)
            assert barrier.begun.wait(5)
        await check_at_rest(numbers)


@pytest.mark.parametrize("fetch", [1, 2, 3])
@pytest.mark.parametrize("is_inside", [False, True], ids=["outside", "inside"])
async def test_cancelled_while_it_waits_for_a_chunk(
    make_database: Maker, barrier: Barrier, fetch: int, is_inside: bool
) -> None:
    """Whoever reads is cancelled, at the first chunk or at a later one; control returns after the fetch."""
    async with make_database(pool_size=2) as database:
        numbers = await numbers_of(database)
        barrier.hold(fetch)
        async with anyio.create_task_group() as group:
            group.start_soon(read_all, numbers, is_inside)
            await wait_until(barrier.begun.is_set)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await barrier.let_go()
        assert database.stats().leased == 0
        await check_at_rest(numbers)


async def read_all(numbers: Numbers, is_inside: bool) -> None:
    async with numbers.database.atomic() if is_inside else contextlib.nullcontext():
        async for _ in numbers.stream():
            pass
        pytest.fail("the stream was not cancelled")


async def test_cancelled_in_the_middle_of_a_slow_query(make_database: Maker) -> None:
    """The query of its first chunk is interrupted on the server, and the worker serves the next call."""
    async with make_database(pool_size=1) as database:
        numbers = await numbers_of(database)
        slow = numbers.Number.raw(slow_sql(make_database.kind, 10))
        with anyio.fail_after(8), anyio.move_on_after(0.1) as scope:
            async for _ in slow.iterator():
                pass
        assert scope.cancelled_caught
        await check_at_rest(numbers)


# -- tasks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_inside", [False, True], ids=["outside", "inside"])
async def test_each_row_is_awaited_by_a_task_of_its_own(make_database: Maker, is_inside: bool) -> None:
    """All rows come, in order, inside a block of another task too; and dropped so, it leaves nothing."""
    async with make_database(pool_size=2) as database:
        numbers = await numbers_of(database)

        async def next_of(stream: Any, seen: list[int]) -> None:
            with contextlib.suppress(StopAsyncIteration):
                seen.append((await stream.__anext__()).value)

        for rows in (25, COUNT + 1):
            seen: list[int] = []
            async with database.atomic() if is_inside else contextlib.nullcontext():
                stream = numbers.stream()
                for _ in range(rows):
                    async with anyio.create_task_group() as group:
                        group.start_soon(next_of, stream, seen)
                del stream
            assert seen == list(range(min(rows, COUNT)))
            await check_at_rest(numbers)


async def test_two_tasks_at_once_are_told_so(make_database: Maker, barrier: Barrier) -> None:
    """The second is refused with a sentence; the first reads on to the end."""
    async with make_database(pool_size=2) as database:
        numbers = await numbers_of(database)
        stream, seen = numbers.stream(), []

        async def read() -> None:
            seen.extend([row.value async for row in stream])

        barrier.hold(2)
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await wait_until(barrier.begun.is_set)
            with pytest.raises(peewee.InterfaceError, match="two tasks await its next row at once"):
                await stream.__anext__()
            barrier.go_on.set()
        assert seen == list(range(COUNT))
        await check_at_rest(numbers)


@pytest.mark.parametrize("pool_size", [1, 2])
async def test_begun_in_one_task_and_finished_in_another(make_database: Maker, pool_size: int) -> None:
    """The first task ends, and with it nothing of the stream; one that is left so is dropped well, too."""
    async with make_database(pool_size=pool_size) as database:
        numbers = await numbers_of(database)
        for rows in (COUNT - 15, 15):
            seen: list[int] = []

            async def begin(stream: Any, seen: list[int]) -> None:
                seen += await take(stream, 15)

            stream = numbers.stream()
            async with anyio.create_task_group() as group:
                group.start_soon(begin, stream, seen)
            gc.collect()
            seen += await take(stream, rows)
            assert seen == list(range(15 + rows))
            del stream, group
            await check_at_rest(numbers)


async def test_whole_streams_beside_those_that_are_left(make_database: Maker) -> None:
    """Twenty streams have all of their rows, beside streams that are left and blocks that are cancelled."""
    async with make_database(pool_size=4) as database:
        numbers = Numbers(database)
        await numbers.create(1000)
        slow, is_over = slow_sql(make_database.kind, 2), False

        async def be_cancelled() -> None:
            while not is_over:
                with anyio.move_on_after(0.02):
                    async with database.atomic():
                        await numbers.Number.update(value=-1).where(numbers.Number.value == -1)
                        await database.execute_sql(slow)

        async def leave() -> None:
            while not is_over:
                for way in (by_break, by_cancelled_consumer, by_del):
                    await way(numbers.stream(), 35)

        async def read() -> None:
            for _ in range(5):
                assert [row.value async for row in numbers.stream()] == list(range(1000))

        async with anyio.create_task_group() as others:
            for other in (be_cancelled, be_cancelled, leave, leave):
                others.start_soon(other)
            async with anyio.create_task_group() as readers:
                for _ in range(4):
                    readers.start_soon(read)
            is_over = True
        database.connections.pools.get().check()
