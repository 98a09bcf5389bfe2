"""Rows: quick ones are made where they are used, all others on the worker; always all, in order, complete."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncModel, AsyncSqliteDatabase, PoolFull, TransactionFinished
from async_peewee._bridge import results, streams
from async_peewee._bridge.results import SAMPLE, SLICE, read_all
from async_peewee._pool.pool import WorkerPool
from tests.support import Maker

HERE = "the loop's thread"
STRETCH = 50


class Traced(peewee.IntegerField):
    """A field that notes where its values are made, and does something of the test's with them."""

    def __init__(self) -> None:
        super().__init__(primary_key=True)
        self.loop = threading.get_ident()
        self.places: list[str] = []
        self.values: list[int] = []

    def python_value(self, value: Any) -> Any:
        self.places.append(HERE if threading.get_ident() == self.loop else "a worker")
        self.values.append(value)
        return self.change(value)

    def change(self, value: Any) -> Any:
        return value


class Traces:
    """A table of numbers with such a field."""

    def __init__(self, database: Any) -> None:
        class Trace(AsyncModel):
            value = Traced()

            class Meta:
                table_name = "trace"

        database.bind([Trace])
        self.Trace: Any = Trace
        self.field: Traced = Trace.value

    async def create(self, count: int) -> None:
        await self.Trace.create_table()
        await self.Trace.insert_many([(n,) for n in range(count)], [self.field])
        self.field.places.clear()
        self.field.values.clear()

    def select(self) -> Any:
        return self.Trace.select().order_by(self.field)

    def made(self) -> dict[str, int]:
        return {place: self.field.places.count(place) for place in set(self.field.places)}


@pytest.fixture(autouse=True)
def all_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no row, and no fetch of a chunk, be slow on account of a busy machine."""
    monkeypatch.setattr(results, "QUICK", float("inf"))
    monkeypatch.setattr(streams, "CHUNK_SECONDS", 1e6)
    monkeypatch.setattr(streams, "STRETCH", STRETCH)


@pytest.fixture
async def traces(make_database: Maker) -> Any:
    traces = Traces(make_database())
    await traces.create(SLICE + SAMPLE + 1)
    return traces


@pytest.fixture
async def sqlite_traces(sqlite_db: AsyncSqliteDatabase) -> Any:
    traces = Traces(sqlite_db)
    await traces.create(SLICE + SAMPLE + 1)
    return traces


# -- lists ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, SAMPLE, SAMPLE + 1, SAMPLE + SLICE])
async def test_a_short_list_is_made_by_the_loop(traces: Traces, count: int) -> None:
    """All but the sample; the query has the rows as well, and they need no connection."""
    query = traces.select().limit(count)
    rows = await query
    assert traces.made().get(HERE, 0) == max(0, count - SAMPLE)
    assert traces.field.values == list(range(count))
    assert [row.value for row in rows] == [row.value for row in query] == list(range(count))
    assert len(rows) == len(query) == count
    assert rows[:2] == list(query)[:2]


async def test_a_long_list_is_made_by_its_worker(sqlite_traces: Traces) -> None:
    """Where more than a slice is left after the sample the loop would be kept from others."""
    await sqlite_traces.select()
    assert sqlite_traces.made() == {"a worker": SAMPLE + SLICE + 1}


async def test_slow_rows_are_made_by_their_worker(
    sqlite_traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "QUICK", 1e-3)
    sqlite_traces.field.change = lambda value: sum(range(500_000))  # type: ignore[method-assign]
    assert len(await sqlite_traces.select().limit(50)) == 50
    assert [row async for row in sqlite_traces.select().limit(150).iterator()][149].value > 0
    assert sqlite_traces.made() == {"a worker": 200}


async def test_with_a_turn_for_each_processor_workers_make_all(
    sqlite_traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a free-threaded Python the loop's thread would be where all wait."""
    monkeypatch.setattr(results, "has_gil", lambda: False)
    assert len(await sqlite_traces.select().limit(100)) == 100
    assert sqlite_traces.made() == {"a worker": 100}


