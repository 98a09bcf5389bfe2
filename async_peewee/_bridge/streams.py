"""Streams: the rows of one query, in chunks from a pinned worker, with bounded memory.

While the loop goes through one chunk, the worker fetches the next, and no more than that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import length_hint
from types import TracebackType
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import peewee

from .._errors import BlockingCallError, PoolClosed, TransactionFinished, driver_errors
from .._pool.connection import StreamRequest
from .._pool.jobs import Job, Lease, State
from .._pool.pool import WorkerPool
from .connections import Connections, require_task
from .entries import Entries, Entry
from .places import current_connection
from .results import (
    HOLD,
    Make,
    are_quick,
    is_for_any_thread,
    make_elsewhere,
    make_for,
    make_sample,
    make_with_pauses,
    read_all,
)

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
    # Of the row after them.
    error: Exception | None = None


class Chunks:
    """The chunks of one query, one after another, as large as fits the time that they take."""

    def __init__(self, database: Any, query: Any, is_alone: bool) -> None:
        self._database = database.obj if isinstance(database, peewee.Proxy) else database
        self._is_alone = is_alone
        self._query = query
        self._wrapper: Any = None
        self._connection: Any = None
        # What makes Peewee's row of a driver's; the loop's thread uses it too.
        self.process_row: Callable[[Any], Any]
        # The loop's thread has found that the rows are slow: the worker is to make them.
        self.are_slow: bool = False
        # The driver's rows of which no row has been made.
        self._fetched: Iterator[Any] = iter(())
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
        if length_hint(self._fetched):
            return self._make()
        start = time.perf_counter()
        with driver_errors:
            fetched = self._wrapper.cursor.fetchmany(self._size)
        self._is_exhausted = len(fetched) < self._size
        self._fetched = iter(fetched)
        chunk = self._make()
        self._size = next_size(len(chunk.rows) + len(chunk.rest), time.perf_counter() - start)
        return chunk

    def _make(self) -> Chunk:
        """Make the first of the fetched rows for the loop's thread to go on, else as many as are a chunk."""
        made, error, is_quick = make_sample(self._wrapper, self._fetched)
        if is_quick and not self.are_slow and is_for_any_thread(self._wrapper):
            rest, self._fetched = list(self._fetched), iter(())
            return Chunk(made, rest, self._is_exhausted)
        if error is None:
            more, error = make_with_pauses(CHUNK_SECONDS, self.process_row, self._fetched)
            made += more
        is_last = error is not None or (self._is_exhausted and not length_hint(self._fetched))
        return Chunk(made, (), is_last, error)

    def _open(self) -> Any:
        database, query = self._database, self._query
        if not isinstance(query, (peewee.SelectQuery, peewee.RawQuery)):
            return read_all(query.execute(database))
        request = StreamRequest(self._is_alone)
        self._connection = current_connection(database)
        try:
            cursor = database.execute_streaming(query, request)
        except BaseException:
            if request.cursor is not None and self._connection is not None:
                self._connection.end_stream(request.cursor, is_exhausted=True)
            raise
        make_wrapper: Any = query._get_cursor_wrapper  # type: ignore[union-attr]
        return make_wrapper(cursor)

    def close_later(self) -> None:
        """Have the cursor closed before its connection's next statement; safe in a finalizer."""
        if self._connection is not None:
            self._connection.end_stream_later(self.close)

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


# So many rows are made before the first of them is used: few, so that they are near in memory.
HANDFUL = 20


# So few rows in so long a time, HOLD, are not quick, whatever their thread has waited for.
FEW = 100


# How long a stream that ends early lets the fetch of the next chunk end by itself, in seconds:
# it nearly always does, and an interrupt may cost a connection to the server.
PATIENCE = 0.1


