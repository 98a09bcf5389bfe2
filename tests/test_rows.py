"""Rows: quick ones are made where they are used, all others on the worker; always all, in order, complete."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncModel, AsyncSqliteDatabase, TransactionFinished
from async_peewee._bridge import results, streams
from async_peewee._bridge.results import SAMPLE, SLICE, read_all
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


async def test_an_error_in_a_converter_ends_the_stream(traces: Traces) -> None:
    """After the rows before it, and once; the worker is free, and the next stream works."""
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
