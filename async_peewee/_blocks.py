"""The blocks of a database, by Peewee's names: each pins a worker to the task for its length."""

from __future__ import annotations

from typing import Any

from ._transactions import (
    AsyncAtomic,
    AsyncConnectionContext,
    AsyncManualCommit,
    AsyncSavepoint,
    AsyncTransaction,
)


class Blocks:
    """The methods of a database that open a block; of a proxy too, for which decorators may come first."""

    def atomic(self, *args: Any, **kwargs: Any) -> AsyncAtomic:
        """Open a transaction, or a savepoint inside one.

            with db.atomic():   ->   async with db.atomic():

        Pins a worker for the block: every call the task makes inside runs there, in order.
        Takes Peewee's arguments: a lock type (SQLite), an isolation level. As a decorator it
        takes `def` and `async def`. Commits at the end, rolls back on an error; neither is
        ever interrupted. Raises PoolTimeout if no worker is free for `acquire_timeout` seconds.
        """
        return AsyncAtomic(self, *args, **kwargs)

    atomic_async = atomic

    def transaction(self, *args: Any, **kwargs: Any) -> AsyncTransaction:
        """Open a transaction; `await txn.commit()` and `await txn.rollback()` inside start the next."""
        return AsyncTransaction(self, *args, **kwargs)

    def savepoint(self) -> AsyncSavepoint:
        """Open a savepoint inside a transaction."""
        return AsyncSavepoint(self)

    def manual_commit(self) -> AsyncManualCommit:
        """Hold one connection on which `await db.begin()`, `commit()` and `rollback()` are yours."""
        return AsyncManualCommit(self)

    def connection_context(self) -> AsyncConnectionContext:
        """Hold one connection for a block, without a transaction."""
        return AsyncConnectionContext(self)
