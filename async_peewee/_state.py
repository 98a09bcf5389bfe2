"""What Peewee keeps for each thread and we answer for each task, and the primitives under all SQL."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import peewee

from ._calls import guard, on_loop_thread
from ._contexts import ConnectionContexts
from ._driver import ConnectionDriver, StreamRequest
from ._dual import is_peewee
from ._pins import current_driver
from ._worker import Worker, current_worker

# What a task without a block sees of its connection.
NO_STATE: dict[str, Any] = {"closed": True, "transactions": (), "commit_callbacks": []}


class _Generating(threading.local):
    """Whether this thread runs a statement that Peewee has written."""

    active = False


_generating = _Generating()


class TaskState:
    """Peewee's questions about the connection, answered for the task that asks.

    On a worker and on a plain thread each is Peewee's own.
    """

    contexts: ConnectionContexts
    get_sql_context: Any
    _state: Any

    def _task_state(self) -> dict[str, Any]:
        pin = self.contexts.current()
        return NO_STATE if pin is None else pin.worker.driver.state

    def is_closed(self) -> bool:
        """Return True if the pool is closed; on a worker or a plain thread, its own connection."""
        if on_loop_thread():
            pool = self.contexts.find_pool()
            return pool is None or pool.is_closed
        return super().is_closed()  # type: ignore[misc, no-any-return]

    def in_transaction(self) -> bool:
        """Return True if the current task, or this thread, is in a transaction."""
        return self.transaction_depth() > 0

    def transaction_depth(self) -> int:
        if on_loop_thread():
            return len(self._task_state()["transactions"])
        return super().transaction_depth()  # type: ignore[misc, no-any-return]

    def top_transaction(self) -> Any:
        if on_loop_thread():
            transactions = self._task_state()["transactions"]
            return transactions[-1] if transactions else None
        return super().top_transaction()  # type: ignore[misc]

    def after_commit(self, fn: Callable[[], Any]) -> Any:
        """Call a function when the current task's transaction has been committed.

        A plain function runs on the loop's thread, a coroutine function is awaited there,
        before the block's `async with` returns. Never after a rollback. Outside a transaction
        it runs at once.
        """
        if not on_loop_thread():
            return super().after_commit(fn)  # type: ignore[misc]
        if isinstance(self.top_transaction(), peewee._manual):
            raise ValueError("after_commit() cannot be used with `manual`")
        if self.in_transaction():
            self._task_state()["commit_callbacks"].append(partial(_defer, fn))
        elif inspect.iscoroutinefunction(fn):
            raise peewee.InterfaceError(
                "after_commit() outside a transaction runs the function at once, and cannot await; "
                f"write: await {fn.__qualname__}()"
            )
        else:
            fn()
        return fn

    # -- the four primitives under everything ------------------------------------------

    def cursor(self, named_cursor: Any = None) -> Any:
        guard("db.cursor()", "await db.execute_sql(...), or await db.run(function, ...)")
        driver = current_driver(self)
        if driver is not None and isinstance(named_cursor, StreamRequest):
            named_cursor.cursor = driver.begin_stream(named_cursor.is_alone)
            return named_cursor.cursor
        self._note_user(sys._getframe(1))
        return super().cursor(named_cursor)  # type: ignore[misc]

    def connection(self) -> Any:
        guard("db.connection()", "await db.run(function), where the function uses db.connection()")
        self._note_user(sys._getframe(1))
        return super().connection()  # type: ignore[misc]

    def _note_user(self, frame: FrameType) -> None:
        # What user code does to a raw connection nobody knows; Peewee's own is no news.
        driver = current_driver(self)
        if driver is not None and not is_peewee(frame):
            driver.is_dirty = True

    def execute(self, query: Any, **options: Any) -> Any:
        driver = current_driver(self)
        if driver is None or isinstance(query, peewee.RawQuery):
            return super().execute(query, **options)  # type: ignore[misc]
        _generating.active = True
        try:
            return super().execute(query, **options)  # type: ignore[misc]
        finally:
            _generating.active = False

    def execute_streaming(self, query: Any, request: StreamRequest) -> Any:
        """Execute a query with a streaming cursor, which is also left in the request."""
        sql, parameters = self.get_sql_context().sql(query).query()
        _generating.active = not isinstance(query, peewee.RawQuery)
        try:
            return self._execute_cursor(sql, parameters, named_cursor=request)
        finally:
            _generating.active = False

    def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any:
        driver, worker = current_driver(self), current_worker()
        if driver is None or worker is None:
            return super()._execute_cursor(sql, params, **options)  # type: ignore[misc]
        if sql.startswith("ROLLBACK"):
            return self._roll_back(driver, worker, sql, params)
        self._check_statement(worker, sql)
        driver.note_statement(sql, _generating.active or sql.startswith(("SAVEPOINT", "RELEASE")))
        try:
            return super()._execute_cursor(sql, params, **options)  # type: ignore[misc]
        except peewee.PeeweeException as error:
            if _is_lost(driver, error):
                raise _explain_loss(error, driver, "a statement") from error
            raise

    def _roll_back(self, driver: ConnectionDriver, worker: Worker, sql: str, params: Any) -> Any:
        # Of a lost connection the database rolls back by itself; an error about it would
        # take the place of the user's own.
        try:
            with worker.uninterrupted():
                return super()._execute_cursor(sql, params)  # type: ignore[misc]
        except peewee.PeeweeException as error:
            if not _is_lost(driver, error):
                raise
        return None

    def _check_statement(self, worker: Worker, sql: str) -> None:
        """Refuse a statement of a job that was cancelled or whose transaction is dead."""
        worker.check_interrupted()
        worker.driver.check_alive()

    def commit(self) -> None:
        driver, worker = current_driver(self), current_worker()
        if driver is None or worker is None:
            super().commit()  # type: ignore[misc]
            return
        with worker.uninterrupted():
            try:
                super().commit()  # type: ignore[misc]
            except peewee.PeeweeException as error:
                if _is_lost(driver, error):
                    raise _explain_loss(error, driver, "COMMIT") from error
                raise

    def rollback(self) -> None:
        driver, worker = current_driver(self), current_worker()
        if driver is None or worker is None:
            super().rollback()  # type: ignore[misc]
            return
        try:
            with worker.uninterrupted():
                super().rollback()  # type: ignore[misc]
        except peewee.PeeweeException as error:
            if not _is_lost(driver, error):  # see _roll_back()
                raise


def _is_lost(driver: ConnectionDriver, error: peewee.PeeweeException) -> bool:
    driver.note_error(error)
    return not driver.state["closed"] and driver.is_lost()


def _explain_loss(error: Exception, driver: ConnectionDriver, what: str) -> peewee.OperationalError:
    """Say what a lost connection means for the statement: the driver does not."""
    if what == "COMMIT":
        meaning = "whether the transaction was committed is unknown"
    elif driver.state["transactions"]:
        meaning = "the database rolls the transaction back, and nothing of it is committed"
    else:
        meaning = "whether it took effect is unknown, and it is not sent again"
    return peewee.OperationalError(f"the connection was lost during {what}: {meaning} ({error})")


def _defer(function: Callable[[], Any]) -> None:
    """Send an after_commit function back to the loop's thread, with the outcome of the job."""
    worker = current_worker()
    assert worker is not None
    worker.defer(function)