async def test_a_function_given_to_objects_runs_on_a_worker(sqlite_traces: Traces) -> None:
    """It may be meant for one thread; its rows come in order."""
    places: list[int] = []

    def make(value: int) -> int:
        places.append(threading.get_ident())
        return len(places)

    rows = await sqlite_traces.select().limit(100).objects(make)
    streamed = [row async for row in sqlite_traces.select().objects(make).iterator()]
    table = await sqlite_traces.Trace._meta.table.bind(sqlite_traces.Trace._meta.database).select()
    assert [*rows, *streamed] == list(range(1, 100 + SLICE + SAMPLE + 2))
    assert len(table) == SLICE + SAMPLE + 1
    assert threading.get_ident() not in places


@pytest.mark.parametrize("kind", ["dicts", "tuples", "namedtuples"])
async def test_rows_of_all_kinds_are_made_by_the_loop(sqlite_traces: Traces, kind: str) -> None:
    query = getattr(sqlite_traces.select().limit(30), kind)()
    assert list(await query) == [row async for row in query.clone().iterator()]
    assert sqlite_traces.made()[HERE] == 2 * (30 - SAMPLE)


async def test_an_error_in_a_converter_is_raised_where_the_list_is_awaited(sqlite_traces: Traces) -> None:
    """The query is as it was before, and can be tried again."""
    query = sqlite_traces.select().limit(100)
    sqlite_traces.field.change = fail_at(60)  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await query
    sqlite_traces.field.change = lambda value: value  # type: ignore[method-assign]
    assert len(await query) == 100


def fail_at(number: int) -> Any:
    return lambda value: value // (value != number)


# -- streams ----------------------------------------------------------------------------


async def test_a_stream_is_made_by_the_loop(traces: Traces) -> None:
    """Each row when it is asked for, in order; the sample by the worker, which drops the cursor."""
    stream = traces.select().iterator()
    values = [row.value async for row in stream]
    assert stream._chunks.process_row.__self__.cursor is None
    assert values == traces.field.values == list(range(SLICE + SAMPLE + 1))
    made = traces.made()
    assert made[HERE] > made["a worker"] >= SAMPLE


@pytest.mark.parametrize("quick", [float("inf"), 0.0])
async def test_an_error_in_a_converter_ends_the_stream(
    traces: Traces, monkeypatch: pytest.MonkeyPatch, quick: float
) -> None:
    """After the rows before it, and once, whoever makes them; the worker is free, the next stream works."""
    monkeypatch.setattr(results, "QUICK", quick)
    traces.field.change = fail_at(60)  # type: ignore[method-assign]
    stream = traces.select().iterator()
    got = []
    with pytest.raises(ZeroDivisionError):
        while True:
            got.append((await stream.__anext__()).value)
    assert got == list(range(60))
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()
    assert traces.Trace._meta.database.stats().leased == 0
    traces.field.change = lambda value: value  # type: ignore[method-assign]
    assert len([row async for row in traces.select().iterator()]) == SLICE + SAMPLE + 1


async def test_a_converter_that_raises_stop_iteration_loses_no_rows(sqlite_traces: Traces) -> None:
    """Python would take it for the end of the rows."""

    def stop(value: int) -> int:
        return value if value < 60 else next(iter(()))

    sqlite_traces.field.change = stop  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="StopIteration"):
        [row async for row in sqlite_traces.select().iterator()]
    with pytest.raises(RuntimeError, match="StopIteration"):
        await sqlite_traces.select().limit(100)


