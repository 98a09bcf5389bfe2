"""Families: what the databases of one kind need around Peewee's own class, and which drivers they have."""

from __future__ import annotations

from typing import Any

import peewee

from .._errors import ConfigurationError
from .base import Backend, ConnectionClass
from .mysql import (
    MariaDBConnectorConnection,
    MySQLBackend,
    MySQLConnection,
    MySQLConnectorBackend,
    MySQLConnectorConnection,
)
from .postgresql import PostgresqlBackend, Psycopg2Connection, Psycopg3Connection
from .sqlite import APSWConnection, CySqliteConnection, SqliteBackend, SqliteConnection

# By name, so that no driver is imported that the program does not use. The first class of a
# database's bases that is here decides.
BACKENDS: dict[str, tuple[type[Backend], tuple[ConnectionClass, ...]]] = {
    "playhouse.apsw_ext.APSWDatabase": (SqliteBackend, (APSWConnection,)),
    "playhouse.cysqlite_ext.CySqliteDatabase": (SqliteBackend, (CySqliteConnection,)),
    "peewee.SqliteDatabase": (SqliteBackend, (SqliteConnection,)),
    "peewee.PostgresqlDatabase": (PostgresqlBackend, (Psycopg2Connection, Psycopg3Connection)),
    "playhouse.mysql_ext.MySQLConnectorDatabase": (MySQLConnectorBackend, (MySQLConnectorConnection,)),
    "playhouse.mysql_ext.MariaDBConnectorDatabase": (MySQLBackend, (MariaDBConnectorConnection,)),
    "peewee.MySQLDatabase": (MySQLBackend, (MySQLConnection,)),
}


# What brings its own idea of connections, and what to write instead.
REFUSED = {
    "playhouse.pool.PooledDatabase": "its pool is not needed, for AsyncDatabase has one: write the class "
    "without Pooled, and pool_size=... for max_connections",
    "playhouse.sqliteq.SqliteQueueDatabase": "its writer thread is not needed, for tasks queue to write: "
    "write SqliteDatabase",
}


def check_class(cls: type, mixin: type) -> None:
    """Raise ConfigurationError for a class that cannot be made asynchronous by the mixin."""
    if not issubclass(cls, peewee.Database):  # a mixin of the user's
        return
    for base in cls.__mro__:
        if _name(base) in REFUSED:
            raise ConfigurationError(
                f"{cls.__name__} cannot be built on {base.__name__}: {REFUSED[_name(base)]}"
            )
    first = next(base for base in cls.__mro__[1:] if issubclass(base, (mixin, peewee.Database)))
    if not issubclass(first, mixin):
        raise ConfigurationError(
            f"{cls.__name__} would block the event loop: AsyncDatabase has to come before "
            f"{first.__name__} among its bases"
        )
    if _find(cls) is None:
        raise ConfigurationError(
            f"{cls.__name__} is none of Peewee's SqliteDatabase, PostgresqlDatabase and MySQLDatabase, and "
            "how to interrupt it is not known"
        )


def backend_of(database: Any) -> Backend:
    """Return the backend of a database object, by Peewee's class among its bases."""
    found = _find(type(database))
    if found is None:
        raise ConfigurationError(
            f"{type(database).__name__} has no Peewee database class among its bases; write: "
            "class MyDatabase(AsyncDatabase, SqliteDatabase)"
        )
    backend, drivers = found
    return backend(database, drivers)


def _find(cls: type) -> tuple[type[Backend], tuple[ConnectionClass, ...]] | None:
    return next((BACKENDS[_name(base)] for base in cls.__mro__ if _name(base) in BACKENDS), None)


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
