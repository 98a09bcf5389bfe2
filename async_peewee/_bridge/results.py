"""Rows: what a driver has fetched, made into Peewee's rows, on the worker or where they are used.

What is made on one processor and used on another has to travel between their caches, which
takes a third of the time that Peewee needs to make a plain row. So the event loop's thread
makes the rows that are made quickly, a few hundred at a time; the worker makes all others. Which
are quick the first few tell, and the loop's thread looks at the clock all the same.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import length_hint
from typing import Any, TypeVar

import anyio.lowlevel
import peewee

from .._errors import PoolClosed, PoolFull, PoolTimeout, TransactionFinished, driver_errors
from .._pool.gil import has_gil

T = TypeVar("T")


# Makes rows for so many seconds; returns them, and the error of the row after them.
Rows = tuple[list[Any], Exception | None]


Make = Callable[[float, Callable[[Any], Any], Iterator[Any]], Rows]


# Runs a function on a worker.
Call = Callable[[Callable[[], Any]], Awaitable[Any]]


# So many rows a driver is asked for at a time. psycopg keeps the interpreter, and with it the
# loop's thread, for as long as it makes them: a millisecond or two for these.
PIECE = 2000


class BufferedCursor:
    """All that a DB-API cursor had to say, read on the worker: rows, description, counts."""

    def __init__(self, cursor: Any) -> None:
        if not hasattr(cursor, "fetchall"):
            cursor = cursor.cursor  # inside playhouse.postgres_ext's FetchManyCursor
        # No description: the statement returns no rows, and asking for some is an error; or it
        # is a server-side cursor of psycopg2, which has a name, and no description until then.
        has_rows = cursor.description is not None or getattr(cursor, "name", None)
        with driver_errors:
            self._rows: list[Any] = _fetch_all(cursor) if has_rows else []
        self.description: Any = cursor.description
        # After the rows: sqlite3 counts the rows of RETURNING as they are fetched.
        self.rowcount: int = getattr(cursor, "rowcount", -1)
        self.lastrowid: Any = getattr(cursor, "lastrowid", None)
        self._position = 0
        cursor.close()

    @property
    def left(self) -> int:
        """How many rows have not been fetched."""
        return len(self._rows) - self._position

    def fetchone(self) -> Any:
        if self._position >= len(self._rows):
            return None
        self._position += 1
        return self._rows[self._position - 1]

    def fetchmany(self, size: int = 1) -> Sequence[Any]:
        start = self._position
        self._position = min(start + size, len(self._rows))
        return self._rows[start : self._position]

    def fetchall(self) -> list[Any]:
        start, self._position = self._position, len(self._rows)
        return self._rows[start:]

    def put_back(self, count: int) -> None:
        """Have the last rows that were fetched fetched again."""
        self._position -= count

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def close(self) -> None:
        """Do nothing: the real cursor was closed on its worker."""


def _fetch_all(cursor: Any) -> list[Any]:
    rows: list[Any] = cursor.fetchmany(PIECE)
    if len(rows) < PIECE:
        return rows
    rows = list(rows)
    while piece := cursor.fetchmany(PIECE):
        time.sleep(MOMENT)
        rows += piece
    return rows


def read_all(wrapper: Any) -> Any:
    """Read all rows of a Peewee CursorWrapper; it then needs no connection any more."""
    if not wrapper.populated:
        if not isinstance(wrapper.cursor, BufferedCursor):
            wrapper.cursor = BufferedCursor(wrapper.cursor)
        wrapper.row_cache.extend(convert(wrapper, wrapper.cursor.fetchall()))
        wrapper.populated = True
    return wrapper


def read_partly(wrapper: Any) -> Any:
    """Read all rows, but leave them to `read_here()` on the loop's thread if it is quick to make them."""
    if not wrapper.populated:
        cursor = wrapper.cursor = BufferedCursor(wrapper.cursor)
        is_quick = False
        if is_for_any_thread(wrapper):
            rows = cursor.fetchmany(SAMPLE)
            made, error, is_quick = make_sample(wrapper, iter(rows))
            _keep(wrapper, made, error)
        # More than a slice would keep the loop from others.
        if not is_quick or cursor.left > SLICE:
            read_all(wrapper)
    return wrapper


def read_for(wrapper: Any, make: Make, seconds: float) -> bool:
    """Make rows that the worker has left, for so long; return True if none are left."""
    if not wrapper.populated:
        rows = iter(wrapper.cursor.fetchall())
        made, error = make(seconds, wrapper.process_row, rows)
        _keep(wrapper, made, error)
        if length_hint(rows):
            wrapper.cursor.put_back(length_hint(rows))
        else:
            wrapper.populated = True
    return bool(wrapper.populated)


def _keep(wrapper: Any, made: list[Any], error: Exception | None) -> None:
    if error is not None:
        raise error
    wrapper.count += len(made)
    wrapper.row_cache.extend(made)


