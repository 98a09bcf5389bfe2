"""What Peewee keeps for each thread and we answer for each task, and the primitives under all SQL."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import peewee

from .._bridge.calls import gives_coroutine, name_of, refuse_async
from .._bridge.connections import Connections
from .._bridge.places import current_connection, guard, is_peewee, on_loop_thread, worker_of
from .._drivers.base import Backend
from .._drivers.statement_profiles import StatementProfile, StatementProfiles
from .._pool.connection import StreamRequest
from .._pool.worker import Worker, here
from .._writes import statement_changes_rows

# What a task without a block sees of its connection.
NO_STATE: dict[str, Any] = {"closed": True, "transactions": (), "commit_callbacks": []}


class Execution:
    """Peewee's questions about the connection, answered for the task that asks.

    On a worker and on a plain thread each is Peewee's own.
    """

    connections: Connections
    statements: StatementProfiles
    backend: Backend
    get_sql_context: Any
    query_hooks: list[Any]
    _state: Any

    def _task_state(self) -> dict[str, Any]:
        entry = self.connections.current()
        return NO_STATE if entry is None or entry.is_over else entry.lease.worker.connection.state

    def is_closed(self) -> bool:
        """Return True if the pool is closed; on a worker or a plain thread, its own connection."""
        if on_loop_thread():
            pool = self.connections.pools.find()
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

    def push_transaction(self, transaction: Any) -> None:
        guard("db.push_transaction()", "async with db.atomic()", "would reach no connection")
        super().push_transaction(transaction)  # type: ignore[misc]

    def pop_transaction(self) -> Any:
        guard("db.pop_transaction()", "async with db.atomic()", "would reach no connection")
        return super().pop_transaction()  # type: ignore[misc]

    def after_commit(self, fn: Callable[[], Any]) -> Any:
        """Call a function when the current task's transaction has been committed.

        A plain function runs on the loop's thread, a coroutine function is awaited there,
        before the block's `async with` returns. Never after a rollback. Outside a transaction
        it runs at once. On a worker a plain function runs there; a coroutine function is awaited
        on the loop's thread when the call that has committed returns.
        """
        if here.worker is not None and gives_coroutine(fn):
            super().after_commit(partial(_defer, fn))  # type: ignore[misc]
            return fn
        if not on_loop_thread():
            refuse_async(fn, "db.after_commit() without an event loop", "which it calls")
            return super().after_commit(fn)  # type: ignore[misc]
        if isinstance(self.top_transaction(), peewee._manual):
            raise ValueError("after_commit() cannot be used with `manual`")
        if self.in_transaction():
            self._task_state()["commit_callbacks"].append(partial(_defer, fn))
        elif gives_coroutine(fn):
            raise peewee.InterfaceError(
                "after_commit() outside a transaction runs the function at once, and cannot await; "
                f"write: await {name_of(fn)}()"
            )
        else:
            fn()
        return fn

    # -- the four primitives under everything ------------------------------------------

    def cursor(self, named_cursor: Any = None) -> Any:
        worker = worker_of(self)
        if worker is None:
            guard("db.cursor()", "await db.execute_sql(...), or await db.run(function, ...)")
        elif isinstance(named_cursor, StreamRequest):
            named_cursor.cursor = worker.connection.begin_stream(named_cursor.is_alone)
            return named_cursor.cursor
        elif not worker.turns.in_driver and not is_peewee(sys._getframe(1)):
            # Else it is for a statement of which we know. What user code does nobody knows.
            worker.connection.session_changed = True
        cursor = super().cursor(named_cursor)  # type: ignore[misc]
        if worker is not None:
            worker.connection.note_cursor(cursor)
        return cursor

    def connection(self) -> Any:
        guard("db.connection()", "await db.run(function), where the function uses db.connection()")
        worker = worker_of(self)
        if worker is not None and not is_peewee(sys._getframe(1)):
            worker.connection.session_changed = worker.connection.was_handed_out = True
        return super().connection()  # type: ignore[misc]

    def execute(self, query: Any, **options: Any) -> Any:
        worker = worker_of(self)
        if worker is None or isinstance(query, peewee.RawQuery):
            return super().execute(query, **options)  # type: ignore[misc]
        worker.is_generating = True
        try:
            return super().execute(query, **options)  # type: ignore[misc]
        finally:
            worker.is_generating = False

    def execute_streaming(self, query: Any, request: StreamRequest) -> Any:
        """Execute a query with a streaming cursor, which is also left in the request."""
        sql, parameters = self.get_sql_context().sql(query).query()
        worker = worker_of(self)
        assert worker is not None
        worker.is_generating = not isinstance(query, peewee.RawQuery)
        try:
            return self._execute_cursor(sql, parameters, named_cursor=request)
        finally:
            worker.is_generating = False

    def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any:
        worker = worker_of(self)
        if worker is None:
            try:
                return super()._execute_cursor(sql, params, **options)  # type: ignore[misc]
            except peewee.PeeweeException as error:
                self._explain(error)
                raise
        if sql.startswith("ROLLBACK"):
            return self._roll_back(worker, partial(super()._execute_cursor, sql, params))  # type: ignore[misc]
        if worker.on_write is not None and statement_changes_rows(sql):
            worker.on_write()
        is_savepoint = sql.startswith(("SAVEPOINT", "RELEASE"))
        statement = self.statements.find(sql, worker.is_generating or is_savepoint)
        self._begin_statement(worker, statement)
        execute = super()._execute_cursor  # type: ignore[misc]
        if is_savepoint and sql.startswith("RELEASE"):
            # A way out of a block, which nobody cancels; if it is cut, the transaction is rolled back.
            execute = partial(_within_grace, worker, "RELEASE", execute)
        try:
            return worker.turns.statement(statement, execute, sql, params, **options)
        except peewee.PeeweeException as error:
            if _is_lost(worker, error):
                raise _explain_loss(error, worker, "a statement") from error
            # It may have taken the transaction with it, and the function that runs go on.
            worker.connection.check_transaction()
            self._explain(error)
            raise

    def _explain(self, error: peewee.PeeweeException) -> None:
        """Raise the error with what the database cannot know of it, where there is more to say."""
        more = self.backend.explain(error)
        if more:
            raise type(error)(getattr(error, "orig", error), f"{error}{more}") from error

    def _begin_statement(self, worker: Worker, statement: StatementProfile) -> None:
        """Refuse a statement of a job that was cancelled or whose transaction is dead."""
        if self.query_hooks:
            for hook in self.query_hooks:
                refuse_async(hook, "db.query_hooks", "which Peewee calls after each statement")
        worker.interrupter.check()
        worker.connection.begin_statement()
        if statement.changes_session:
            worker.connection.session_changed = True
        if statement.may_write and worker.write_lock is None:
            self.backend.take_write_lock(worker)

    def _classify(self, sql: str, is_generated: bool) -> StatementProfile:
        connection = current_connection(self)
        assert connection is not None
        return StatementProfile(
            connection.changes_session(sql, is_generated),
            self.backend.may_write(sql),
            connection.expected_seconds,
        )

    def begin(self, *args: Any, **kwargs: Any) -> Any:
        worker = worker_of(self)
        if worker is not None and self.backend.begin_writes(*args, **kwargs):
            if worker.on_write is not None:
                worker.on_write()  # before it waits for the lock
            self.backend.take_write_lock(worker)
        try:
            return self._control("BEGIN", super().begin, *args, **kwargs)  # type: ignore[misc]
        except peewee.PeeweeException as error:
            if worker is not None:
                worker.connection.note_error(error)
            raise

    def commit(self) -> None:
        worker = worker_of(self)
        if worker is None:
            super().commit()  # type: ignore[misc]
            return
        _check_before_commit(worker)
        with worker.committing():
            try:
                self._control("COMMIT", super().commit)  # type: ignore[misc]
            except peewee.PeeweeException as error:
                if _is_lost(worker, error):
                    raise _explain_loss(error, worker, "COMMIT") from error
                raise

    def rollback(self) -> None:
        worker = worker_of(self)
        if worker is None:
            super().rollback()  # type: ignore[misc]
        else:
            self._roll_back(worker, super().rollback)  # type: ignore[misc]

    def _roll_back(self, worker: Worker, roll_back: Callable[[], Any]) -> Any:
        # Of a lost connection the database rolls back by itself; an error about it would
        # take the place of the user's own.
        try:
            with worker.interrupter.uninterrupted(), worker.connection.within_grace("ROLLBACK"):
                return self._control("ROLLBACK", roll_back)
        except peewee.PeeweeException as error:
            if not _is_lost(worker, error):
                raise
        return None

    def _control(self, sql: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run what begins or ends a transaction."""
        worker = worker_of(self)
        if worker is None:
            return function(*args, **kwargs)
        if worker.connection.streams and sql != "BEGIN":
            worker.connection.doubt_streams()
        return worker.turns.statement(self.statements.find(sql, True), function, *args, **kwargs)


