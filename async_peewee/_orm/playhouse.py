"""The asynchronous classes of playhouse's databases, each made when it is first asked for."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from .._bridge.calls import refuse_async
from .._drivers.base import Versions
from .database import AsyncDatabase


class Retrying:
    """CockroachDB's transactions that run again, in asynchronous form."""

    def run_transaction(
        self,
        cb: Callable[[Any], Any],
        max_attempts: Any = None,
        system_time: Any = None,
        priority: Any = None,
    ) -> Any:
        """Run a function in a transaction, again whenever the database could not serialize it.

            db.run_transaction(transfer)   ->   await db.run_transaction(transfer)

        The function is plain, takes the database, and runs whole on a worker, in one hop; its
        result is returned. Raises playhouse's ExceededMaxAttempts after `max_attempts` (no
        limit without). Cancellation interrupts the statement that runs and rolls back.
        """
        refuse_async(cb, "db.run_transaction()")
        return super().run_transaction(cb, max_attempts, system_time, priority)  # type: ignore[misc]

    def retry_transaction(
        self, max_attempts: Any = None, system_time: Any = None, priority: Any = None
    ) -> Callable[[Callable[[Any], Any]], Callable[[], Any]]:
        """Decorate such a function; the call that it becomes is awaited."""

        def decorate(function: Callable[[Any], Any]) -> Callable[[], Any]:
            refuse_async(function, "db.retry_transaction()")

            @functools.wraps(function)
            def run() -> Any:
                return self.run_transaction(function, max_attempts, system_time, priority)

            return run

        return decorate


class Rekeying:
    """SQLCipher's change of the key, which the other connections of the pool must learn of."""

    versions: Versions

    def rekey(self, passphrase: str) -> Any:
        """Encrypt the file anew; connections with the old key are replaced before their next call.

            db.rekey(new)   ->   await db.rekey(new)

        It queues with the writers. Blocks that other tasks are in keep the old key, and fail.
        """
        changed = super().rekey(passphrase)  # type: ignore[misc]
        self.versions.connection = object()
        return changed


# Peewee's class, what goes before the mixin, and the package that it needs.
CLASSES: dict[str, tuple[str, str, tuple[type, ...], str]] = {
    "AsyncAPSWDatabase": ("playhouse.apsw_ext", "APSWDatabase", (), "apsw"),
    "AsyncCockroachDatabase": ("playhouse.cockroachdb", "CockroachDatabase", (Retrying,), "psycopg2-binary"),
    "AsyncCySqliteDatabase": ("playhouse.cysqlite_ext", "CySqliteDatabase", (), "cysqlite"),
    "AsyncMariaDBConnectorDatabase": ("playhouse.mysql_ext", "MariaDBConnectorDatabase", (), "mariadb"),
    "AsyncMySQLConnectorDatabase": (
        "playhouse.mysql_ext",
        "MySQLConnectorDatabase",
        (),
        "mysql-connector-python",
    ),
    "AsyncSqlCipherDatabase": (
        "playhouse.sqlcipher_ext",
        "SqlCipherDatabase",
        (Rekeying,),
        "sqlcipher3-wheels",
    ),
}


@functools.cache
def optional_class(name: str) -> Any:
    """Return one of the classes above; importing its driver happens here and not before.

    Raises AttributeError for another name, and ImportError if the driver is not installed.
    """
    if name not in CLASSES:
        raise AttributeError(f"module 'async_peewee' has no attribute {name!r}")
    module, base, before, package = CLASSES[name]
    try:
        peewee_class = getattr(importlib.import_module(module), base)
    except ImportError as error:
        raise ImportError(f"{name} needs the package {package}, which is not installed") from error
    doc = f"{base} of {module}, asynchronous. Takes its arguments, and the settings of the pool."
    bases = (*before, AsyncDatabase, peewee_class)
    return type(name, bases, {"__module__": "async_peewee", "__doc__": doc})
