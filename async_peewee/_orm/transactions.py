"""Blocks: atomic, transaction, savepoint, manual_commit, connection_context, with and as decorators.

Each is Peewee's own context manager with an asynchronous way in and out, which holds one
worker for its length. On a worker and on a plain thread `with` works as ever; on the loop's
thread it is `async with`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import sys
import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import peewee

from .._bridge.calls import PendingCall, call_on_worker
from .._bridge.connections import LEFT_BY_ANOTHER, require_task
from .._bridge.detaching import detached
from .._bridge.dual import install_dual
from .._bridge.entries import Entry, OutsideCall, open_blocks
from .._bridge.places import current_connection, guard, on_loop_thread, refuse_loop_on_worker
from .._errors import PoolClosed, TransactionFinished
from .._eventloops import current_task, running_key
from .._typing.results import DualValue, Self

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])
P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("async_peewee")

TRANSACTION_METHODS = ("commit", "rollback")


class Block:
    """The asynchronous half of one of Peewee's blocks.

    Each entering is an Entry of its own, so that several tasks may enter one object. Peewee's
    atomic() makes a transaction or a savepoint, which is a block too: on a worker it is entered
    by the one around it.
    """

    db: Any
    # How the block is spelled, for messages: db.atomic().
    spelling = "block"
    # Whether what is called in it is committed or rolled back together.
    is_transaction = True
    # Whether the queries that are made in it belong to it, whoever awaits them.
    owns_queries = True
    # Who has entered the object and not left it; weakly, for an entry goes with its task.
    _entered: tuple[weakref.ReferenceType[Entry], ...] = ()
    # Whether an entering uses this very object, from its first moment on.
    _is_taken = False

    # -- synchronous: a worker, a plain thread ----------------------------------------

    def __enter__(self) -> Any:
        guard(f"with db.{self.spelling}()", f"async with db.{self.spelling}()")
        return self.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if current_connection(self.db) is None:
            self.leave(kind, error)
        else:
            self._leaving(kind, error)()

    def _leaving(self, kind: type[BaseException] | None, error: BaseException | None) -> Callable[[], None]:
        """Return what leaves the block on a worker."""
        return functools.partial(self._leave_quietly, kind, error) if kind else self._leave_alive

    def enter(self) -> Any:
        """Do what Peewee's block does on entry."""
        return super().__enter__()  # type: ignore[misc]

    def leave(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        """Do what Peewee's block does on exit."""
        super().__exit__(kind, error, None)  # type: ignore[misc]

    # -- asynchronous: the way in -----------------------------------------------------

    async def __aenter__(self) -> Any:
        frame = sys._getframe(1)
        # What Peewee notes on entry it notes in the object: a second task needs one of its own.
        own = self._copy() if self._is_taken else self
        own._is_taken = True
        connections = self.db.connections
        outer = connections.current()
        outside = None if outer is None else outer.outside
        try:
            if outer is None and open_blocks.get() is not None:
                outside = own._look_outside()
            entry, entered = await (own._enter_first() if outer is None else own._enter_nested(outer))
        except BaseException:
            own._is_taken = False
            raise
        entry.block, entry.frame, entry.outside = own, id(frame), outside
        entry.may_be_dropped = bool(frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR)
        self._entered += (weakref.ref(entry),)
        connections.push(entry)
        return entered

    def _look_outside(self) -> OutsideCall | None:
        """Return what warns of a block in a child task, outside of its parent's."""
        outside = self.db.connections.outside(f"{self.spelling}()", is_connection=not self.is_transaction)
        if outside is not None and self.writes():
            outside.warn()  # before it waits for what the parent holds
        return outside  # type: ignore[no-any-return]

    def _copy(self) -> Any:
        own = object.__new__(type(self))
        vars(own).update(vars(self), _entered=())
        own.db = self.db
        return own

    async def _enter_first(self) -> tuple[Entry, Any]:
        connections, label = self.db.connections, f"{self.spelling}()"
        lock = connections.write_lock if self.writes() else None
        pool, lease, entered = await connections.acquire(self.enter, label, undo=self._undo, write_lock=lock)
        return Entry(pool, lease, label, require_task(), owns_lease=True), entered

    async def _enter_nested(self, outer: Entry) -> tuple[Entry, Any]:
        connections, label = self.db.connections, f"{self.spelling}()"
        entered: list[Any] = []
        try:
            await connections.call(lambda: entered.append(self.enter()), label, outer)
        except BaseException:
            if entered:  # cancelled when it was in already: Peewee's stack must not keep it
                # If another task has left the block around it, it was undone with that.
                undo = self._abandon if outer.problem else self._undo
                # Refused: all of the transaction has been undone meanwhile.
                with contextlib.suppress(PoolClosed, TransactionFinished):
                    await connections.call_to_the_end(outer, undo)
            raise
        return Entry(outer.pool, outer.lease, label, require_task()), entered[0]

    def _undo(self) -> None:
        cancelled = RuntimeError("the block was cancelled on entry")
        self._leave_quietly(type(cancelled), cancelled)

    # -- asynchronous: the way out ----------------------------------------------------

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entry = self._entry_to_leave(id(sys._getframe(1)))
        try:
            if entry is None:
                raise TransactionFinished(f"{self.spelling}()")
            await self._leave_entry(entry, kind, error)
        except (PoolClosed, TransactionFinished):
            # The worker has rolled the block back on its way out, which is all that a
            # block that failed wants; one that did not must hear that it is not committed.
            if kind is None:
                raise

    def _entry_to_leave(self, frame: int) -> Entry | None:
        """Return which entering of this object is left: that of the same frame, else of the task, else any.

        None: it went with its task, which has ended inside.
        """
        if not self._entered:
            raise peewee.InterfaceError(f"db.{self.spelling}() is left, and was not entered")
        entered = [entry for reference in self._entered if (entry := reference()) is not None]
        task = current_task(running_key())
        of_frame = [entry for entry in entered if entry.frame == frame]
        of_task = [entry for entry in entered if entry.task() is task]
        found = of_frame or of_task or entered
        left = found[-1] if found else None
        if left is not None:
            left.block._is_taken = False
        self._entered = tuple(weakref.ref(entry) for entry in entered if entry is not left)
        return left

    async def _leave_entry(
        self, entry: Entry, kind: type[BaseException] | None, error: BaseException | None
    ) -> None:
        inside = self.db.connections.pop(entry)
        entry.check()
        is_strangers = kind is not None and entry.task() is not current_task(running_key())
        if is_strangers:
            entry.problem = LEFT_BY_ANOTHER
        if inside:
            await self._leave_out_of_order(entry, inside, is_strangers)
        await self._leave_on_worker(entry, entry.block._leaving(kind, error))

    async def _leave_on_worker(self, entry: Entry, leave: Callable[[], None]) -> None:
        if entry.owns_lease:
            entry.owns_lease = False
            await self.db.connections.end(entry.pool, entry.lease, leave)
        else:
            await self.db.connections.call_to_the_end(entry, leave)

    async def _leave_out_of_order(self, entry: Entry, inside: list[Entry], is_strangers: bool) -> None:
        """Roll back a block and those inside it, which are still open; raise InterfaceError."""
        problem = (
            LEFT_BY_ANOTHER if is_strangers else f"is rolled back, for {entry.label} around it was left first"
        )
        for other in inside:
            other.problem = problem
        error = peewee.InterfaceError(
            f"{entry.label} was left before {inside[-1].label}, which was entered inside it; "
            "both are rolled back. Leave the inner block first"
        )
        blocks = [*reversed([other.block for other in inside if other.block is not None])]

        def leave() -> None:
            for block in blocks:
                block._leave_quietly(type(error), error)
            if not is_strangers:
                entry.block._leave_quietly(type(error), error)

        if is_strangers:
            await self.db.connections.call_to_the_end(entry, leave)
            return
        await self._leave_on_worker(entry, leave)
        raise error

    # -- on a worker ------------------------------------------------------------------

    def _leave_alive(self) -> None:
        connection = current_connection(self.db)
        if connection is not None:
            try:
                connection.check_alive()
            except peewee.OperationalError:
                self._abandon()
                raise
        self.leave(None, None)

    def _leave_quietly(self, kind: type[BaseException], error: BaseException | None) -> None:
        """Leave after an error: the user's own, which a failing rollback must not replace."""
        connection = current_connection(self.db)
        if connection is not None and connection.dead:
            self._abandon()
            return
        try:
            self.leave(kind, error)
        except Exception as failure:
            logger.warning("%r: the rollback of %s() failed: %s", self.db, self.spelling, failure)

    def _abandon(self) -> None:
        """Leave a transaction that the database has ended already: no SQL, only Peewee's stack."""
        transactions = self.db._state.transactions
        own = getattr(self, "_helper", self)
        if own in transactions:
            transactions.remove(own)
        connection = current_connection(self.db)
        if connection is not None and not transactions:
            self.db._clear_commit_callbacks()
            connection.check_transaction()

    def writes(self) -> bool:
        """Return True if the block takes the database's write lock on entry."""
        return False

    # -- as a decorator ---------------------------------------------------------------

    @overload
    def __call__(self, function: F) -> F: ...  # type: ignore[overload-overlap]  # a coroutine is a T as well
    @overload
    def __call__(self, function: Callable[P, T]) -> Callable[P, DualValue[T]]: ...
    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function: each call runs in a block of its own.

        A plain function runs with its block on a worker, in one hop, when it is called on
        the loop's thread; an `async def` runs there itself.
        """
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(
                f"@db.{self.spelling}() cannot decorate the generator {function.__qualname__}: "
                "its block would stay open between its values"
            )
        if inspect.iscoroutinefunction(function):
            return self._decorate_async(function)
        return self._decorate(super().__call__(function), function)  # type: ignore[misc]

    def _decorate_async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            async with self._build_ctx():  # type: ignore[attr-defined]
                return await function(*args, **kwargs)

        return wrapper

    def _decorate(self, in_block: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if on_loop_thread():
                call = detached(in_block, *args, **kwargs)
                return call_on_worker(function.__qualname__, self.db.connections, call)
            refuse_loop_on_worker(f"{function.__qualname__}()")
            return in_block(*args, **kwargs)

        return wrapper


class AsyncAtomic(Block, peewee._atomic):
    spelling = "atomic"
    _transaction_args: tuple[Any, Any]

    if TYPE_CHECKING:

        async def __aenter__(self) -> AsyncTransaction | AsyncSavepoint: ...

    def writes(self) -> bool:
        args, kwargs = self._transaction_args
        return bool(self.db.backend.begin_writes(*args, **kwargs))


class AsyncTransaction(Block, peewee._transaction):
    spelling = "transaction"
    _begin_args: tuple[Any, Any]

    if TYPE_CHECKING:

        async def __aenter__(self) -> Self: ...
        def commit(self, begin: bool = True) -> DualValue[None]: ...  # type: ignore[override]
        def rollback(self, begin: bool = True) -> DualValue[None]: ...  # type: ignore[override]

    def writes(self) -> bool:
        args, kwargs = self._begin_args
        return bool(self.db.backend.begin_writes(*args, **kwargs))


class AsyncSavepoint(Block, peewee._savepoint):
    spelling = "savepoint"

    if TYPE_CHECKING:

        async def __aenter__(self) -> Self: ...
        def commit(self, begin: bool = True) -> DualValue[None]: ...  # type: ignore[override]
        def rollback(self, begin: bool = True) -> DualValue[None]: ...  # type: ignore[override]


class AsyncManualCommit(Block, peewee._manual):
    spelling = "manual_commit"


class AsyncConnectionContext(Block, peewee.ConnectionContext):
    """Hold one connection for a while.

    A worker of the database keeps its connection, so leaving closes nothing there, nor does a
    `with db:` inside.
    """

    spelling = "connection_context"
    is_transaction = False

    def __init__(self, db: Any) -> None:
        self.db = db

    def leave(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        entered = self.db._state.ctx
        if current_connection(self.db) is None:
            super().leave(kind, error)
        elif self in entered:  # else the connection was lost meanwhile
            entered.remove(self)


def _pend_transaction(
    transaction: Any, name: str, native: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> PendingCall[Any]:
    connections = transaction.db.connections
    connections.require(f"await txn.{name}()")
    call = _checked(transaction.db, native, transaction, args, kwargs)
    return call_on_worker(f"{transaction.spelling}.{name}", connections, call)


def _checked(
    db: Any, native: Callable[..., Any], transaction: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[], Any]:
    def call() -> Any:
        connection = current_connection(db)
        if connection is not None:
            connection.check_alive()
        return native(transaction, *args, **kwargs)

    return call


for _class in (AsyncTransaction, AsyncSavepoint):
    install_dual(_class, TRANSACTION_METHODS, _pend_transaction)


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
