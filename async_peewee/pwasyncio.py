"""The names of playhouse.pwasyncio over this library: a program changes one import, and runs on trio too.

    from playhouse.pwasyncio import AsyncSqliteDatabase
    from async_peewee.pwasyncio import AsyncSqliteDatabase

A name with the prefix is a coroutine function, so it belongs to the task that runs it: given
to gather() inside a transaction it is outside, as in pwasyncio. docs/pwasyncio.md lists what differs.
"""

from __future__ import annotations

import asyncio as asyncio  # a program gets it by `import *`, as from pwasyncio
import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import anyio
import peewee
from anyio import from_thread, to_thread
from peewee import *  # noqa: F403

from ._calls import aio, call_on_worker, on_loop_thread
from ._contexts import ConnectionContexts, contexts_of
from ._database import CLOSE_TIMEOUT, AsyncDatabase
from ._databases import AsyncMySQLDatabase as MySQL
from ._databases import AsyncPostgresqlDatabase as PostgreSQL
from ._databases import AsyncSqliteDatabase as SQLite
from ._dual import install_dual, pend_method
from ._errors import BlockingCallError
from ._models import MODEL_METHODS, AsyncModelBase
from ._models import AsyncModel as DualModel
from ._pins import current_driver, require_task
from ._queries import adopt
from ._transactions import AsyncAtomic, AsyncConnectionContext, AsyncSavepoint, AsyncTransaction

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._typed_pwasyncio import PrefixedDatabase, PrefixedModel, PrefixedTransaction
else:
    PrefixedDatabase = AsyncDatabase
    PrefixedModel = PrefixedTransaction = object

__all__ = [
    "AsyncConnectionWrapper",
    "AsyncDatabaseMixin",
    "AsyncModel",
    "AsyncModelMixin",
    "AsyncMySQLDatabase",
    "AsyncPostgresqlDatabase",
    "AsyncSqliteDatabase",
    "MissingGreenletBridge",
    "async_atomic",
    "async_savepoint",
    "async_transaction",
    "asyncio",
    "await_",
    "greenlet_spawn",
]
__all__ += peewee.__all__

P = ParamSpec("P")
T = TypeVar("T")

# What pwasyncio raises where a query would block the event loop.
MissingGreenletBridge = BlockingCallError

# The methods that pwasyncio has with an `a` in front, and the helpers that take the query first.
MODEL_NAMES = (
    "create get get_or_none get_by_id get_or_create set_by_id delete_by_id bulk_create bulk_update".split()
)
INSTANCE_NAMES = "save delete_instance".split()
DATABASE_NAMES = "create_tables drop_tables execute_sql".split()
TRANSACTION_NAMES = "commit rollback".split()
QUERY_NAMES = "get first scalar count exists".split()


def _prefixed(name: str) -> Callable[..., Any]:
    """Return the coroutine function `acreate` of the dual method `create`."""

    async def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self, name)(*args, **kwargs)

    method.__name__ = method.__qualname__ = f"a{name}"
    return method


def _of_query(name: str) -> Callable[..., Any]:
    """Return the coroutine function `db.get(query)` of the dual method `query.get()`."""

    async def method(self: Any, query: Any, **kwargs: Any) -> Any:
        return await getattr(adopt(query), name)(**kwargs)

    method.__name__ = method.__qualname__ = name
    return method


# -- the bridge -----------------------------------------------------------------------


