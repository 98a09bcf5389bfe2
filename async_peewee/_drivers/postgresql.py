"""PostgreSQL's drivers: psycopg2 and psycopg."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import peewee

from .._pool.connection import close_quietly
from .base import Backend, WorkerConnection
from .codes import sqlstate_of
from .libpq import BlockingCancelRequest, CancelRequest, cancel_request_of
from .sockets import SIDE_CONNECT_TIMEOUT, SocketConnection
from .urls import check_url

# What changes a PostgreSQL session in a statement that Peewee wrote, in lower case.
POSTGRESQL_TRACES = re.compile(r"set_config|advisory_|^create temp")


# So that a statement whose connection was cut does not go on, and is not committed, on the
# server. From PostgreSQL 14 on, and unless somebody has set it: then there is no row.
WATCH_CLIENT = (
    "SELECT set_config(name, '1s', false) FROM pg_settings "
    "WHERE name = 'client_connection_check_interval' AND source = 'default'"
)


# What a server says that sends its clients away; some poolers pass it on and stay connected.
CHANGED = ("57P01", "57P02", "57P03", "57P04", "57P05")


# A write was refused: by the server, or in a transaction that the user has made so.
READ_ONLY = "25006"


# What tells them apart, as PostgreSQL 14 and later report whenever it changes.
READ_ONLY_SERVER = ("in_hot_standby", "default_transaction_read_only")


class PostgresqlConnection(SocketConnection):
    """What psycopg2 and psycopg have in common."""

    _watches = False
    _adapter: Any = None

    def is_lost(self) -> bool:
        return self._has_gone or bool(self.dbapi_connection.closed)

    def note_error(self, error: peewee.PeeweeException) -> None:
        state = sqlstate_of(error)
        if state in CHANGED or (state == READ_ONLY and self._is_read_only()):
            self.replace_later()

    def _is_read_only(self) -> bool:
        """Return False if sessions of the server are not read-only, so that a new one is no better."""
        status = self.dbapi_connection.info.parameter_status
        return not self.is_lost() and any(status(name) != "off" for name in READ_ONLY_SERVER)

    def changes_session(self, sql: str, is_generated: bool) -> bool:
        # Any other statement may call a function that changes a setting.
        return not is_generated or bool(POSTGRESQL_TRACES.search(sql.lower()))

    def connected(self) -> None:
        super().connected()
        self._adapter = self.database._adapter
        cursor = self.dbapi_connection.cursor()
        with contextlib.suppress(Exception):  # not every platform of a server can do it
            cursor.execute(WATCH_CLIENT)
            self._watches = bool(cursor.fetchall())

    def reset_session(self) -> None:
        self.dbapi_connection.cursor().execute("DISCARD ALL")
        if self._watches:
            self.dbapi_connection.cursor().execute("SET client_connection_check_interval = '1s'")

    def close_doubtful(self, close: Callable[[], None]) -> None:
        # To close a cursor that is no more is an error, which would end the transaction.
        execute = self.dbapi_connection.cursor().execute
        close_quietly(partial(execute, "SAVEPOINT async_peewee"))
        close_quietly(close)
        close_quietly(partial(execute, "ROLLBACK TO async_peewee; RELEASE async_peewee"))

    def in_transaction(self) -> bool:
        if self.state["closed"] or self.is_lost():
            return False
        adapter = self._adapter
        return bool(adapter.txn_status(self.dbapi_connection) not in (adapter.txn_idle, adapter.txn_unknown))


class Psycopg2Connection(PostgresqlConnection):
    """psycopg2: interrupts are libpq's cancel requests, for its own cancel() holds the GIL."""

    _cancel_request: CancelRequest | BlockingCancelRequest | None = None

    def connected(self) -> None:
        super().connected()
        # On this thread, and with all that it takes: no other one looks into libpq's connection. What
        # is built in a way that hides libpq cannot be interrupted, and is cut after the grace period.
        with contextlib.suppress(AttributeError, KeyError, OSError):
            self._cancel_request = cancel_request_of(self.dbapi_connection)

    def stream_cursor(self, is_alone: bool) -> Any:
        # WITH HOLD: psycopg2 refuses any other named cursor on a connection in autocommit
        # mode, which is the mode Peewee uses, inside a transaction too.
        return self.dbapi_connection.cursor(name=uuid.uuid4().hex, withhold=True)

    def reset_session(self) -> None:
        super().reset_session()
        if self.database._encoding:  # Peewee sets it after connecting, and DISCARD ALL unsets it
            self.dbapi_connection.set_client_encoding(self.database._encoding)

    def stop_statement(self) -> None:
        if self._cancel_request is not None:
            self._cancel_request.send(SIDE_CONNECT_TIMEOUT)


class Psycopg3Connection(PostgresqlConnection):
    """psycopg: cancel_safe() is bounded in time and does not hold the GIL."""

    def stream_cursor(self, is_alone: bool) -> Any:
        return self.dbapi_connection.cursor(name=uuid.uuid4().hex, withhold=not self.in_transaction())

    def reset_session(self) -> None:
        # psycopg forgets the statements that it has prepared when it sees a rollback;
        # otherwise it would go on to use what DISCARD ALL has dropped.
        self.dbapi_connection.cursor().execute("BEGIN; ROLLBACK")
        super().reset_session()

    def stop_statement(self) -> None:
        from psycopg.errors import CancellationTimeout

        try:
            self.dbapi_connection.cancel_safe(timeout=SIDE_CONNECT_TIMEOUT)
        except CancellationTimeout as error:
            raise TimeoutError("the server does not answer a cancel request") from error


class PostgresqlBackend(Backend):
    """PostgreSQL through psycopg2 or psycopg, whichever Peewee's adapter is for."""

    def check_target(self, target: Any) -> Any:
        if "://" not in str(target):
            return target
        # libpq takes both spellings, Peewee knows the longer one only.
        url = re.sub("^postgres://", "postgresql://", str(target))
        check_url(url, "postgresql")
        return url

    def make_connection(self) -> WorkerConnection:
        with_psycopg2, with_psycopg3 = self._drivers
        uses_psycopg3 = isinstance(self.database._adapter, peewee.Psycopg3Adapter)
        driver = with_psycopg3 if uses_psycopg3 else with_psycopg2
        return driver(self.database, self.database.connections.pools.settings)
