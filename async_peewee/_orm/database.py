"""AsyncDatabaseProxy: it stands for a database that is chosen when the program runs."""

from __future__ import annotations

import contextlib
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import anyio
import peewee

from .._bridge.calls import PendingCall, call_on_worker, is_async, name_of
from .._bridge.connections import Connections, SharedConnection
from .._bridge.detaching import detached
from .._bridge.dual import install_dual, refuse_bind_ctx, refuse_peewee
from .._bridge.fork import forget_connection
from .._bridge.places import (
    Place,
    current_connection,
    guard,
    on_loop_thread,
    place,
    refuse_loop_on_worker,
    sync_allowed,
)
from .._drivers.backends import backend_of, check_class
from .._drivers.base import Backend, Versions
from .._drivers.connecting import add_keepalives, bound_attempts, connect_once
from .._drivers.statement_profiles import StatementProfiles
from .._drivers.tls import check_tls_options
from .._errors import ConfigurationError
from .._pool.per_loop import PoolPerLoop
from .._pool.pool import PoolStats
from .._pool.worker import current_worker
from .._settings import PoolSettings
from .._typing.results import DualBool, DualValue, Returned, Self
from .._writes import method_writes
from .execution import Execution
from .models import AsyncModel
from .sqlite_functions import install_registrations
from .transactions import Blocks

if TYPE_CHECKING:
    from .._typing.databases import TypedDatabase
else:
    TypedDatabase = Execution


P = ParamSpec("P")


T = TypeVar("T")


DATABASE_METHODS = (
    "execute execute_sql get_tables get_indexes get_columns get_primary_keys get_foreign_keys get_views "
    "table_exists sequence_exists create_tables drop_tables pragma attach detach load_extension "
    "set_time_zone is_connection_usable run_transaction rekey backup backup_to_file"
).split()


# These change the connection they meet, so on the loop they make sense inside a block only.
SESSION_METHODS = "begin commit rollback session_start session_commit session_rollback".split()


SETTINGS = tuple(PoolSettings.__dataclass_fields__)


# How long close() lets running calls finish before it interrupts them, in seconds.
CLOSE_TIMEOUT = 10.0


