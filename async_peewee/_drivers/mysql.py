"""MySQL's and MariaDB's drivers: PyMySQL and mysqlclient, MySQL Connector, MariaDB Connector."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import Any

import peewee

from .._pool.connection import close_quietly
from .base import Backend
from .codes import number_of
from .connecting import keep_alive
from .functions import may_call_unknown
from .sockets import SIDE_CONNECT_TIMEOUT, SocketConnection

# The server's word for "in a transaction", in the status that comes with every answer.
IN_TRANSACTION = 1


# What changes a MySQL session, wherever it stands, and what does not as the first word.
MYSQL_TRACES = re.compile(r":=|\binto\s+@|\bcreate\s+(or\s+replace\s+)?temporary", re.IGNORECASE)


MYSQL_HARMLESS = re.compile(
    r"\s*(select|insert|update|delete|replace|with|show|explain|describe|savepoint|"
    r"release|kill|alter|create|drop|truncate|analyze)\b",
    re.IGNORECASE,
)


# What all drivers say when the server has gone away, or the connection in the middle of a query; and
# the server's own word that it has ended the session: killed, or idle for too long.
GONE = (2006, 2013, 2055, 1927, 4031)


# What one says that takes no writes any more, is no part of its cluster, or is going to end.
CHANGED = (1047, 1053, 1290, 1792, 1836, 1874, 3032)


# What the server says when it has rolled back the whole transaction: a deadlock.
ROLLED_BACK = (1213,)


# What it says when it may have: a record that has changed since the snapshot was taken (MariaDB's
# innodb_snapshot_isolation), a wait for a lock that was too long (innodb_rollback_on_timeout).
PERHAPS_ROLLED_BACK = (1020, 1205)


# What tells a session from one of the same id at another server, or at the same one before or after:
# where the server says that it is, and from which address and port the session comes. It takes no
# privilege, for one may always see one's own.
IDENTITY = (
    "SELECT @@hostname, @@port, @@server_id, @@datadir, user, host "
    "FROM information_schema.processlist WHERE id = {}"
)


# How many side connections one interrupt makes: a balancer may lead the first ones to other servers.
SIDE_CONNECTIONS = 3


def identity_of(session: int, cursor: Any) -> Any:
    """Return what the cursor's server tells of a session with this id; None if it has none."""
    cursor.execute(IDENTITY.format(session))
    rows = cursor.fetchall()
    return tuple(rows[0]) if rows else None


def kill_query(session: int, cursor: Any) -> None:
    """Have the server stop what a session runs; TimeoutError means that it may still do so."""
    try:
        cursor.execute(f"KILL QUERY {session}")
    except Exception as error:
        if number_of(error) in GONE:
            raise TimeoutError("the server does not answer a KILL QUERY") from error
        raise


class MySQLConnection(SocketConnection):
    """PyMySQL and mysqlclient: interrupts by KILL QUERY over a side connection."""

    # The session's id, and what tells it from those of the same id at other servers.
    _session: tuple[int, Any] = (0, None)

    def connected(self) -> None:
        super().connected()
        # Noted now: mysqlclient refuses to be asked by another thread.
        session = self.session_id()
        identity = None
        try:
            identity = identity_of(session, self.dbapi_connection.cursor())
        except Exception as error:  # not every proxy in front of servers can tell
            self._note_number(error)
        self._session = session, identity

    def session_id(self) -> int:
        return int(self.dbapi_connection.thread_id())

    def fileno(self) -> int:
        return self.descriptor_of(self.dbapi_connection)

    @staticmethod
    def descriptor_of(connection: Any) -> int:
        """Return the descriptor of a connection's socket."""
        own = getattr(connection, "fileno", None)
        return int(own() if own is not None else connection._sock.fileno())

    def has_gone(self, error: Exception) -> bool:
        # mysqlclient goes on to call a connection open that has gone away.
        self._note_number(error)
        return self.is_lost()

    def _note_number(self, error: BaseException) -> None:
        self._has_gone = self._has_gone or number_of(error) in GONE

    def note_error(self, error: peewee.PeeweeException) -> None:
        code = number_of(error)
        self._note_number(error)
        if code in CHANGED:
            self.replace_later()
        # No status comes with an error, so what the last answer said is not true any more.
        if self.state["transactions"] and not self.dead:
            self.dead = code in ROLLED_BACK or (
                code in PERHAPS_ROLLED_BACK
                and self.in_transaction()
                and not self.is_in_transaction_for_sure()
            )

    def is_lost(self) -> bool:
        return self._has_gone or not getattr(self.dbapi_connection, "open", True)

    def changes_session(self, sql: str, is_generated: bool) -> bool:
        is_harmless = is_generated or MYSQL_HARMLESS.match(sql)
        return not is_harmless or bool(MYSQL_TRACES.search(sql)) or may_call_unknown(sql)

    def in_transaction(self) -> bool:
        if self.state["closed"] or self.is_lost():
            return False
        return self.is_in_transaction()

    def is_in_transaction_for_sure(self) -> bool:
        if self.in_transaction():
            with contextlib.suppress(Exception), self.within_grace("the question for its transaction"):
                return self.asked_for_transaction()
        return self.in_transaction()

    def asked_for_transaction(self) -> bool:
        """Return True while a transaction is open, after a round trip or two."""
        # No status comes with an error, so that of the last answer may be of a transaction which the
        # server has rolled back since. The answer to this one has it, unlike that to a SELECT.
        cursor = self.dbapi_connection.cursor()
        cursor.execute("DO 0")
        if self.tells_transaction():
            return self.in_transaction()
        cursor.execute("SELECT @@in_transaction")  # MariaDB's; MySQL has no such variable
        return bool(cursor.fetchone()[0])

    def tells_transaction(self) -> bool:
        """Return True if the driver knows whether a transaction is open: mysqlclient does not."""
        return hasattr(self.dbapi_connection, "server_status")

    def has_lost_transaction(self) -> bool:
        # CREATE TABLE and the like commit, and the block goes on without a transaction, as in
        # Peewee. What the server rolls back by itself comes with an error: see note_error().
        return self.is_lost()

    def is_in_transaction(self) -> bool:
        if self.tells_transaction():
            return bool(self.dbapi_connection.server_status & IN_TRANSACTION)
        return bool(self.state["transactions"])  # Peewee's own count has to do

    def stream_cursor(self, is_alone: bool) -> Any:
        # The protocol has no room for another statement while rows are under way. Inside a
        # block, where there may be one, all rows are fetched at once.
        return (
            self.dbapi_connection.cursor(self._unbuffered()) if is_alone else self.dbapi_connection.cursor()
        )

    def _unbuffered(self) -> Any:
        return self._module().cursors.SSCursor

    def _module(self) -> Any:
        """Return the driver that made the connection: what Peewee has found, or the class's own."""
        return sys.modules[type(self.dbapi_connection).__module__.partition(".")[0]]

    def drop_stream(self, cursor: Any) -> None:
        if not isinstance(cursor, self._unbuffered()):
            cursor.close()
            return
        # Closing it reads all the rows that are left, so the server is told to send no more.
        # That may come too late and meet the next statement: let it be one of ours.
        self.interrupt()
        with contextlib.suppress(Exception):
            cursor.close()
        if not self.answers() and not self.answers():
            self._discard()

    def abandon_stream(self, cursor: Any) -> None:
        # Else PyMySQL would read what is left of the rows, from a connection that is closed,
        # when the garbage collector gets to the cursor and to its result.
        cursor.connection = None
        if getattr(cursor, "_result", None) is not None:
            cursor._result.unbuffered_active = False

    def stop_statement(self) -> None:
        session, identity = self._session
        bounds = dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), SIDE_CONNECT_TIMEOUT)
        parameters = {**self.database.connect_params, **bounds}
        for _ in range(SIDE_CONNECTIONS if identity else 0):
            with contextlib.closing(self._module().connect(**parameters)) as side:
                cursor = side.cursor()
                if identity_of(session, cursor) == identity:
                    kill_query(session, cursor)
                    return
        raise OSError("no side connection has led to the same session")


