"""The blocks of a database, by Peewee's names: each pins a worker to the task for its length."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import peewee

from .._bridge.calls import PendingCall, call_on_worker
from .._bridge.connections import Pin
from .._bridge.dual import install_dual
from .._bridge.places import current_connection, guard, on_loop_thread
from .._bridge.results import detached
from .._errors import PoolClosed, TransactionFinished
from .._pool.worker import current_worker

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._typing.results import DualValue


F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


P = ParamSpec("P")


T = TypeVar("T")


class Decorator:
    """The side of a block that decorates functions."""

    db: Any
    # How the block is spelled, for messages: db.atomic().
    spelling = "block"

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
            return in_block(*args, **kwargs)

        return wrapper


logger = logging.getLogger("async_peewee")


TRANSACTION_METHODS = ("commit", "rollback")


class Block(Decorator):
    """The asynchronous half of one of Peewee's blocks."""

    _pin: Pin | None = None
    _owns_pin = False

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

    # -- asynchronous -----------------------------------------------------------------

    async def __aenter__(self) -> Any:
        connections = self.db.connections
        label = f"{self.spelling}()"
        outer = connections.current()
        if outer is None:
            gate = connections.gate if self.writes() else None
            self._pin, entered = await connections.acquire(self.enter, label, undo=self._undo, gate=gate)
            self._owns_pin = True
            connections.push_current(self._pin)
        else:
            self._pin = outer
            entered = await self._enter_nested(outer, label)
        return entered

    async def _enter_nested(self, outer: Pin, label: str) -> Any:
        entered: list[Any] = []
        try:
            await self.db.connections.call(lambda: entered.append(self.enter()), label, outer)
        except BaseException:
            if entered:  # cancelled when it was in already: Peewee's stack must not keep it
                await self.db.connections.call_to_the_end(outer, self._undo)
            raise
        return entered[0]

    def _undo(self) -> None:
        cancelled = RuntimeError("the block was cancelled on entry")
        self._leave_quietly(type(cancelled), cancelled)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pin, self._pin = self._pin, None
        assert pin is not None
        try:
            await self._leave_pinned(pin, self._leaving(kind, error))
        except (PoolClosed, TransactionFinished):
            # The worker has rolled the block back on its way out, which is all that a
            # block that failed wants; one that did not must hear that it is not committed.
            if kind is None:
                raise

    async def _leave_pinned(self, pin: Pin, leave: Callable[[], None]) -> None:
        connections = self.db.connections
        if self._owns_pin:
            self._owns_pin = False
            connections.pop_held(pin, pin.owner())
            await connections.release(pin, leave)
        else:
            await connections.call_to_the_end(pin, leave)

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
    """Hold one connection for a while. A worker keeps its connection, so leaving closes nothing."""

    spelling = "connection_context"

    def __init__(self, db: Any) -> None:
        self.db = db

    def enter(self) -> Any:
        return super().enter() if current_worker() is None else None

    def leave(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        if current_worker() is None:
            super().leave(kind, error)


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
