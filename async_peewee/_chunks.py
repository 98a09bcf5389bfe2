"""Chunks: the worker's half of a stream, an open cursor and the rows that come from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import peewee

from ._driver_protocol import StreamRequest
from ._pins import current_driver
from ._results import driver_errors, fill
from ._rows import SAMPLE, convert, convert_sample

# Rows of the first chunk: few, so that the first row comes soon.
FIRST_CHUNK = 100

# How long the worker should need for a chunk, in seconds: a hundred times what the chunk's way
# to the loop costs, and short enough for others that want the interpreter.
CHUNK_SECONDS = 0.01

# The most rows of a chunk. Two chunks are in memory at a time.
CHUNK = 5000


class Chunk(NamedTuple):
    """Rows of a query, and the driver's that follow them, of which the loop's thread makes rows."""

    rows: list[Any]
    rest: Sequence[Any]
    is_last: bool


class Chunks:
    """The chunks of one query, one after another, as large as fits the time that they take."""

    def __init__(self, database: Any, query: Any, is_alone: bool) -> None:
        self._database = database.obj if isinstance(database, peewee.Proxy) else database
        self._is_alone = is_alone
        self._query = query
        self._wrapper: Any = None
        # What makes Peewee's row of a driver's; the loop's thread uses it too.
        self.process_row: Callable[[Any], Any]
        self._size = FIRST_CHUNK
        self._is_exhausted = False

    def next(self) -> Chunk:
        """Return the next rows, none at the end, and whether there are no more."""
        try:
            return self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> Chunk:
        if self._wrapper is None:
            self._wrapper = self._open()
            self.process_row = self._wrapper.process_row
        if self._wrapper.populated:  # of a write, whose rows come at once
            self._is_exhausted = True
            return Chunk(list(self._wrapper.row_cache), (), True)
        start = time.perf_counter()
        with driver_errors:
            fetched = self._wrapper.cursor.fetchmany(self._size)
        self._is_exhausted = len(fetched) < self._size
        rows, is_quick = convert_sample(self._wrapper, fetched[:SAMPLE])
        rest = fetched[SAMPLE:]
        if not is_quick:
            rows, rest = rows + convert(self._wrapper, rest), ()
        self._size = next_size(self._size, time.perf_counter() - start)
        return Chunk(rows, rest, self._is_exhausted)

    def _open(self) -> Any:
        database, query = self._database, self._query
        if not isinstance(query, (peewee.SelectQuery, peewee.RawQuery)):
            return fill(query.execute(database))
        request = StreamRequest(self._is_alone)
        try:
            cursor = database.execute_streaming(query, request)
        except BaseException:
            driver = current_driver(database)
            if request.cursor is not None and driver is not None:
                driver.end_stream(request.cursor, is_exhausted=True)
            raise
        make_wrapper: Any = query._get_cursor_wrapper  # type: ignore[union-attr]
        return make_wrapper(cursor)

    def close(self) -> None:
        """Close the cursor; does nothing the second time."""
        wrapper, self._wrapper = self._wrapper, None
        if wrapper is None:
            return
        driver = current_driver(self._database)
        if not wrapper.populated and driver is not None:
            driver.end_stream(wrapper.cursor, self._is_exhausted)
        # The loop's thread keeps the wrapper for its rows, and must not be who drops the cursor.
        wrapper.cursor = None


def next_size(size: int, seconds: float) -> int:
    """Return how many rows to fetch next, when `size` of them took so long.

    Large rows come a few at a time, and small ones by thousands. It doubles at most: one quick
    chunk promises little.
    """
    fitting = int(size * CHUNK_SECONDS / max(seconds, 1e-6))
    return max(1, min(fitting, 2 * size, CHUNK))