async def greenlet_spawn(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a synchronous function on a worker, as aio(function) does; it may use await_().

    In a program without a database it runs on a thread of its own. Raises what the function
    raises. A cancelled task waits for the function.
    """
    if ConnectionContexts.known:
        return await aio(fn, *args, **kwargs)
    call = functools.partial(fn, *args, **kwargs)
    return await to_thread.run_sync(call, limiter=anyio.CapacityLimiter(1))


def await_(awaitable: Awaitable[T]) -> T:
    """Wait, in a function that runs on a worker, for something that runs on the event loop.

    It runs in a task of its own, which does not hold the worker's connection: what it asks
    of the database goes to another one. Raises what it raises, and MissingGreenletBridge on
    a thread that is not a worker.
    """
    has_begun = False

    async def perform() -> T:
        nonlocal has_begun
        has_begun = True
        return await awaitable

    try:
        return from_thread.run(perform)
    except RuntimeError:
        if has_begun:
            raise
        _refuse(awaitable)


def _refuse(awaitable: Any) -> NoReturn:
    if inspect.iscoroutine(awaitable):
        awaitable.close()  # or Python would say that it was never awaited
    raise MissingGreenletBridge(
        "await_() outside of a worker",
        "await it, or await db.run(fn) of the function that calls await_(); "
        "await query.aexecute() or await obj.afetch(Model.field) where it stands for a query",
    ) from None


# -- models ---------------------------------------------------------------------------


class AsyncModelMixin(PrefixedModel):
    """Add the prefixed coroutine functions to a model; its own methods become dual.

        user = User.create(name="Huey")   ->   user = await User.acreate(name="Huey")

    Each runs Peewee's own method on a worker, in one hop, in the task's transaction if there is one.
    Raises InterfaceError if the model has no asynchronous database. Cancellation interrupts the
    statement.
    """

    if not TYPE_CHECKING:

        def __init_subclass__(cls, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            install_dual(cls, MODEL_METHODS, pend_method)

    async def afetch(self, field: Any) -> Any:
        """Return the row a foreign key refers to, loading it if it is not there; None for NULL.

            tweet.user   ->   await tweet.afetch(Tweet.user)

        `field` may be a name too. Raises ValueError if it is not a foreign key, or one with
        lazy_load=False, and KeyError for an unknown name.
        """
        model: Any = type(self)
        field = model._meta.combined[field] if isinstance(field, str) else field
        if not isinstance(field, peewee.ForeignKeyField):
            raise ValueError(f"afetch() takes a foreign key of {model.__name__}, not {field!r}")
        loaded = vars(self)["__rel__"]
        if field.name in loaded:
            return loaded[field.name]
        if not field.lazy_load:
            raise ValueError(
                f"{field} has lazy_load=False; write: await {field.rel_model.__name__}.aget_by_id(...)"
            )
        contexts = contexts_of(field.rel_model._meta.database)
        return await call_on_worker(f"{field}", contexts, lambda: getattr(self, field.name))


class AsyncModel(AsyncModelMixin, DualModel):
    """A model of this library with pwasyncio's names beside Peewee's."""


# -- transactions ---------------------------------------------------------------------


class _PrefixedBlock(PrefixedTransaction):
    """What pwasyncio's blocks have besides Peewee's names: acommit() and arollback()."""


class async_atomic(_PrefixedBlock, AsyncAtomic):  # noqa: N801
    """What db.atomic() returns."""

    if TYPE_CHECKING:

        async def __aenter__(self) -> async_transaction | async_savepoint: ...


class async_transaction(_PrefixedBlock, AsyncTransaction):  # noqa: N801
    """What db.transaction() returns."""


class async_savepoint(_PrefixedBlock, AsyncSavepoint):  # noqa: N801
    """What db.savepoint() returns."""


# -- databases ------------------------------------------------------------------------


class AsyncConnectionWrapper:
    """What aconnect() returns: the task's connection, as far as SQL goes."""

    def __init__(self, db: AsyncDatabaseMixin) -> None:
        self._db = db

    async def execute(self, sql: str, params: Any = None) -> Any:
        """Run SQL; `await db.aexecute_sql(sql, params)`."""
        return await self._db.aexecute_sql(sql, params)


class AsyncDatabaseMixin(PrefixedDatabase):
    """Add pwasyncio's names to an asynchronous database.

    A task gets a connection of its own by aconnect() or `async with db`, and keeps it until
    aclose() or the end of the block. Without, each call takes whichever is free. The pool
    opens by itself, after close_pool() too.
    """

    def __init__(self, database: Any, *args: Any, **kwargs: Any) -> None:
        # By task: the connections that aconnect() has taken.
        self._connected: weakref.WeakKeyDictionary[Any, AsyncConnectionContext] = weakref.WeakKeyDictionary()
        super().__init__(database, *args, **kwargs)

    @property
    def Model(self) -> type[AsyncModel]:  # noqa: N802
        """Return the base class of this database's models, the same each time."""
        if not hasattr(self, "_Model"):
            meta = type("Meta", (), {"database": self})
            self._Model: type[AsyncModel] = AsyncModelBase("AsyncBaseModel", (AsyncModel,), {"Meta": meta})
        return self._Model

    async def aconnect(self) -> AsyncConnectionWrapper:
        """Hold a connection for this task until aclose(); nothing changes if it holds one.

        Raises OperationalError if none is free for `acquire_timeout` seconds, or the database
        cannot be reached.
        """
        if self.contexts.current() is None:
            block = AsyncConnectionContext(self)
            await block.__aenter__()
            self._connected[require_task()] = block
        return AsyncConnectionWrapper(self)

    async def aclose(self) -> None:
        """Give the task's connection back. Raises OperationalError in a transaction."""
        self._check_no_transaction()
        block = self._connected.pop(require_task(), None)
        if block is not None:
            await block.__aexit__(None, None, None)

    def _check_no_transaction(self) -> None:
        if self.in_transaction():
            raise peewee.OperationalError("Attempting to close database while transaction is open.")

    async def close_pool(self) -> None:
        """Close all connections; the next use opens new ones.

        Calls that run have ten seconds, then they are interrupted. Raises OperationalError in
        a transaction of this task.
        """
        await self.aclose()
        await super().close()
        self.contexts.forget_pool()

    async def __aenter__(self) -> Self:
        await self.aconnect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def is_closed(self) -> bool:
        """Return True if the task, or on another thread the thread, holds no connection."""
        return self.contexts.current() is None if on_loop_thread() else super().is_closed()

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
        return current_driver(self) is not None

    if not TYPE_CHECKING:

        async def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return await super().run(fn, *args, **kwargs)

        async def list(self, query: Any) -> Any:
            """Return the rows of a query, of one with RETURNING too, as a list."""
            return [*await adopt(query).execute()]

        async def aexecute(self, query: Any) -> Any:
            """Bind a query to this database and execute it."""
            query.bind(self)
            return await adopt(query).execute()

        async def aprefetch(self, query: Any, *subqueries: Any) -> Any:
            """Run a query and those for its related rows; `peewee.prefetch`."""
            return await self.run(peewee.prefetch, query, *subqueries)

        def iterate(self, query: Any, buffer_size: int | None = None) -> Any:
            """Stream the rows of a query; `adopt(query).iterator()`.

            `buffer_size` is accepted and has no effect: the chunks are this library's own.
            """
            query.bind(self)
            return adopt(query).iterator()

    def atomic(self, *args: Any, **kwargs: Any) -> async_atomic:
        return async_atomic(self, *args, **kwargs)

    def transaction(self, *args: Any, **kwargs: Any) -> async_transaction:
        return async_transaction(self, *args, **kwargs)

    def savepoint(self) -> async_savepoint:
        return async_savepoint(self)


class AsyncSqliteDatabase(AsyncDatabaseMixin, SQLite):
    """SQLite through sqlite3."""


class AsyncPostgresqlDatabase(AsyncDatabaseMixin, PostgreSQL):
    """PostgreSQL through psycopg2, or through psycopg with `prefer_psycopg3=True`."""


class AsyncMySQLDatabase(AsyncDatabaseMixin, MySQL):
    """MySQL and MariaDB through the driver that Peewee finds."""


for _name in MODEL_NAMES:
    setattr(AsyncModelMixin, f"a{_name}", classmethod(_prefixed(_name)))
for _class, _names in [
    (AsyncModelMixin, INSTANCE_NAMES),
    (AsyncDatabaseMixin, DATABASE_NAMES),
    (_PrefixedBlock, TRANSACTION_NAMES),
]:
    for _name in _names:
        setattr(_class, f"a{_name}", _prefixed(_name))
for _name in QUERY_NAMES:
    setattr(AsyncDatabaseMixin, _name, _of_query(_name))
