"""Blocks that pin a worker: atomic, transaction, savepoint, manual_commit, connection_context.

Each is Peewee's own context manager with an asynchronous way in and out. On a worker and
on a plain thread `with` works as ever; on the loop's thread it is `async with`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import peewee

from ._calls import PendingCall, call_on_worker, guard
from ._decorators import Decorator
from ._dual import install_dual
from ._errors import PoolClosed, TransactionFinished
from ._pins import Pin, current_driver
from ._worker import current_worker

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._typing import DualValue

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
        if current_driver(self.db) is None:
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
        contexts = self.db.contexts
        label = f"{self.spelling}()"
        outer = contexts.current()
        if outer is None:
            gate = contexts.gate if self.writes() else None
            self._pin, entered = await contexts.acquire(self.enter, label, undo=self._undo, gate=gate)
            self._owns_pin = True
            contexts.push_current(self._pin)
        else:
            self._pin = outer
            entered = await self._enter_nested(outer, label)
        return entered

    async def _enter_nested(self, outer: Pin, label: str) -> Any:
        entered: list[Any] = []
        try:
            await self.db.contexts.call(lambda: entered.append(self.enter()), label, outer)
        except BaseException:
            if entered:  # cancelled when it was in already: Peewee's stack must not keep it
                await self.db.contexts.call_to_the_end(outer, self._undo)
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
        contexts = self.db.contexts
        if self._owns_pin:
            self._owns_pin = False
            contexts.pop_held(pin, pin.owner())
            await contexts.release(pin, leave)
        else:
            await contexts.call_to_the_end(pin, leave)

    def _leave_alive(self) -> None:
        driver = current_driver(self.db)
        if driver is not None:
            try:
                driver.check_alive()
            except peewee.OperationalError:
                self._abandon()
                raise
        self.leave(None, None)

    def _leave_quietly(self, kind: type[BaseException], error: BaseException | None) -> None:
        """Leave after an error: the user's own, which a failing rollback must not replace."""
        driver = current_driver(self.db)
        if driver is not None and driver.dead:
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
        driver = current_driver(self.db)
        if driver is not None and not transactions:
            self.db._clear_commit_callbacks()
            driver.note_job_end()

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
        return bool(self.db.family.begin_writes(*args, **kwargs))


class AsyncTransaction(Block, peewee._transaction):
    spelling = "transaction"
    _begin_args: tuple[Any, Any]

    if TYPE_CHECKING:

        async def __aenter__(self) -> Self: ...
        def commit(self, begin: bool = True) -> DualValue[None]: ...  # type: ignore[override]
        def rollback(self, begin: bool = True) -> DualValue[None]: ...  # type: ignore[override]

    def writes(self) -> bool:
        args, kwargs = self._begin_args
        return bool(self.db.family.begin_writes(*args, **kwargs))


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
    contexts = transaction.db.contexts
    contexts.require(f"await txn.{name}()")
    call = _checked(transaction.db, native, transaction, args, kwargs)
    return call_on_worker(f"{transaction.spelling}.{name}", contexts, call)


def _checked(
    db: Any, native: Callable[..., Any], transaction: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[], Any]:
    def call() -> Any:
        driver = current_driver(db)
        if driver is not None:
            driver.check_alive()
        return native(transaction, *args, **kwargs)

    return call


for _class in (AsyncTransaction, AsyncSavepoint):
    install_dual(_class, TRANSACTION_METHODS, _pend_transaction)