async def test_between_two_stretches_other_tasks_run(
    sqlite_traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One chunk of two hundred rows, a checkpoint every fifty."""
    monkeypatch.setattr(streams, "FIRST_CHUNK", SLICE + SAMPLE)
    stream = sqlite_traces.select().iterator()
    ran_at: set[int] = set()

    async def other() -> None:
        while True:
            ran_at.add(len(sqlite_traces.field.values))
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        rows = [await stream.__anext__() for _ in range(SLICE + SAMPLE)]
        group.cancel_scope.cancel()
    await stream.aclose()
    assert len(rows) == SLICE + SAMPLE
    between = {SAMPLE + n for n in range(0, SLICE, STRETCH)}
    # trio runs what is ready in any order, so not every time.
    assert ran_at & (between - {SAMPLE})


async def test_cancelled_between_two_stretches_the_stream_ends(
    sqlite_traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "FIRST_CHUNK", SLICE + SAMPLE)
    stream = sqlite_traces.select().iterator()
    for _ in range(SAMPLE + STRETCH):
        await stream.__anext__()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.__anext__()
    assert scope.cancelled_caught
    with pytest.raises(TransactionFinished, match="cancelled"):
        await stream.__anext__()
    assert sqlite_traces.Trace._meta.database.stats().leased == 0


# -- rows that are not what the first of them were like -----------------------------------

SLOW = 0.005


class Clocks(threading.local):
    """Stand for the module `time`: the clocks of each thread, which stand still by themselves."""

    now = 0.0
    used = 0.0

    def pass_by(self, seconds: float, is_work: bool = True) -> None:
        self.now += seconds
        self.used += seconds if is_work else 0.0

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.used

    def sleep(self, seconds: float) -> None: ...


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """Let time pass in converters only, each thread's by itself, so that what is decided is certain."""
    clocks = Clocks()
    monkeypatch.undo()  # all_are_quick
    for module in (results, streams):
        monkeypatch.setattr(module, "time", clocks)
    return clocks


def slow_from(clocks: Clocks, *, at: Any, is_work: bool = True) -> Any:
    def change(value: int) -> int:
        if at(value):
            clocks.pass_by(SLOW, is_work)
        return value

    return change


class Watch:
    """See for how long the loop's thread makes rows before it lets another task run."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self.longest = 0.0
        # trio runs what is ready in any order: between two turns of one task another may have two.
        self.most: float = 2 * (results.HOLD + SLOW) + 1e-9

    async def run(self, *, task_status: Any) -> None:
        last = self._clocks.now
        task_status.started()
        while True:
            await anyio.lowlevel.checkpoint()
            self.longest, last = max(self.longest, self._clocks.now - last), self._clocks.now


@contextlib.asynccontextmanager
async def watched(clocks: Clocks) -> AsyncIterator[Watch]:
    watch = Watch(clocks)
    async with anyio.create_task_group() as group:
        await group.start(watch.run)
        yield watch
        await anyio.sleep(0.01)  # on trio the watch need not be next
        group.cancel_scope.cancel()


@pytest.mark.parametrize("is_work", [True, False])
@pytest.mark.parametrize("in_block", [False, True])
async def test_a_list_that_turns_slow_is_finished_by_a_worker(
    traces: Traces, clocks: Clocks, in_block: bool, is_work: bool
) -> None:
    """After two stretches of the loop's thread, whether its rows work or wait; in order, and all."""
    traces.field.change = slow_from(clocks, at=lambda n: n >= SAMPLE, is_work=is_work)  # type: ignore[method-assign]
    database = traces.Trace._meta.database
    async with watched(clocks) as watch, database.atomic() if in_block else contextlib.nullcontext():
        rows = await traces.select().limit(200)
    assert [row.value for row in rows] == traces.field.values == list(range(200))
    assert len(rows) == 200
    assert traces.made() == {HERE: 2, "a worker": 198}
    assert 0 < watch.longest <= watch.most


async def test_an_error_in_a_row_that_a_worker_finishes(sqlite_traces: Traces, clocks: Clocks) -> None:
    """As everywhere; the query can be tried again."""
    query = sqlite_traces.select().limit(100)
    slow, fail = slow_from(clocks, at=lambda n: n >= SAMPLE), fail_at(60)
    sqlite_traces.field.change = lambda value: fail(slow(value))  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await query
    assert sqlite_traces.made()[HERE] == 2
    sqlite_traces.field.change = slow  # type: ignore[method-assign]
    assert len(await query) == 100


@pytest.mark.parametrize("way", ["list", "stream"])
async def test_slow_rows_come_also_if_no_worker_can_be_had(
    sqlite_traces: Traces, clocks: Clocks, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The pool is full, closed, or the block has ended: the query itself has succeeded."""
    slow = slow_from(clocks, at=lambda n: n >= SAMPLE)

    def refuse(*_: Any) -> None:
        raise PoolFull("test", 1)

    def change(value: int) -> Any:
        if value == SAMPLE:  # the worker has done its part
            monkeypatch.setattr(WorkerPool, "start", refuse)
        return slow(value)

    sqlite_traces.field.change = change  # type: ignore[method-assign]
    query = sqlite_traces.select().limit(30)
    async with watched(clocks) as watch:
        rows = [row async for row in query.iterator()] if way == "stream" else list(await query)
    assert [row.value for row in rows] == list(range(30))
    assert sqlite_traces.made() == {HERE: 20, "a worker": SAMPLE}
    assert 0 < watch.longest <= watch.most


@pytest.mark.parametrize("is_work", [True, False])
async def test_a_stream_that_turns_slow_is_finished_by_its_worker(
    traces: Traces, clocks: Clocks, monkeypatch: pytest.MonkeyPatch, is_work: bool
) -> None:
    """Every fiftieth row: for good where they work, for the rest of the chunk where they wait."""
    monkeypatch.setattr(streams, "FIRST_CHUNK", 500)
    await traces.Trace.insert_many([(n,) for n in range(SLICE + SAMPLE + 1, 2000)], [traces.field])
    traces.field.values.clear()
    traces.field.places.clear()
    traces.field.change = slow_from(clocks, at=lambda n: n % 50 == 49, is_work=is_work)  # type: ignore[method-assign]
    async with watched(clocks) as watch:
        values = [row.value async for row in traces.select().iterator()]
    assert values == list(range(2000))
    assert 0 < watch.longest <= watch.most
    assert traces.made()[HERE] <= (100 if is_work else 100 * 5)


async def test_a_thread_that_was_kept_waiting_is_not_slow(sqlite_traces: Traces, clocks: Clocks) -> None:
    """Another one may have had the interpreter: one late stretch decides nothing."""
    sqlite_traces.field.change = slow_from(clocks, at=lambda n: n == 50, is_work=False)  # type: ignore[method-assign]
    assert len(await sqlite_traces.select().limit(200)) == 200
    assert sqlite_traces.made()[HERE] == 200 - SAMPLE
    sqlite_traces.field.places.clear()
    assert len([row async for row in sqlite_traces.select().limit(99).iterator()]) == 99
    assert sqlite_traces.made()[HERE] == 99 - SAMPLE


async def test_slow_rows_come_a_few_at_a_time(
    sqlite_traces: Traces, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker makes no more of them than are a chunk: the first does not wait for a hundred."""
    monkeypatch.setattr(results, "has_gil", lambda: False)
    sqlite_traces.field.change = slow_from(clocks, at=lambda n: True)  # type: ignore[method-assign]
    stream = sqlite_traces.select().iterator()
    assert (await stream.__anext__()).value == 0
    assert len(sqlite_traces.field.values) <= SAMPLE + 3
    assert [row.value async for row in stream] == list(range(1, SLICE + SAMPLE + 1))
    assert sqlite_traces.made() == {"a worker": SLICE + SAMPLE + 1}


# -- on the worker ------------------------------------------------------------------------


class Plain(peewee.Model):
    """A model of plain Peewee, for its wrappers."""

    i = peewee.IntegerField(primary_key=True)

    class Meta:
        table_name = "n"


@pytest.fixture
def plain() -> Iterator[Any]:
    database = peewee.SqliteDatabase(":memory:")
    with Plain.bind_ctx(database), database:
        Plain.create_table()
        yield Plain


@pytest.mark.parametrize("count", [0, 3, 4, 10])
def test_many_rows_are_made_with_pauses_for_the_loop(
    plain: Any, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Here after each three: the rows are all there, in order, and what came before a pause is complete."""
    paused_at: list[int] = []
    made: list[Any] = []
    monkeypatch.setattr(results, "SLICE", 3)
    monkeypatch.setattr(results.time, "sleep", lambda seconds: paused_at.append(len(made)))
    Plain.insert_many([(i,) for i in range(count)]).execute()
    query = Plain.select(Plain.i).order_by(Plain.i).objects(lambda **row: made.append(row["i"]) or row["i"])
    wrapper = read_all(query.execute())
    assert wrapper.row_cache == made == list(range(count))
    assert paused_at == list(range(3, count, 3))
