"""Results that may leave a worker: filled, buffered, bound to no thread."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import GeneratorType
from typing import Any

import peewee

from ._rows import MOMENT, SAMPLE, SLICE, convert, convert_sample

# So many rows a driver is asked for at a time. psycopg keeps the interpreter, and with it the
# loop's thread, for as long as it makes them: a millisecond or two for these.
PIECE = 2000

# Peewee's own table of driver errors; fetching is outside of it in Peewee itself.
driver_errors = vars(peewee)["__exception_wrapper__"]


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


def fill(wrapper: Any) -> Any:
    """Read all rows of a Peewee CursorWrapper; it then needs no connection any more."""
    if not wrapper.populated:
        if not isinstance(wrapper.cursor, BufferedCursor):
            wrapper.cursor = BufferedCursor(wrapper.cursor)
        wrapper.row_cache.extend(convert(wrapper, wrapper.cursor.fetchall()))
        wrapper.populated = True
    return wrapper


def fill_partly(wrapper: Any) -> Any:
    """Read all rows on a worker, but leave the wrapper to `fill()` on the loop's thread if that is quick."""
    if not wrapper.populated:
        cursor = wrapper.cursor = BufferedCursor(wrapper.cursor)
        made, is_quick = convert_sample(wrapper, cursor.fetchmany(SAMPLE))
        wrapper.row_cache.extend(made)
        # More than a slice would keep the loop from others.
        if not is_quick or cursor.left > SLICE:
            fill(wrapper)
    return wrapper


def seal(result: Any) -> Any:
    """Make a result fit to leave the worker: filled if it is lazy, buffered if it is a raw cursor."""
    if isinstance(result, peewee.CursorWrapper):
        return fill(result)
    if isinstance(result, peewee.BaseQuery):
        wrapper = vars(result).get("_cursor_wrapper")
        if wrapper is not None:
            fill(wrapper)
    elif isinstance(result, GeneratorType):
        # Peewee's own generators (iterator(), scalars()) read from the connection as they
        # go. One of the user's own is left alone: it may well mean to run on the loop.
        if result.gi_code.co_filename == sys.modules["peewee"].__file__:
            return list(result)
    elif _is_raw_cursor(result):
        return BufferedCursor(result)
    return result


def _is_raw_cursor(result: Any) -> bool:
    kind = type(result)
    return hasattr(kind, "fetchone") and hasattr(result, "description") and kind is not BufferedCursor


def sealed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], Any]:
    """Return a call of `function` whose result may leave the worker."""
    return lambda: seal(function(*args, **kwargs))


def sealed_partly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], Any]:
    """Return a call of `function` of whose result `fill()` may have to make the last rows."""

    def call() -> Any:
        result = function(*args, **kwargs)
        return fill_partly(result) if isinstance(result, peewee.CursorWrapper) else seal(result)

    return call