class BufferingConnection(MySQLConnection):
    """What both connectors have in common: an argument says whether a cursor fetches all rows."""

    _unread: Any = None

    def stream_cursor(self, is_alone: bool) -> Any:
        cursor = self.dbapi_connection.cursor(buffered=not is_alone)
        self._unread = cursor if is_alone else None
        return cursor

    def drop_stream(self, cursor: Any) -> None:
        if cursor is not self._unread:
            cursor.close()
            return
        # As in MySQLConnection: the server is told to send no more, and what it sent is read.
        self._unread = None
        self.interrupt()
        with contextlib.suppress(Exception):
            self.skip_rest()
        with contextlib.suppress(Exception):
            cursor.close()
        if not self.answers() and not self.answers():
            self._discard()

    def abandon_stream(self, cursor: Any) -> None:
        close_quietly(cursor.close)

    def skip_rest(self) -> None:
        """Read the rows that are under way, where closing the cursor does not."""


class MySQLConnectorConnection(BufferingConnection):
    """MySQL Connector/Python without its C extension, which hides the socket."""

    def _module(self) -> Any:
        return sys.modules["mysql.connector"]

    def session_id(self) -> int:
        return int(self.dbapi_connection.connection_id)

    @staticmethod
    def descriptor_of(connection: Any) -> int:
        return int(connection._socket.sock.fileno())

    def is_lost(self) -> bool:
        sock = getattr(self.dbapi_connection._socket, "sock", None)
        return self._has_gone or sock is None or sock.fileno() < 0

    def tells_transaction(self) -> bool:
        return True

    def is_in_transaction(self) -> bool:
        return bool(self.dbapi_connection.in_transaction)

    def skip_rest(self) -> None:
        self.dbapi_connection.consume_results()


class MariaDBConnectorConnection(BufferingConnection):
    """MariaDB Connector/Python; its `open` is a round trip, and its `socket` would be closed twice."""

    def session_id(self) -> int:
        return int(self.dbapi_connection.thread_id)

    @staticmethod
    def descriptor_of(connection: Any) -> int:
        return int(connection._get_socket())

    def is_lost(self) -> bool:
        return self._has_gone or bool(self.dbapi_connection._closed)


class MySQLBackend(Backend):
    """MySQL and MariaDB, whose drivers have no parameters for a peer that vanishes."""

    def set_defaults(self, connection: Any) -> None:
        driver: Any = self._drivers[0]
        # What a class of the user's connects to may be no driver's own connection.
        with contextlib.suppress(AttributeError, OSError):
            keep_alive(driver.descriptor_of(connection))


class MySQLConnectorBackend(MySQLBackend):
    """MySQL Connector, in pure Python unless the user says otherwise."""

    def prepare(self) -> None:
        self.database.connect_params.setdefault("use_pure", True)