class Rest:
    """The rows of a chunk that the worker has left, made on the loop's thread while that is quick.

    By itself, for the rows under way must not keep alive a stream that was dropped.
    """

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        # As the driver gave them, and whether they have turned out to be slow.
        self.rows: Iterator[Any] = iter(())
        self.is_slow: bool = False
        # Whether the last stretch took longer than the loop's thread may stand still.
        self._is_doubtful = False
        # Of the row after those that were made.
        self.error: Exception | None = None

    def take(self, chunk: Chunk) -> None:
        """Begin with the rest of a chunk, whose rows are used before it."""
        self.rows, self.error, self.is_slow = iter(chunk.rest), chunk.error, False

    def clear(self) -> None:
        self.rows, self.error = iter(()), None

    def make(self, make: Make, seconds: float) -> list[Any]:
        """Make rows for so long, in the given way."""
        made, error = make(seconds, self._chunks.process_row, self.rows)
        self._note(error)
        return made

    def stretch(self) -> Iterator[Any]:
        """Make a stretch of rows, a handful at a time when they are asked for, or what time allows."""
        count, left, used = 0, HOLD, 0.0
        while count < STRETCH and left > 0 and length_hint(self.rows):
            # The thread's own clock is a slow one, and only looked at in case of doubt.
            before = time.perf_counter(), time.thread_time() if self._is_doubtful else 0.0
            some = islice(self.rows, min(HANDFUL, STRETCH - count))
            made, error = make_for(left, self._chunks.process_row, some)
            left -= time.perf_counter() - before[0]
            used += time.thread_time() - before[1] if self._is_doubtful else 0.0
            count += len(made)
            yield from made
            self._note(error)
        self._judge(count, used, is_late=left <= 0)

    def _note(self, error: Exception | None) -> None:
        if error is not None:
            self.rows, self.error = iter(()), error

    def _judge(self, count: int, used: float, is_late: bool) -> None:
        """Decide who makes those that follow, when so many rows have used so much processor time."""
        if is_late and self._is_doubtful:
            # Not if another thread has kept the interpreter, or the processor, twice.
            if not are_quick(count, used):
                self.is_slow = self._chunks.are_slow = True
            elif count < FEW:  # they wait for something
                self.is_slow = True
        self._is_doubtful = is_late


