"""The names of playhouse.pwasyncio over this library: a program changes one import, and runs on trio too.

    from playhouse.pwasyncio import AsyncSqliteDatabase
    from async_peewee.pwasyncio import AsyncSqliteDatabase

A name with the prefix is a coroutine function. Its coroutine belongs to the block in which it was made,
whichever task runs it: given to gather() inside a transaction it is inside. docs/pwasyncio.md
lists what differs.
"""

from __future__ import annotations

import asyncio as asyncio  # a program gets it by `import *`, as from pwasyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import peewee
from peewee import *  # noqa: F403

from .. import _public
from .._bridge.calls import call_on_worker, of_its_block
from .._bridge.connections import connections_of
from .._bridge.dual import install_dual, pend_method
from .._errors import BlockingCallError
from .._orm.database import AsyncMySQLDatabase as MySQL
from .._orm.database import AsyncPostgresqlDatabase as PostgreSQL
from .._orm.database import AsyncSqliteDatabase as SQLite
from .._orm.models import MODEL_METHODS, AsyncModelBase
from .._orm.models import AsyncModel as DualModel
from .._orm.queries import make_awaitable
from .._orm.transactions import AsyncAtomic, AsyncSavepoint, AsyncTransaction
from .connections import AsyncConnectionWrapper as AsyncConnectionWrapper
from .connections import HeldConnections
from .greenlets import await_ as await_
from .greenlets import greenlet_spawn as greenlet_spawn

if TYPE_CHECKING:
    from .._typing.pwasyncio import PrefixedModel, PrefixedTransaction
else:
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
    return of_its_block(method)


def _of_query(name: str) -> Callable[..., Any]:
    """Return the coroutine function `db.get(query)` of the dual method `query.get()`."""

    async def method(self: Any, query: Any, **kwargs: Any) -> Any:
        return await getattr(make_awaitable(query), name)(**kwargs)

    method.__name__ = method.__qualname__ = name
    return of_its_block(method)


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

    @of_its_block
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
        connections = connections_of(field.rel_model._meta.database)
        return await call_on_worker(f"{field}", connections, lambda: getattr(self, field.name))


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


class AsyncDatabaseMixin(HeldConnections):
    """Add pwasyncio's names to an asynchronous database."""

    @property
    def Model(self) -> type[AsyncModel]:  # noqa: N802
        """Return the base class of this database's models, the same each time."""
        if not hasattr(self, "_Model"):
            meta = type("Meta", (), {"database": self})
            self._Model: type[AsyncModel] = AsyncModelBase("AsyncBaseModel", (AsyncModel,), {"Meta": meta})
        return self._Model

    if not TYPE_CHECKING:

        @of_its_block
        async def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return await super().run(fn, *args, **kwargs)

        @of_its_block
        async def list(self, query: Any) -> Any:
            """Return the rows of a query, of one with RETURNING too, as a list."""
            return [*await make_awaitable(query).execute()]

        @of_its_block
        async def aexecute(self, query: Any) -> Any:
            """Bind a query to this database and execute it."""
            query.bind(self)
            return await make_awaitable(query).execute()

        @of_its_block
        async def aprefetch(self, query: Any, *subqueries: Any) -> Any:
            """Run a query and those for its related rows; `peewee.prefetch`."""
            return await self.run(peewee.prefetch, query, *subqueries)

        def iterate(self, query: Any, buffer_size: int | None = None) -> Any:
            """Stream the rows of a query; `make_awaitable(query).iterator()`.

            `buffer_size` is accepted and has no effect: the chunks are this library's own.
            """
            query.bind(self)
            return make_awaitable(query).iterator()

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

    def begin(self, isolation_level: Any = None, *, isolation: str | None = None) -> Any:
        # asyncpg's spelling of a block's isolation level: isolation="repeatable_read".
        return super().begin(isolation.replace("_", " ") if isolation else isolation_level)


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


_public.name_module(globals())
