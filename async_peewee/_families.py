"""Families: what the databases of one kind need around Peewee's own class, and which drivers they have."""

from __future__ import annotations

import os
import re
import time
from typing import Any

import peewee

from ._connecting import check_url
from ._driver import ConnectionDriver
from ._drivers_mysql import MariaDBConnectorDriver, MySQLConnectorDriver, MySQLDriver
from ._drivers_postgresql import CockroachPsycopg2Driver, Psycopg2Driver, Psycopg3Driver
from ._drivers_sqlite import APSWDriver, CySqliteDriver, SqliteDriver
from ._errors import ConfigurationError, PoolTimeout
from ._gate import gate_for
from ._worker import Worker

DriverClass = type[ConnectionDriver]


class Family:
    """What a database of one kind needs; by itself, of one that needs nothing more."""

    def __init__(self, database: Any, drivers: tuple[DriverClass, ...]) -> None:
        self.database = database
        self._drivers = drivers

    def check_target(self, target: Any) -> Any:
        """Return what Peewee's init() is to be given as the database; refuse what is not valid."""
        return target

    def prepare(self) -> None:
        """Set the defaults, when Peewee's init() has read the arguments."""

    def make_driver(self) -> ConnectionDriver:
        return self._drivers[0](self.database, self.database.contexts.settings)

    def begin_writes(self, *args: Any, **kwargs: Any) -> bool:
        """Return True if a transaction begun so is a writer from its first moment."""
        return False

    def may_write(self, sql: str) -> bool:
        """Return True if a statement has to pass the write gate first."""
        return False

    def enter_gate(self, worker: Worker) -> None:
        """Hold the write gate until the job or its transaction ends."""


class SqliteFamily(Family):
    """SQLite: one writer at a time in a file, and a `:memory:` that is one connection."""

    is_memory = False
    _is_file = False

    def check_target(self, target: Any) -> Any:
        self.is_memory = _is_memory(target)
        self._is_file = bool(target) and not self.is_memory and not _is_read_only(target)
        return target

    def prepare(self) -> None:
        contexts = self.database.contexts
        if self._is_file:
            self._set_file_defaults()
        elif self.is_memory:
            contexts.settings = contexts.settings.for_one_worker()

    def _set_file_defaults(self) -> None:
        database = self.database
        path = str(database.database).removeprefix("file:").partition("?")[0]
        database.contexts.gate = gate_for(os.path.realpath(path))
        given = {key.lower() for key, _ in database._pragmas}
        defaults = [("journal_mode", "wal"), ("synchronous", "normal")]
        database._pragmas = [pair for pair in defaults if pair[0] not in given] + list(database._pragmas)
        database._lock_type = database._lock_type or "IMMEDIATE"

    def begin_writes(self, lock_type: str | None = None) -> bool:
        chosen = lock_type or self.database._lock_type or "DEFERRED"
        return self._is_file and chosen.upper() in ("IMMEDIATE", "EXCLUSIVE")

    def may_write(self, sql: str) -> bool:
        return self._is_file and _may_write(sql)

    def enter_gate(self, worker: Worker) -> None:
        contexts = self.database.contexts
        contexts.note_writer(worker)
        timeout = contexts.settings.acquire_timeout
        if not worker.enter_gate(contexts.gate, timeout):
            raise PoolTimeout(
                f"the write lock of {contexts.name} did not become free within {timeout:g} s, "
                f"held by: {contexts.gate.describe(time.monotonic())}. A child task is outside its parent's "
                "transaction; hand it over with db.share_connection()"
            )


class PostgresqlFamily(Family):
    """PostgreSQL through psycopg2 or psycopg, whichever Peewee's adapter is for."""

    def check_target(self, target: Any) -> Any:
        if "://" not in str(target):
            return target
        # libpq takes both spellings, Peewee knows the longer one only.
        url = re.sub("^postgres://", "postgresql://", str(target))
        check_url(url, "postgresql")
        return url

    def make_driver(self) -> ConnectionDriver:
        with_psycopg2, with_psycopg3 = self._drivers
        uses_psycopg3 = isinstance(self.database._adapter, peewee.Psycopg3Adapter)
        driver = with_psycopg3 if uses_psycopg3 else with_psycopg2
        return driver(self.database, self.database.contexts.settings)


class MySQLConnectorFamily(Family):
    """MySQL Connector, in pure Python unless the user says otherwise."""

    def prepare(self) -> None:
        self.database.connect_params.setdefault("use_pure", True)


# By name, so that no driver is imported that the program does not use. The first class of a
# database's bases that is here decides.
FAMILIES: dict[str, tuple[type[Family], tuple[DriverClass, ...]]] = {
    "playhouse.apsw_ext.APSWDatabase": (SqliteFamily, (APSWDriver,)),
    "playhouse.cysqlite_ext.CySqliteDatabase": (SqliteFamily, (CySqliteDriver,)),
    "peewee.SqliteDatabase": (SqliteFamily, (SqliteDriver,)),
    "playhouse.cockroachdb.CockroachDatabase": (PostgresqlFamily, (CockroachPsycopg2Driver, Psycopg3Driver)),
    "peewee.PostgresqlDatabase": (PostgresqlFamily, (Psycopg2Driver, Psycopg3Driver)),
    "playhouse.mysql_ext.MySQLConnectorDatabase": (MySQLConnectorFamily, (MySQLConnectorDriver,)),
    "playhouse.mysql_ext.MariaDBConnectorDatabase": (Family, (MariaDBConnectorDriver,)),
    "peewee.MySQLDatabase": (Family, (MySQLDriver,)),
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


def family_of(database: Any) -> Family:
    """Return the family of a database object, by Peewee's class among its bases."""
    found = _find(type(database))
    if found is None:
        raise ConfigurationError(
            f"{type(database).__name__} has no Peewee database class among its bases; write: "
            "class MyDatabase(AsyncDatabase, SqliteDatabase)"
        )
    family, drivers = found
    return family(database, drivers)


def _find(cls: type) -> tuple[type[Family], tuple[DriverClass, ...]] | None:
    return next((FAMILIES[_name(base)] for base in cls.__mro__ if _name(base) in FAMILIES), None)


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _is_memory(database: Any) -> bool:
    """Return True for a database that exists on one connection only, and with it."""
    name = ":memory:" if database == "" else str(database)
    return name == ":memory:" or "mode=memory" in name or name.startswith("file::memory:")


def _is_read_only(database: Any) -> bool:
    return "mode=ro" in str(database) or "immutable=1" in str(database)


def _may_write(sql: str) -> bool:
    word = sql.lstrip()[:8].upper()
    if word.startswith(("SELECT", "PRAGMA", "EXPLAIN", "SAVEPOIN", "ROLLBACK", "RELEASE")):
        return False
    # A WITH may stand before any statement; one too many in the queue does no harm.
    return not word.startswith("WITH") or not _READS.match(sql)


# A WITH statement with none of these words in it only reads.
_READS = re.compile(r"(?!.*\b(insert|update|delete|replace)\b)", re.IGNORECASE | re.DOTALL)