async def make_elsewhere(call: Call, make: Callable[[Make, float], T], seconds: float) -> T:
    """Have a worker make rows that turned out to be slow, for so long; any will do that `call` finds.

    The query itself has succeeded. So where no worker can be had any more they are made here, a while
    at a time.
    """
    has_begun = False

    def make_on_worker() -> T:
        nonlocal has_begun
        has_begun = True
        return make(make_with_pauses, seconds)

    try:
        return await call(make_on_worker)  # type: ignore[no-any-return]
    except REFUSALS:
        if has_begun:
            raise
    await anyio.lowlevel.checkpoint()
    return make(make_for, HOLD)


# After so many rows, a millisecond or two of Python, a worker lets go of the interpreter for a
# moment, in seconds: the loop's thread, asking for it, would have to wait for five
# milliseconds, and that again for each timer and socket. Nor does the loop make more of a list.
SLICE = 200


MOMENT = 1e-6


# So many rows a worker makes in any case, to see how long that takes.
SAMPLE = 10


# A row that takes more processor time than this, in seconds, is not made on the loop's
# thread. A plain one takes three to five microseconds, and a query in a converter a hundred.
QUICK = 1.5e-5


# How long the loop's thread makes rows at a time, in seconds: the rows that follow the sample may be
# of another kind. Twenty times what a list of a hundred plain rows takes; and as long as another
# thread may keep the interpreter, which must not look as if the rows were slow.
HOLD = 0.005


# After so long a worker with slow rows lets go of the interpreter, and for so long, in seconds: more than
# a moment, for a row may take just as long as the loop's thread waits before it insists.
PAUSE_AFTER = 0.004


PAUSE = 3e-4


# How a call ends for which no worker can be had.
REFUSALS = (PoolClosed, PoolFull, PoolTimeout, TransactionFinished)


def convert(wrapper: Any, rows: Sequence[Any]) -> list[Any]:
    """Make of a driver's rows what a Peewee CursorWrapper makes of them one by one, which costs more."""
    if rows:
        _initialize(wrapper)
    wrapper.count += len(rows)
    process_row = wrapper.process_row
    if len(rows) <= SLICE:
        return [process_row(row) for row in rows]
    converted: list[Any] = []
    for start in range(0, len(rows), SLICE):
        if start:
            time.sleep(MOMENT)
        converted += [process_row(row) for row in rows[start : start + SLICE]]
    return converted


def make_for(seconds: float, process_row: Callable[[Any], Any], rows: Iterator[Any]) -> Rows:
    """Make rows for so long, and one at least; return them, and the error of the row after them."""
    made: list[Any] = []
    clock = time.perf_counter
    until = clock() + seconds
    try:
        for row in rows:
            made.append(process_row(row))
            if clock() >= until:
                break
    except Exception as error:
        return made, error
    return made, None


# Do as `read_for()` on the loop's thread, for as long as it may stand still.
read_here: Callable[[Any], bool] = partial(read_for, make=make_for, seconds=HOLD)


def make_with_pauses(seconds: float, process_row: Callable[[Any], Any], rows: Iterator[Any]) -> Rows:
    """Do as `make_for()`, on a worker: the loop's thread gets in between."""
    made: list[Any] = []
    until = time.perf_counter() + seconds
    while True:
        some, error = make_for(PAUSE_AFTER, process_row, rows)
        made += some
        if error is not None or not length_hint(rows) or time.perf_counter() >= until:
            return made, error
        time.sleep(PAUSE)


def make_sample(wrapper: Any, rows: Iterator[Any]) -> tuple[list[Any], Exception | None, bool]:
    """Make the first rows on a worker; return them, an error, and whether those that follow seem quick."""
    if length_hint(rows):
        _initialize(wrapper)
    began = time.thread_time()
    made, error = make_for(float("inf"), wrapper.process_row, islice(rows, SAMPLE))
    return made, error, error is None and are_quick(len(made), time.thread_time() - began)


def are_quick(count: int, seconds: float) -> bool:
    """Return True if rows that took so much processor time are for the loop's thread to make."""
    return seconds <= QUICK * count


def _initialize(wrapper: Any) -> None:
    # On a worker: it asks the driver for the names of the columns.
    if not wrapper.initialized:
        wrapper.initialize()
        wrapper.initialized = True


def is_for_any_thread(wrapper: Any) -> bool:
    """Return True if it does not matter which thread makes the rows, and the loop's may be the better one.

    Not where a function of the user's, given to objects(), makes them: it may be meant for one
    thread, and count on the order of the rows. Nor on a free-threaded Python.
    """
    is_own = isinstance(wrapper, peewee.ObjectCursorWrapper)
    return has_gil() and bool(getattr(wrapper, "is_model", not is_own))
