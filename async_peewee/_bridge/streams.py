"""Streams: the rows of one query, in chunks from a pinned worker, with bounded memory.

While the loop goes through one chunk, the worker fetches the next, and no more than that.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import peewee

from .._errors import BlockingCallError, PoolClosed, driver_errors
from .._pool.connection import StreamRequest
from .._pool.jobs import Job, State
from .connections import Connections, Pin
from .places import current_connection
from .results import SAMPLE, convert, convert_sample, read_all

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
            return read_all(query.execute(database))
        request = StreamRequest(self._is_alone)
        try:
            cursor = database.execute_streaming(query, request)
        except BaseException:
            connection = current_connection(database)
            if request.cursor is not None and connection is not None:
                connection.end_stream(request.cursor, is_exhausted=True)
            raise
        make_wrapper: Any = query._get_cursor_wrapper  # type: ignore[union-attr]
        return make_wrapper(cursor)

    def close(self) -> None:
        """Close the cursor; does nothing the second time."""
        wrapper, self._wrapper = self._wrapper, None
        if wrapper is None:
            return
        connection = current_connection(self._database)
        if not wrapper.populated and connection is not None:
            connection.end_stream(wrapper.cursor, self._is_exhausted)
        # The loop's thread keeps the wrapper for its rows, and must not be who drops the cursor.
        wrapper.cursor = None


def next_size(size: int, seconds: float) -> int:
    """Return how many rows to fetch next, when `size` of them took so long.

    Large rows come a few at a time, and small ones by thousands. It doubles at most: one quick
    chunk promises little.
    """
    fitting = int(size * CHUNK_SECONDS / max(seconds, 1e-6))
    return max(1, min(fitting, 2 * size, CHUNK))


# How many rows the loop's thread makes before others have their turn: two milliseconds of
# Python, a hundred times what their turn costs the stream.
STRETCH = 500


# How long a stream that ends early lets the fetch of the next chunk end by itself, in seconds:
# it nearly always does, and an interrupt may cost a connection to the server.
PATIENCE = 0.1


class Stream:
    """The rows of one query, fetched in chunks on a pinned worker."""

    def __init__(self, connections: Connections, database: Any, query: Any, label: str) -> None:
        self._connections = connections
        self._label = label
        self._rows: Iterator[Any] = iter(())
        # The rest of the chunk, as the driver gave it.
        self._stretches: deque[Sequence[Any]] = deque()
        # Where its task was when the stream was made: in a block, or free.
        self._block: Pin | None = connections.current()
        self._chunks = Chunks(database, query, is_alone=self._block is None)
        self._own: Pin | None = None
        # The fetch of the next chunk, while the loop goes through this one.
        self._ahead: Job | None = None
        self._state = "new"

    def __aiter__(self) -> Stream:
        return self

    def __iter__(self) -> Iterator[Any]:
        raise BlockingCallError("for row in query.iterator()", "async for row in query.iterator()")

    async def __anext__(self) -> Any:
        try:
            for row in self._rows:
                return row
            has_more = await self._go_on()
        except BaseException:
            self._stretches.clear()
            await self.aclose()
            raise
        if not has_more:
            raise StopAsyncIteration
        return await self.__anext__()

    async def _go_on(self) -> bool:
        """Have more rows at hand; return False at the end of the stream."""
        if self._stretches:
            await anyio.lowlevel.checkpoint()  # between stretches other tasks run
            make = self._chunks.process_row
            self._rows = (make(row) for row in self._stretches.popleft())
            return True
        if self._state == "closed":
            return False
        chunk = await self._fetch()
        if chunk.is_last:
            await self.aclose()
        self._rows = iter(chunk.rows)
        self._stretches.extend(chunk.rest[n : n + STRETCH] for n in range(0, len(chunk.rest), STRETCH))
        return bool(chunk.rows)

    async def _fetch(self) -> Chunk:
        fetch = self._chunks.next
        if self._block is not None:
            self._state = "open"
            return await self._connections.call(fetch, self._label, self._block)  # type: ignore[no-any-return]
        if self._own is None:
            # Not the second chunk yet: many a stream is left after a few rows.
            self._own, chunk = await self._connections.acquire(fetch, self._label, undo=self._chunks.close)
            self._state = "open"
            return chunk  # type: ignore[no-any-return]
        chunk = await self._take_next(self._own)
        if not chunk.is_last:
            self._ahead = self._connections.begin(fetch, self._label, self._own)
        return chunk

    async def _take_next(self, pin: Pin) -> Chunk:
        job = self._ahead or self._connections.begin(self._chunks.next, self._label, pin)
        self._ahead = None
        if job.state is State.DONE:
            await anyio.lowlevel.checkpoint()  # else a fast worker would keep the loop from all others
        else:
            await pin.pool.wait(job)
        return job.outcome()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """End the stream early and give its worker back; does nothing the second time."""
        is_open, self._state = self._state == "open", "closed"
        if not is_open:
            return
        pin = self._own or self._block
        if pin is None or pin.ended:
            return
        try:
            await self._stop_ahead(pin)
        finally:
            # A pool that is closed has closed the cursor with its connection.
            with contextlib.suppress(PoolClosed):
                if pin is self._own:
                    await self._connections.release(pin, self._chunks.close)
                else:
                    await self._connections.call_to_the_end(pin, self._chunks.close)

    async def _stop_ahead(self, pin: Pin) -> None:
        job, self._ahead = self._ahead, None
        if job is not None:
            # The shield: the worker comes back only when the fetch has ended. The timeout
            # interrupts one that lasts.
            with anyio.move_on_after(PATIENCE, shield=True):
                await pin.pool.wait(job)

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # `break` drops the stream without closing it. There is nobody to wait here, so the
        # worker is told, and does it before its next job.
        pin = self._own or self._block
        if self._state != "open" or pin is None or pin.ended:
            return
        if self._ahead is not None:
            # Not from here, perhaps in the middle of something that has the pool's lock.
            pin.pool.loop.wake(partial(pin.pool.abandon, self._ahead))
        if pin is self._own:
            pin.drop(self._chunks.close)
        else:
            pin.post(self._chunks.close)
