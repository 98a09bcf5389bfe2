"""pwasyncio's connections: a task takes one by aconnect() or `async with db`, and keeps it."""

from __future__ import annotations

import contextlib
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any

import peewee

from .._bridge.calls import of_its_block
from .._bridge.connections import require_task
from .._bridge.places import current_connection, on_loop_thread
from .._errors import PoolClosed
from .._orm.database import CLOSE_TIMEOUT, AsyncDatabase
from .._orm.transactions import AsyncConnectionContext
from .._typing.results import Self

if TYPE_CHECKING:
    from .._typing.pwasyncio import PrefixedDatabase
else:
    PrefixedDatabase = AsyncDatabase


class KeptConnection(AsyncConnectionContext):
    """The connection of a task from aconnect() to aclose().

    Often that is the whole program: what it gives to gather() uses other connections too.
    """

    owns_queries = False


class AsyncConnectionWrapper:
    """What aconnect() returns: the task's connection, as far as SQL goes."""

    def __init__(self, db: HeldConnections) -> None:
        self._db = db

    @of_its_block
    async def execute(self, sql: str, params: Any = None) -> Any:
        """Run SQL; `await db.aexecute_sql(sql, params)`."""
        return await self._db.aexecute_sql(sql, params)


class HeldConnections(PrefixedDatabase):
    """Give a task a connection of its own from aconnect() to aclose().

    A task without one uses whichever is free, call by call. The pool opens by itself, after
    close_pool() too.
    """

    def __init__(self, database: Any, *args: Any, **kwargs: Any) -> None:
        # By task: the connections that aconnect() has taken.
        self._connected: weakref.WeakKeyDictionary[Any, KeptConnection] = weakref.WeakKeyDictionary()
        super().__init__(database, *args, **kwargs)

    async def aconnect(self) -> AsyncConnectionWrapper:
        """Hold a connection for this task until aclose(); nothing changes if it holds one.

        Raises OperationalError if none is free for `acquire_timeout` seconds, or the database
        cannot be reached.
        """
        if self.connections.current() is None:
            block = KeptConnection(self)
            await block.__aenter__()
            self._connected[require_task()] = block
        return AsyncConnectionWrapper(self)

    async def aclose(self) -> None:
        """Give the task's connection back. Raises OperationalError in a transaction."""
        self._check_no_transaction()
        block = self._connected.pop(require_task(), None)
        if block is None:
            return
        # A pool that another task has closed has taken the connection with it.
        with contextlib.suppress(PoolClosed):
            await block.__aexit__(None, None, None)

    def _check_no_transaction(self) -> None:
        if self.in_transaction():
            raise peewee.OperationalError("Attempting to close database while transaction is open.")

    async def close_pool(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close all connections; the next use opens new ones.

        Calls that run and tasks that hold a connection have `timeout` seconds, then they are
        interrupted. Raises OperationalError in a transaction of this task.
        """
        await self.aclose()
        await super().close(timeout)
        self.connections.pools.drop_closed()

    async def __aenter__(self) -> Self:
        await self.aconnect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def is_closed(self) -> bool:
        """Return True if the task, or on another thread the thread, holds no connection."""
        return self.connections.current() is None if on_loop_thread() else super().is_closed()

    # A function that runs on a worker may connect and close as it likes, `with db` included. There
    # both are free: the connection is the worker's, and ":memory:" would be lost with it.

    def connect(self, reuse_if_open: bool = False) -> Any:
        return super().connect(reuse_if_open or self._is_own_worker())

    def close(self, timeout: float = CLOSE_TIMEOUT) -> Any:
        if not self._is_own_worker():
            return super().close(timeout)
        self._check_no_transaction()
        return False

    def _is_own_worker(self) -> bool:
        return current_connection(self) is not None