class AsyncDatabase(Blocks, TypedDatabase):
    """Make a Peewee database class asynchronous.

        class MyDatabase(AsyncDatabase, PostgresqlDatabase): ...

    Takes what the Peewee class takes, and the settings of the pool: `pool_size`,
    `pool_min_size`, `max_waiting` (counts), `acquire_timeout`, `idle_timeout`,
    `max_lifetime` (seconds), `session_reset` (`"changed"`, `"always"` or `"never"`). Raises
    ConfigurationError for a bad one.
    """

    # Peewee's, which the mixin is put before.
    database: Any
    deferred: bool
    autoconnect: bool

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_class(cls, AsyncDatabase)
        if issubclass(cls, peewee.SqliteDatabase):
            install_registrations(cls)
        install_dual(cls, DATABASE_METHODS, _pend_database)
        install_dual(cls, SESSION_METHODS, _pend_session)

    def __init__(self, database: Any, *args: Any, **kwargs: Any) -> None:
        settings = PoolSettings.resolve(**{name: kwargs.pop(name, None) for name in SETTINGS})
        if kwargs.get("thread_safe") is False:
            raise ConfigurationError("thread_safe=False is not valid: each worker is a thread")
        self.backend: Backend = backend_of(self)
        # What its workers know of it: they must not keep it alive.
        self.database_key: object = object()
        self.connections: Connections = Connections(
            settings, weakly(self.backend.make_connection), partial(_forget_connection, weakref.ref(self))
        )
        self.versions: Versions = Versions()
        weakref.finalize(self, _close_dropped, self.connections.pools).atexit = False
        super().__init__(database, *args, **kwargs)
        # Peewee's own would let one thread at a time connect: a server that does not answer
        # one of them would keep the others waiting, where no cancellation reaches them.
        self._lock = contextlib.nullcontext()

    def init(self, database: Any, *args: Any, **kwargs: Any) -> None:
        """Set or change what the database connects to; Peewee's own, while the pool is closed."""
        if self.connections.pools.all_open():
            raise peewee.InterfaceError("init() while the pool is open; write first: await db.close()")
        target = self.backend.check_target(database)
        check_tls_options(self, kwargs)
        parameters = add_keepalives(self, target, bound_attempts(self, target, kwargs))
        super().init(target, *args, **parameters)
        self.backend.prepare()
        self.versions.connection = object()
        self.statements: StatementProfiles = StatementProfiles(self._classify)
        self.connections.pools.name = self._display_name()
        self.connections.pools.opens_itself = self.autoconnect

    def _connect(self) -> Any:
        connection = connect_once(self, super()._connect)  # type: ignore[misc]
        self.backend.set_defaults(connection)
        of_worker = current_connection(self)
        if of_worker is not None:
            of_worker.begin_set_up()
        self.backend.opened += 1
        return connection

    def _display_name(self) -> str:
        """Return a name for messages: never a URL, which may hold a password."""
        name = str(self.database)
        return type(self).__name__ if "://" in name or "=" in name else f"{type(self).__name__}({name!r})"

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<{self._display_name()}: {stats.workers} of {stats.pool_size} workers, "
            f"{stats.busy} busy, {stats.leased} leased, {stats.waiting} waiting>"
        )

    # -- opening and closing ----------------------------------------------------------

    def connect(self, reuse_if_open: bool = False) -> DualBool:
        """Open the pool of this event loop, and its first `pool_min_size` connections.

            db.connect()   ->   await db.connect()

        Optional: the first call opens it too. Connecting runs on the workers. Returns True,
        or False if it is open and `reuse_if_open`. Raises OperationalError if it is open
        already or the database cannot be reached; then it is closed again. On a worker or a
        plain thread: Peewee's own, for this thread. Cancellation closes it again.
        """
        if on_loop_thread():
            refuse_peewee(sys._getframe(1), "connect", self)
            return PendingCall("db.connect", partial(self._open, reuse_if_open))  # type: ignore[return-value]
        refuse_loop_on_worker("db.connect()")
        worker = current_worker()
        if worker is not None and place(self) is Place.VISITOR:
            # Another database's worker: it must not keep a connection that nobody counts.
            worker.at_job_end(self._close_visit)
        of_worker = current_connection(self)
        try:
            is_new = super().connect(reuse_if_open=reuse_if_open)
        finally:
            if of_worker is not None:
                of_worker.end_set_up()
        if is_new and of_worker is not None:
            of_worker.note_connection()
        return is_new  # type: ignore[return-value]

    def _close_visit(self) -> None:
        if not self._state.closed:
            self._state.transactions.clear()
            super().close()

    async def _open(self, reuse_if_open: bool) -> bool:
        pool = self.connections.pools.find()
        if pool is not None and not pool.is_closed:
            if reuse_if_open:
                return False
            raise peewee.OperationalError("Connection already opened.")
        if self.deferred:
            raise peewee.InterfaceError("Error, database must be initialized before opening a connection.")
        pool = self.connections.pools.open()
        try:
            await self.connections.warm_up()
        except BaseException:
            await pool.close(0)
            raise
        return True

    def close(self, timeout: float = CLOSE_TIMEOUT) -> DualBool:
        """Close the pool of this event loop: refuse new calls, end all workers and connections.

            db.close()   ->   await db.close()

        Calls that wait raise PoolClosed at once; those that run have `timeout` seconds, then
        they are interrupted and open blocks rolled back. Returns False if it was closed.
        Raises OperationalError inside a block of the same task. Cancelled, it interrupts at
        once and still leaves nothing behind. On a worker or a plain thread: Peewee's own.
        """
        if on_loop_thread():
            refuse_peewee(sys._getframe(1), "close", self)
            return PendingCall("db.close", partial(self._close_pool, timeout))  # type: ignore[return-value]
        refuse_loop_on_worker("db.close()")
        return super().close()  # type: ignore[return-value]

    async def _close_pool(self, timeout: float) -> bool:
        entry = self.connections.current()
        if entry is not None and not entry.is_lent:
            raise peewee.OperationalError("Attempting to close database while transaction is open.")
        pool = self.connections.pools.find()
        return pool is not None and await pool.close(timeout)

    async def __aenter__(self) -> Self:
        """Open the pool, for a program's life; entries are counted, the last to leave closes."""
        await self._open(reuse_if_open=True)
        self.connections.pools.get().entries += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pool = self.connections.pools.get()
        pool.entries -= 1
        if pool.entries == 0:
            with anyio.CancelScope(shield=True):
                await self._close_pool(CLOSE_TIMEOUT)

    def __enter__(self) -> Any:
        guard("with db", "async with db")
        return super().__enter__()

    def stats(self) -> PoolStats:
        """Return the figures of the pool, the same from every thread; nothing blocks.

        Of several event loops, which have a pool each, the pools are added up.
        """
        return self.connections.pools.stats()

    # -- running code -----------------------------------------------------------------

    @overload
    def run(self, function: Callable[P, Returned[T]], *args: P.args, **kwargs: P.kwargs) -> DualValue[T]: ...
    @overload
    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> DualValue[T]: ...
    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run any synchronous code on a worker and return its result.

            report("2026")   ->   await db.run(report, "2026")

        One hop for all of it. Inside a block it runs on the block's connection, so what it
        does is part of the transaction. Lazy results come back filled. Raises what the function
        raises. Cancelling interrupts the statement that runs, and the next one never starts.
        """
        if is_async(function):
            raise TypeError(f"db.run() is for plain functions; await {name_of(function)}() itself")
        if not on_loop_thread():
            refuse_loop_on_worker("db.run()")
            return function(*args, **kwargs)
        return call_on_worker(
            f"db.run({name_of(function)})", self.connections, detached(function, *args, **kwargs)
        )

    @contextmanager
    def allow_sync(self) -> Iterator[None]:
        """Let calls block the event loop on purpose, for code that sets up while it runs.

        Inside, every name is Peewee's own, on a connection of the loop's thread that is
        closed on exit.
        """
        was_closed = self._state.closed  # this thread's own connection, not the pool
        with sync_allowed():
            try:
                yield
            finally:
                if was_closed and not self._state.closed:
                    super().close()

    def bind_ctx(self, models: Any, bind_refs: bool = True, bind_backrefs: bool = True) -> Any:
        """Bind models to this database for a `with` block; refused on an event loop."""
        refuse_bind_ctx()
        return super().bind_ctx(models, bind_refs, bind_backrefs)

    def share_connection(self) -> SharedConnection:
        """Hand this task's block to another task, which enters it with `async with`."""
        return self.connections.share()


