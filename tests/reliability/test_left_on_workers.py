"""What calls leave on a worker, and databases on a loop: no cursor, no object, no thread, no descriptor."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.numbers import Numbers
from tests.support import Maker, in_thread, wait_until, worker_threads

COUNT = 1000


async def numbers_of(database: Any) -> Numbers:
    numbers = Numbers(database)
    await numbers.create(COUNT)
    return numbers


# -- cursors --------------------------------------------------------------------------------


def read_half(numbers: Numbers) -> None:
    """Fail in the middle of a query, whose cursor the error's traceback refers to."""
    for row in numbers.Number.select().iterator():
        if row.value == 5:
            raise ValueError("a strange number")


async def check_unspoilt(make: Maker, numbers: Numbers) -> None:
    """Fail unless the one worker sees what others commit, and lets them write, and can write itself."""
    Number = numbers.Number
    async with make() as other:
        await other.execute_sql("INSERT INTO number VALUES (99999)")
        async with numbers.database.connection_context():
            assert await Number.select().where(Number.value == 99999).count() == 1
            await Number.create(value=88888)
        assert (await other.execute_sql("SELECT max(value) FROM number WHERE value < 99999")).fetchone() == (
            88888,
        )
        await numbers.database.execute_sql("DROP TABLE number")


async def test_a_kept_error_keeps_no_cursor_open(make_any: Maker) -> None:
    """Whoever gets the worker next sees what is committed, and can write and drop the table."""
    async with make_any(pool_size=1) as database:
        numbers = await numbers_of(database)
        with pytest.raises(ValueError, match="a strange number") as kept:
            await database.run(read_half, numbers)
        await check_unspoilt(make_any, numbers)
        assert kept.value.__traceback__ is not None


async def test_a_cursor_kept_in_a_global_is_closed(make_any: Maker) -> None:
    """It was half read by one call, and is of no use to the next."""
    kept: list[Any] = []

    def read(numbers: Numbers) -> None:
        kept.append(numbers.Number.select().iterator())
        assert next(kept[0]).value >= 0

    if make_any.kind == "cysqlite":
        return  # its cursors cannot be referred to weakly, and stay open for as long as they are kept
    async with make_any(pool_size=1) as database:
        numbers = await numbers_of(database)
        await database.run(read, numbers)
        await check_unspoilt(make_any, numbers)
        kept.clear()


async def test_open_cursors_end_with_the_block(make_database: Maker) -> None:
    """Inside it one call after another reads on; after it nothing is open."""
    kept: list[Any] = []

    def read(numbers: Numbers, count: int) -> list[int]:
        if not kept:
            kept.append(iter(numbers.Number.select().order_by(numbers.Number.value).iterator()))
        return [next(kept[0]).value for _ in range(count)]

    async with make_database(pool_size=1) as database:
        numbers = await numbers_of(database)
        async with database.atomic():
            assert await database.run(read, numbers, 3) == [0, 1, 2]
            assert await database.run(read, numbers, 2) == [3, 4]
        await check_unspoilt(make_database, numbers)
        kept.clear()


# -- objects --------------------------------------------------------------------------------


class Thing:
    """Something that can be referred to weakly."""


class Failure(Exception):
    """The same, as an error."""


variable: contextvars.ContextVar[Thing] = contextvars.ContextVar("variable")

References = list["weakref.ref[Any]"]


def noted(references: References, thing: Any) -> Any:
    references.append(weakref.ref(thing))
    return thing


async def succeed(numbers: Numbers, references: References) -> None:
    """Take an argument and return a result."""
    argument = noted(references, Thing())
    await numbers.database.run(lambda given: [given, noted(references, Thing())], argument)


async def fail(numbers: Numbers, references: References) -> None:
    """Raise an error that refers to the argument, as its frames do."""

    def raise_it(given: Thing) -> None:
        raise noted(references, Failure(given))

    with pytest.raises(Failure):
        await numbers.database.run(raise_it, noted(references, Thing()))


