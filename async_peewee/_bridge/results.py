"""Rows: what a driver has fetched, made into Peewee's rows, on the worker or where they are used.

What is made on one processor and used on another has to travel between their caches, which
takes a third of the time that Peewee needs to make a plain row. So the event loop's thread
makes the rows that are made quickly, a few hundred at a time; the worker makes all others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import peewee

from .._errors import driver_errors
from .._pool.gil import has_gil

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

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())

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
    """Read all rows, but leave the wrapper to `read_all()` on the loop's thread if that is quick."""
    if not wrapper.populated:
        cursor = wrapper.cursor = BufferedCursor(wrapper.cursor)
        made, is_quick = convert_sample(wrapper, cursor.fetchmany(SAMPLE))
        wrapper.row_cache.extend(made)
        # More than a slice would keep the loop from others.
        if not is_quick or cursor.left > SLICE:
            read_all(wrapper)
    return wrapper


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


def convert_sample(wrapper: Any, rows: Sequence[Any]) -> tuple[list[Any], bool]:
    """Make some rows on a worker; return them, and whether the loop's thread is to make those that follow."""
    if not rows or not has_gil() or not _is_peewees_alone(wrapper):
        return convert(wrapper, rows), False
    _initialize(wrapper)
    began = time.thread_time()
    made = convert(wrapper, rows)
    return made, time.thread_time() - began <= QUICK * len(rows)


def _initialize(wrapper: Any) -> None:
    # On a worker: it asks the driver for the names of the columns.
    if not wrapper.initialized:
        wrapper.initialize()
        wrapper.initialized = True


def _is_peewees_alone(wrapper: Any) -> bool:
    """Return False if a function of the user's, given to objects(), makes the rows.

    It may be meant for one thread, and count on the order of the rows.
    """
    is_own = isinstance(wrapper, peewee.ObjectCursorWrapper)
    return bool(getattr(wrapper, "is_model", not is_own))