def _is_lost(worker: Worker, error: peewee.PeeweeException) -> bool:
    connection: Any = worker.connection
    connection.note_error(error)
    return not connection.state["closed"] and connection.is_lost()


def _within_grace(worker: Worker, what: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    with worker.connection.within_grace(what):
        return function(*args, **options)


def _check_before_commit(worker: Worker) -> None:
    """Raise instead of sending COMMIT over a connection that the server has ended.

    The answer to a COMMIT that was sent could not tell whether it had come in time.
    """
    connection: Any = worker.connection
    error = None if connection.state["closed"] else connection.farewell()
    if error is not None:
        raise peewee.OperationalError(
            "the connection was lost before COMMIT was sent: the database rolls the transaction back, and "
            f"nothing of it is committed ({error})"
        ) from error


def _explain_loss(error: Exception, worker: Worker, what: str) -> peewee.OperationalError:
    """Say what a lost connection means for the statement: the driver does not."""
    if what == "COMMIT":
        meaning = "whether the transaction was committed is unknown"
    elif worker.connection.state["transactions"]:
        meaning = "the database rolls the transaction back, and nothing of it is committed"
    else:
        meaning = "whether it took effect is unknown, and it is not sent again"
    return peewee.OperationalError(f"the connection was lost during {what}: {meaning} ({error})")


def _defer(function: Callable[[], Any]) -> None:
    """Send an after_commit function back to the loop's thread, with the outcome of the job."""
    worker = here.worker
    assert worker is not None
    worker.defer(function)
