"""Streams: the rows of one query, in chunks from a pinned worker, with bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import peewee

from ._contexts import ConnectionContexts
from ._driver_protocol import StreamRequest
from ._errors import BlockingCallError, PoolClosed
from ._pins import Pin, current_driver
from ._results import convert, driver_errors, fill

# Rows a stream keeps in memory at once: the first chunk is small, so that the first row
# comes soon; then as many as psycopg2 itself takes for a good size.
FIRST_CHUNK = 100
CHUNK = 2000


class Stream:
    """The rows of one query, fetched in chunks on a pinned worker."""

    def __init__(self, contexts: ConnectionContexts, database: Any, query: Any, label: str) -> None:
        self._contexts = contexts
        self._label = label
        self._rows: Iterator[Any] = iter(())
        # Where its task was when the stream was made: in a block, or free.
        self._block: Pin | None = contexts.current()
        self._chunks = _Chunks(database, query, is_alone=self._block is None)
        self._own: Pin | None = None
        self._state = "new"

    def __aiter__(self) -> Stream:
        return self

    def __iter__(self) -> Iterator[Any]:
        raise BlockingCallError("for row in query.iterator()", "async for row in query.iterator()")

    async def __anext__(self) -> Any:
        for row in self._rows:
            return row
        if self._state == "closed":
            raise StopAsyncIteration
        try:
            rows = await self._fetch()
        except BaseException:
            await self.aclose()
            raise
        if self._chunks.is_exhausted:
            await self.aclose()
        self._rows = iter(rows)
        if not rows:
            raise StopAsyncIteration
        return await self.__anext__()

    async def _fetch(self) -> list[Any]:
        fetch = self._chunks.next
        if self._block is not None:
            self._state = "open"
            return await self._contexts.call(fetch, self._label, self._block)  # type: ignore[no-any-return]
        if self._own is not None:
            return await self._contexts.call(fetch, self._label, self._own)  # type: ignore[no-any-return]
        self._own, rows = await self._contexts.acquire(fetch, self._label, undo=self._chunks.close)
        self._state = "open"
        return rows  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """End the stream early and give its worker back; does nothing the second time."""
        is_open, self._state = self._state == "open", "closed"
        if not is_open:
            return
        pin = self._own or self._block
        if pin is None or pin.ended:
            return
        # A pool that is closed has closed the cursor with its connection.
        with contextlib.suppress(PoolClosed):
            if pin is self._own:
                await self._contexts.release(pin, self._chunks.close)
            else:
                await self._contexts.call_to_the_end(pin, self._chunks.close)

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
        if pin is self._own:
            pin.drop(self._chunks.close)
        else:
            pin.post(self._chunks.close)


class _Chunks:
    """The worker's half of a stream: an open cursor and the rows that come from it."""

    def __init__(self, database: Any, query: Any, is_alone: bool) -> None:
        self._database = database.obj if isinstance(database, peewee.Proxy) else database
        self._is_alone = is_alone
        self._query = query
        self._wrapper: Any = None
        self._size = FIRST_CHUNK
        self.is_exhausted = False

    def next(self) -> list[Any]:
        """Return the next rows, none at the end."""
        try:
            return self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> list[Any]:
        if self._wrapper is None:
            self._wrapper = self._open()
        if self._wrapper.populated:  # of a write, whose rows come at once
            self.is_exhausted = True
            return list(self._wrapper.row_cache)
        with driver_errors:
            rows = self._wrapper.cursor.fetchmany(self._size)
        self.is_exhausted = len(rows) < self._size
        self._size = CHUNK
        return convert(self._wrapper, rows)

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
        wrapper, self._wrapper = self._wrapper, None
        driver = current_driver(self._database)
        if wrapper is not None and not wrapper.populated and driver is not None:
            driver.end_stream(wrapper.cursor, self.is_exhausted)
