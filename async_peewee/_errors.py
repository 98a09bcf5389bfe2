"""The exceptions of async_peewee, each under one of Peewee's own classes.

    peewee.InterfaceError
        BlockingCallError       a call would have blocked the event loop
        PoolClosed              the pool is closed or is being closed
        TransactionFinished     the block that held the connection is over
    peewee.OperationalError
        PoolTimeout             no worker became free in time
        PoolFull                the queue for a worker is full
    peewee.ImproperlyConfigured
        ConfigurationError      a setting is not valid (also a ValueError)

and a RuntimeWarning, OutsideTransactionWarning: a child task writes outside a transaction of its parent.

Errors of the database itself arrive exactly as Peewee raises them. One is not public: Interrupted, of
which only functions that run on a worker may see that it is an OperationalError.
"""

from __future__ import annotations

import sys

import peewee


class BlockingCallError(peewee.InterfaceError):
    """Raised when a call would block the thread that runs the event loop."""

    __module__ = "async_peewee"

    def __init__(self, what: str, instead: str, problem: str = "would block the event loop") -> None:
        super().__init__(f"{what} {problem}; write instead: {instead}")

    @classmethod
    def of_loop_on_worker(cls, what: str) -> BlockingCallError:
        """Return the error of code that runs an event loop of its own on a worker."""
        return cls(
            what,
            "the call without a loop, for on a worker it is Peewee's own; or await it on the program's loop",
            "on an event loop that was started on a worker (by asyncio.run() in a function that "
            "db.run() runs, say) would wait for the thread that it runs on, and nothing was done",
        )


# Said where it is so: a program that runs on several versions of Python writes differently on one.
WAIT_FOR = (
    ". Before Python 3.12 asyncio.wait_for() makes a child task; anyio.fail_after() makes none"
    if sys.version_info < (3, 12)
    else ""
)


class OutsideTransactionWarning(RuntimeWarning):
    """Warns of a child task that writes outside the transaction that its parent has open."""

    __module__ = "async_peewee"

    def __init__(self, what: str, around: str, waits: bool) -> None:
        patience = " It waits until that has ended." if waits else ""
        super().__init__(
            f"{what} writes in a child task, outside the {around} that its parent has open: on a connection "
            f"of its own, and it stays if that is rolled back.{patience} Make the call in the task of the "
            "block, as gather(User.create(...)) does, or hand the block over with db.share_connection(), or "
            f"begin the task when the block has ended (db.after_commit()){WAIT_FOR}"
        )


class PoolClosed(peewee.InterfaceError):
    """Raised when work is given to a pool that is closed or is being closed."""

    __module__ = "async_peewee"

    def __init__(self, name: str) -> None:
        super().__init__(f"the pool of {name} is closed")


class TransactionFinished(peewee.InterfaceError):
    """Raised when a block's connection is used after the block has ended."""

    __module__ = "async_peewee"

    def __init__(
        self,
        what: str,
        problem: str = "has ended, and its connection serves others; make the call inside the block",
    ) -> None:
        super().__init__(f"{what} {problem}")


class PoolTimeout(peewee.OperationalError):
    """Raised when no worker, or no write lock, became free within `acquire_timeout` seconds."""

    __module__ = "async_peewee"

    @classmethod
    def of_workers(
        cls, name: str, seconds: float, size: int, waiting: int, holders: list[str], refusal: object = None
    ) -> PoolTimeout:
        """Return the error of a call that no worker became free for.

        `refusal`: why the pool has fewer workers than it may have.
        """
        instead = "Make the blocks shorter or the pool larger (pool_size, ASYNC_PEEWEE_POOL_SIZE)"
        if refusal is not None:
            instead = (
                f"The server takes no further connection ({' '.join(str(refusal).split())}). Make the blocks "
                "shorter, or have the server allow more connections"
            )
        return cls(
            f"no worker of {name} became free within {seconds:g} s: pool size {size}, {waiting} waiting, "
            f"held by: {'; '.join(sorted(holders)) or 'nobody'}. {instead}"
        )

    @classmethod
    def of_connecting(cls, name: str, seconds: float, waiting: int) -> PoolTimeout:
        """Return the error of a call in a pool whose server lets no worker connect."""
        return cls(
            f"no connection of {name} was open within {seconds:g} s, for the server has not answered in "
            f"time: {waiting} waiting. See to the server, or wait longer "
            "(acquire_timeout, ASYNC_PEEWEE_ACQUIRE_TIMEOUT)"
        )

    @classmethod
    def of_write_lock(cls, name: str, seconds: float, holder: str) -> PoolTimeout:
        """Return the error of a writer that waited too long for the others."""
        return cls(
            f"the write lock of {name} did not become free within {seconds:g} s, held by: {holder}. SQLite "
            "has one writer at a time: keep the blocks and calls that write short. A child task is outside "
            "its parent's transaction; hand it over with db.share_connection()"
        )


class PoolFull(peewee.OperationalError):
    """Raised when `max_waiting` calls are in the queue already."""

    __module__ = "async_peewee"

    def __init__(self, name: str, max_waiting: int) -> None:
        super().__init__(
            f"the pool of {name} has {max_waiting} calls waiting already (max_waiting={max_waiting})"
        )


class Interrupted(peewee.OperationalError):
    """Raised inside a job that is interrupted, as the driver does in the middle of a statement.

    Only the function that runs there sees it: its caller gets the cancellation, or PoolClosed.
    """


class ConfigurationError(peewee.ImproperlyConfigured, ValueError):
    """Raised when a setting of the pool is outside its accepted range."""

    __module__ = "async_peewee"


# Peewee's own table of driver errors; fetching is outside of it in Peewee itself.
driver_errors = vars(peewee)["__exception_wrapper__"]