class Stream:
    """The rows of one query, fetched in chunks on a leased worker.

    The lease is the stream's own, whichever task awaits a row; inside a block it is the block's.
    """

    def __init__(
        self, connections: Connections, database: Any, query: Any, label: str, made_in: Entries = ()
    ) -> None:
        self._connections = connections
        self._label = label
        self._rows: Iterator[Any] = iter(())
        # Where its task was when the stream was made, or the query: in a block, or free.
        self._block: Entry | None = connections.current() or connections.find(made_in)
        self._outside = connections.outside(label) if self._block is None else self._block.outside
        # On one worker alone other calls must have room beside the stream: see _lend().
        self._lends = connections.pools.settings.pool_size == 1
        self._chunks = Chunks(database, query, is_alone=self._block is None and not self._lends)
        self._rest = Rest(self._chunks)
        self._pool: WorkerPool | None = None
        self._lease: Lease | None = None
        self._lent: Entry | None = None
        # The fetch of the next chunk, while the loop goes through this one.
        self._ahead: Job | None = None
        self._is_fetching = False
        self._was_cancelled = False
        self._state = "new"

    def __aiter__(self) -> Stream:
        return self

    def __iter__(self) -> Iterator[Any]:
        raise BlockingCallError("for row in query.iterator()", "async for row in query.iterator()")

    async def __anext__(self) -> Any:
        if self._is_fetching:
            raise peewee.InterfaceError(
                f"{self._label}: two tasks await its next row at once; let one of them read, "
                "or give each a stream"
            )
        try:
            for row in self._rows:
                return row
            has_more = await self._go_on()
        except BaseException as error:
            # Who goes on after a timeout must not take what has come so far for all rows.
            self._was_cancelled = self._was_cancelled or not isinstance(error, Exception)
            await self.aclose()
            raise
        if not has_more:
            raise StopAsyncIteration
        return await self.__anext__()

    async def _go_on(self) -> bool:
        """Have more rows at hand; return False at the end of the stream."""
        self._is_fetching = True
        try:
            if self._rest.error is not None:
                raise self._rest.error
            if length_hint(self._rest.rows):
                await self._make_more()
                return True
            if self._was_cancelled:
                raise TransactionFinished(
                    self._label,
                    "has ended, for a read of it was cancelled, and there may be more rows; begin a new one",
                )
            if self._state == "closed":
                return False
            return await self._read_chunk()
        finally:
            self._is_fetching = False

    async def _read_chunk(self) -> bool:
        chunk = await self._fetch()
        if chunk.is_last:
            await self.aclose()
        elif self._lease is not None and self._lends:
            self._lend(self._lease)
        self._rows = iter(chunk.rows)
        self._rest.take(chunk)
        return bool(chunk.rows) or chunk.error is not None

    async def _make_more(self) -> None:
        """Make rows of what the driver gave, here while that is quick, else on a worker."""
        await anyio.lowlevel.checkpoint()  # between stretches other tasks run
        if self._rest.is_slow:
            self._rows = iter(await make_elsewhere(self._call, self._rest.make, CHUNK_SECONDS))
        else:
            self._rows = self._rest.stretch()

    async def _call(self, function: Callable[[], Any]) -> Any:
        """Run a function on the worker of the stream's lease or block, or on whichever is free after it."""
        if self._pool is None or self._lease is None or not self._lease.is_held:
            return await self._connections.call(function, self._label, self._block)
        job = self._begin(self._pool, self._lease, function)
        await self._pool.wait(job)
        return job.outcome()

    async def _fetch(self) -> Chunk:
        fetch = self._chunks.next
        if self._outside is not None:
            fetch = self._outside.of_call(self._label).watch(fetch)
        if self._block is None and self._lease is None:
            self._block = self._lender()
        if self._block is not None:
            self._state = "open"
            return await self._connections.call(fetch, self._label, self._block)  # type: ignore[no-any-return]
        if self._pool is None or self._lease is None:
            # Not the second chunk yet: many a stream is left after a few rows.
            self._pool, self._lease, chunk = await self._connections.acquire(
                fetch, self._label, undo=self._chunks.close
            )
            self._state = "open"
            return chunk  # type: ignore[no-any-return]
        chunk = await self._take_next(self._pool, self._lease)
        if not chunk.is_last and not self._lends:
            self._ahead = self._begin(self._pool, self._lease, self._chunks.next)
        return chunk

    def _begin(self, pool: WorkerPool, lease: Lease, function: Callable[[], Any]) -> Job:
        job = Job(function, self._label, lease=lease)
        pool.start(job)
        return job

    async def _take_next(self, pool: WorkerPool, lease: Lease) -> Chunk:
        job = self._ahead or self._begin(pool, lease, self._chunks.next)
        self._ahead = None
        if job.state is State.DONE:
            await anyio.lowlevel.checkpoint()  # else a fast worker would keep the loop from all others
        else:
            await pool.wait(job)
        return job.outcome()  # type: ignore[no-any-return]

    # -- on one worker alone ------------------------------------------------------------

    def _lend(self, lease: Lease) -> None:
        """Let the task that reads call the database between two rows, as it may in Peewee."""
        task = require_task()
        if self._lent is not None and self._lent.task() is task:
            return
        self._take_back()
        assert self._pool is not None
        self._lent = Entry(self._pool, lease, self._label, task)
        self._lent.is_lent = True
        self._connections.push(self._lent)

    def _take_back(self) -> None:
        lent, self._lent = self._lent, None
        if lent is not None:
            lent.problem = "is over"
            self._connections.pop(lent)

    def _lender(self) -> Entry | None:
        """Return the entry of another stream that lends its connection to this task."""
        entry = self._connections.current() if self._lends else None
        return entry if entry is not None and entry.is_lent else None

    # -- the end ------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End the stream early and give its worker back; does nothing the second time."""
        self._rows = iter(())
        self._rest.clear()
        is_open, self._state = self._state == "open", "closed"
        if not is_open:
            return
        self._take_back()
        # A pool that is closed, and a block that has ended, have closed the cursor.
        with contextlib.suppress(PoolClosed, TransactionFinished):
            if self._lease is not None and self._pool is not None:
                await self._end(self._pool, self._lease)
            elif self._block is not None:
                await self._connections.call_to_the_end(self._block, self._chunks.close)

    async def _end(self, pool: WorkerPool, lease: Lease) -> None:
        try:
            await self._stop_ahead(pool)
        finally:
            await self._connections.end(pool, lease, self._chunks.close)

    async def _stop_ahead(self, pool: WorkerPool) -> None:
        job, self._ahead = self._ahead, None
        if job is not None and job.state is not State.DONE:
            # The shield: the worker comes back only when the fetch has ended. The timeout
            # interrupts one that lasts.
            with anyio.move_on_after(PATIENCE, shield=True):
                await pool.wait(job)

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # `break` drops the stream without closing it. There is nobody to wait here, and this may
        # run anywhere, also under the pool's lock: so all is left to the loop's next turn.
        if self._state != "open":
            return
        self._state = "closed"
        if self._lent is not None:
            self._lent.problem = "is over"
        if self._lease is not None and self._pool is not None:
            if self._ahead is not None:
                self._pool.loop.wake(partial(_drop, self._pool, self._ahead))
            self._pool.end_later(self._lease, Job(self._chunks.close, self._label, lease=self._lease))
        elif self._block is not None and self._block.lease.is_held:
            # The block's next statement may be on its way before the loop's next turn.
            self._chunks.close_later()
            self._block.pool.submit_later(self._block.job(self._chunks.close, self._label))


def _drop(pool: WorkerPool, ahead: Job) -> None:
    """Drop a fetch ahead that nobody waits for any more; one that runs has a moment to end by itself."""
    pool.drop_if_waiting(ahead)

    def interrupt() -> None:
        pool.abandon(ahead)

    if ahead.state is State.RUNNING:
        pool.loop.call_every(PATIENCE, interrupt)