async def be_cancelled(numbers: Numbers, references: References) -> None:
    """Be cancelled while the function runs."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(given: Thing) -> Thing:
        begun.set()
        assert go_on.wait(10)
        return noted(references, Thing())

    async def cancel() -> None:
        await wait_until(begun.is_set)
        scope.cancel()
        go_on.set()

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        with anyio.CancelScope() as scope:
            await numbers.database.run(wait, noted(references, Thing()))


async def use_a_block(numbers: Numbers, references: References) -> None:
    """Call from inside a block, and leave it with an error."""
    with pytest.raises(Failure):
        async with numbers.database.atomic():
            await succeed(numbers, references)
            await fail(numbers, references)
            raise noted(references, Failure())


async def read_a_stream(numbers: Numbers, references: References) -> None:
    """Read one stream to its end, and leave another in the middle."""
    async for row in numbers.stream():
        noted(references, row)
    async for row in numbers.stream():
        noted(references, row)
        if row.value > 400:
            break


@pytest.mark.parametrize("use", [succeed, fail, be_cancelled, use_a_block, read_a_stream])
async def test_an_idle_worker_keeps_nothing_alive(make_database: Maker, use: Any) -> None:
    """Arguments, results, errors, rows and context variables are free without any further call."""
    async with make_database(pool_size=1) as database:
        numbers, references = await numbers_of(database), list[Any]()

        async def handle() -> None:
            variable.set(noted(references, Thing()))
            await use(numbers, references)

        async with anyio.create_task_group() as group:
            group.start_soon(handle)
        await wait_until(lambda: database.stats().idle == database.stats().workers)
        calls = database.stats().calls
        await wait_until(lambda: not alive(references))
        assert len(references) > 2
        assert database.stats().calls == calls


def alive(references: References) -> list[Any]:
    gc.collect()
    return [thing for reference in references if (thing := reference()) is not None]


# -- databases ------------------------------------------------------------------------------


def descriptors() -> list[str]:
    """Return what the process has open: sockets and the files of databases."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile, as the one of this listing
            found.append(str(entry.readlink()))
    return sorted(name for name in found if name.startswith("socket:") or ".db" in name)


async def use_once(database: Any) -> None:
    await database.execute_sql("SELECT 1")


async def leave_a_stream(database: Any) -> None:
    """Have a stream open, which goes together with its database."""
    numbers = Numbers(database)
    if not await numbers.Number.table_exists():
        await numbers.create(COUNT)
    database.stream = numbers.stream()
    for _ in range(200):
        await database.stream.__anext__()


@contextlib.contextmanager
def given_back(warned: int) -> Iterator[None]:
    """Fail unless the databases that are dropped inside say so, so many times."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts = [str(each.message) for each in caught if each.category is ResourceWarning]
    assert sum("was dropped and not closed" in text for text in texts) == warned


async def collected(drop: Callable[[], Any]) -> None:
    """Drop databases, and wait until their threads have ended."""
    drop()
    # Again and again: the end of a stream that is garbage needs it once more.
    await wait_until(lambda: gc.collect() >= 0 and not worker_threads(), seconds=10)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")
@pytest.mark.parametrize("use", [use_once, leave_a_stream])
async def test_dropped_databases_give_everything_back(make_database: Maker, use: Any) -> None:
    """Threads and descriptors go, also of an open stream, and each says that it was not closed."""
    gc.collect()
    before = descriptors()
    databases = [make_database(pool_size=2) for _ in range(3)]
    for database in databases:
        await use(database)
    del database
    assert len(worker_threads()) >= 3
    assert descriptors() != before
    with given_back(warned=3):
        await collected(databases.clear)
    await wait_until(lambda: descriptors() == before)


async def test_databases_dropped_on_another_thread(make_database: Maker) -> None:
    """The loop is told from there, and ends their workers."""
    databases = [make_database() for _ in range(3)]
    for database in databases:
        await use_once(database)
    del database
    with given_back(warned=3):
        await in_thread(databases.clear)
        await collected(gc.collect)


async def test_one_database_dropped_on_two_loops_where_warnings_are_errors(make_database: Maker) -> None:
    """The pool of the second loop is closed although the warning of the first was raised."""
    databases = [make_database()]
    await use_once(databases[0])
    used, may_end = threading.Event(), threading.Event()

    def other_loop() -> None:
        async def use() -> None:
            await use_once(databases[0])
            used.set()
            await anyio.to_thread.run_sync(may_end.wait)

        anyio.run(use)

    thread = threading.Thread(target=other_loop)
    thread.start()
    await wait_until(used.is_set)
    workers = worker_threads()
    unraisable: list[Any] = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "unraisablehook", lambda each: unraisable.append(str(each.exc_value)))
        warnings.simplefilter("error")
        databases.clear()
        gc.collect()
    with anyio.move_on_after(5):
        await wait_until(lambda: not worker_threads())
    left = worker_threads()
    may_end.set()
    await in_thread(thread.join)
    assert (len(workers), left) == (2, [])
    assert "was dropped and not closed" in unraisable[0]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_database_dropped_after_its_loop(make_database: Maker, backend: str) -> None:
    """The loop's end has ended its workers: nothing is left to give back, and nothing to warn of."""
    gc.collect()
    before = descriptors()
    databases = [make_database(pool_size=2)]

    async def use() -> None:
        await leave_a_stream(databases[0])

    anyio.run(use, backend=backend)
    with given_back(warned=0):
        databases.clear()
        gc.collect()
    assert worker_threads() == []
    assert descriptors() == before


async def test_a_closed_database_is_dropped_without_a_warning(make_database: Maker) -> None:
    """After close(), after `async with`, and where it was never used."""
    databases = [make_database() for _ in range(3)]
    await use_once(databases[0])
    await leave_a_stream(databases[0])
    await databases[0].close(0)
    async with databases[1]:
        await use_once(databases[1])
    with given_back(warned=0):
        await collected(databases.clear)
