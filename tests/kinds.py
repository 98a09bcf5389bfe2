"""The kinds of databases that tests run on: each driver that can be imported here, and how it is had."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import peewee

import async_peewee
from async_peewee import AsyncDatabase


class Kind(NamedTuple):
    """A driver: the module that it is, its database's family, and the class's name or maker."""

    module: str
    family: str
    database: str
    options: dict[str, Any] = {}  # noqa: RUF012  # never changed


ALL = {
    "sqlite": Kind("sqlite3", "sqlite", "AsyncSqliteDatabase"),
    "apsw": Kind("apsw", "sqlite", "AsyncAPSWDatabase"),
    "cysqlite": Kind("cysqlite", "sqlite", "AsyncCySqliteDatabase"),
    "sqlcipher": Kind("sqlcipher3", "sqlite", "AsyncSqlCipherDatabase", {"passphrase": "open sesame"}),
    "psycopg2": Kind("psycopg2", "postgresql", "AsyncPostgresqlDatabase"),
    "psycopg3": Kind("psycopg", "postgresql", "AsyncPostgresqlDatabase", {"prefer_psycopg3": True}),
    "cockroach2": Kind("psycopg2", "postgresql", "AsyncCockroachDatabase"),
    "cockroach3": Kind("psycopg", "postgresql", "AsyncCockroachDatabase", {"prefer_psycopg3": True}),
    "pymysql": Kind("pymysql", "mysql", "AsyncMySQLDatabase"),
    "mysqlclient": Kind("MySQLdb", "mysql", "AsyncMySQLClientDatabase"),
    "mysqlconnector": Kind(
        "mysql.connector", "mysql", "AsyncMySQLConnectorDatabase", {"collation": "utf8mb4_general_ci"}
    ),
    "mariadbconnector": Kind("mariadb", "mysql", "AsyncMariaDBConnectorDatabase"),
}


def _is_importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False


# mysqlclient and MariaDB Connector have no wheels: they are tested where they have been built.
IMPORTABLE = [name for name, kind in ALL.items() if _is_importable(kind.module)]


class MySQLClientDatabase(peewee.MySQLDatabase):
    """MySQL through mysqlclient: Peewee takes PyMySQL wherever it finds both."""

    def _connect(self) -> Any:
        import MySQLdb

        return MySQLdb.connect(database=self.database, autocommit=True, **self.connect_params)


class AsyncMySQLClientDatabase(AsyncDatabase, MySQLClientDatabase):
    """As a user makes any class of his own asynchronous."""


def class_of(kind: str) -> Any:
    """Return the asynchronous database class of a kind."""
    name = ALL[kind].database
    return globals().get(name) or getattr(async_peewee, name)