def weakly(method: Callable[[], T]) -> Callable[[], T]:
    """Return a call of an object's method that does not keep the object alive."""
    reference: weakref.WeakMethod[Callable[[], T]] = weakref.WeakMethod(method)

    def call() -> T:
        bound = reference()
        if bound is None:
            raise peewee.InterfaceError("the database object of this pool is no more")
        return bound()

    return call


def _forget_connection(reference: weakref.ReferenceType[AsyncDatabase]) -> Any:
    """After a fork, in the child: let this thread begin without the parent's connection."""
    database = reference()
    # None where the program has dropped it, and the garbage collector has its connections still.
    return None if database is None else forget_connection(database._state)


def _close_dropped(pools: PoolPerLoop) -> None:
    """Close the pools of a database that was dropped. The garbage collector calls it, anywhere."""
    dropped = pools.all_open()
    for pool in dropped:
        pool.close_later()
    for pool in dropped:  # afterwards: a warning may be an error
        warnings.warn(
            f"{pool.name} was dropped and not closed; write: async with db, or await db.close()",
            ResourceWarning,
            stacklevel=2,
        )


def _pend_database(
    database: Any, name: str, native: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> PendingCall[Any]:
    function = detached(native, database, *args, **kwargs)
    writes = bool(method_writes(name)) or (
        name == "execute_sql" and database.backend.may_write(args[0] if args else kwargs["sql"])
    )
    # Of execute(query): a query belongs to the block in which it was made.
    made_in = getattr(args[0], "_made_in", ()) if name == "execute" and args else ()
    return call_on_worker(f"db.{name}", database.connections, function, writes=writes, made_in=made_in)


def _pend_session(
    database: Any, name: str, native: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> PendingCall[Any]:
    database.connections.require(f"await db.{name}()")
    return _pend_database(database, name, native, args, kwargs)


if TYPE_CHECKING:
    from .._typing.backends import TypedPostgresql, TypedSqlite
else:
    TypedPostgresql = TypedSqlite = AsyncDatabase


class AsyncSqliteDatabase(TypedSqlite, peewee.SqliteDatabase):
    """SQLite through sqlite3.

    For a file, unless you say otherwise: WAL with `synchronous=NORMAL`, if the file can be
    switched to it, and `BEGIN IMMEDIATE` for the outermost transaction; writers of this process
    queue, first come first served, so they never see "database is locked". `:memory:` is one worker, and one
    database for each event loop.
    """


class AsyncPostgresqlDatabase(TypedPostgresql, peewee.PostgresqlDatabase):
    """PostgreSQL through psycopg2, or through psycopg with `prefer_psycopg3=True`."""


class AsyncMySQLDatabase(AsyncDatabase, peewee.MySQLDatabase):
    """MySQL and MariaDB through the driver that Peewee finds: PyMySQL or mysqlclient."""


if TYPE_CHECKING:
    from .._typing.proxy import TypedProxy
else:

    class TypedProxy(Blocks, peewee.DatabaseProxy):
        """Peewee's proxy, with our blocks in the place of its plain ones."""


class AsyncDatabaseProxy(TypedProxy):
    """Stand for an asynchronous database that is chosen later.

        proxy = AsyncDatabaseProxy()        # Meta.database = proxy, @proxy.atomic()
        proxy.initialize(AsyncSqliteDatabase("app.db"))
        async with proxy: ...               # and whatever else the database can do

    Before `initialize()` models and decorators can be made of it; use raises ConfigurationError.
    """

    def __getattr__(self, name: str) -> Any:
        # Names with an underscore are asked for by copy, debuggers and the like.
        if not name.startswith("_"):
            self._require(name)
        return super().__getattr__(name)

    def _require(self, name: str) -> Any:
        if self.obj is None:
            raise ConfigurationError(
                f"the database proxy stands for nothing yet, and {name} was asked of it; "
                "write first: proxy.initialize(AsyncSqliteDatabase(...))"
            )
        return self.obj

    async def __aenter__(self) -> Self:
        """Open the pool of the database, as `async with` of the database itself does."""
        await self._require("async with").__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.obj.__aexit__(kind, error, trace)

    @property
    def Model(self) -> Any:  # noqa: N802  # Peewee's name
        """The base class of models on this proxy."""
        if not hasattr(self, "_Model"):
            self._Model = type("BaseModel", (AsyncModel,), {"Meta": type("Meta", (), {"database": self})})
        return self._Model
