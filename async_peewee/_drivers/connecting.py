"""Connecting: tried again while the server is away, and never with a password in a message."""

from __future__ import annotations

import errno
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import peewee

from .codes import number_of, sqlstate_of
from .urls import redacted

# When trying again may help. A code decides where there is one; whatever is not here (a wrong
# password, a missing database, a certificate that does not fit) is raised at once.
#
# SQLSTATE, of a statement that sets the connection up: connection lost, too many of them, server ends
# or begins. Errors of connecting itself have none in psycopg2 and psycopg.
TRANSIENT_STATES = ("08000", "08001", "08003", "08006", "53300", "57P01", "57P02", "57P03")


# MySQL: too many connections (1040), of this user (1203, 1226), no part of a cluster (1047), server
# ends (1053), connection killed (1927), server offline (3032), and what the drivers say of a network
# that refuses or breaks (the 2000s), unless they name a cause that stays.
TRANSIENT_NUMBERS = (1040, 1047, 1053, 1203, 1226, 1927, 2002, 2003, 2006, 2013, 2055, 3032)


# What psycopg2, psycopg and libpq say, for want of a code, in English: libpq's own words are
# translated only where the program asks for it, and the server's where it is set up so; then the
# error is raised at once. "No such file" is that of a socket, not of a certificate. Of the session or
# the server being read-only or not it is said only where target_session_attrs asks for something else.
TRANSIENT = re.compile(
    r"refused|starting up|shutting down|not yet accepting|recovery mode|closed the connection|"
    r"reset by peer|broken pipe|EOF detected|timed? ?out|unreachable|(failed|server): No such file|"
    r"Temporary failure in name resolution|"
    r"too many|remaining connection slots|no more connections allowed|try again later|"
    r"session is (not )?read-only|server is (not )?in hot standby|make a writable connection|"
    r"database is locked",
    re.IGNORECASE,
)


# The system's own words are in the language of the program's locale.
TRANSIENT_ERRNOS = (
    errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH,
)  # fmt: skip


# Names of roles, databases, hosts and files, which may be any word.
QUOTED = re.compile(r""" "[^"\n]*" | (?<!\w)'[^'\n]*' """, re.VERBOSE)


def is_transient(error: BaseException) -> bool:
    """Return True if connecting failed in a way that may pass."""
    own = getattr(error, "orig", error)
    if any(stays(cause) for cause in causes_of(own)):
        return False
    if (number := number_of(own)) is not None:
        return number in TRANSIENT_NUMBERS
    if state := sqlstate_of(own):
        return state in TRANSIENT_STATES
    text = QUOTED.sub("", str(error))
    # Of several hosts each has its line, and one that may come back is enough.
    return bool(TRANSIENT.search(text)) or any(os.strerror(each) in text for each in TRANSIENT_ERRNOS)


def stays(cause: BaseException) -> bool:
    """Return True for a certificate that does not fit, and for a host that no name server knows."""
    if isinstance(cause, socket.gaierror):
        return cause.errno != socket.EAI_AGAIN
    return isinstance(cause, ssl.SSLCertVerificationError)


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what has led to it, as Python tells it or the driver does (PyMySQL)."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = getattr(cause, "original_exception", None) or cause.__cause__ or cause.__context__


# Pauses between attempts, in seconds: they double from the first to the longest, and each
# is shortened by chance, so that the workers of a pool do not all knock at once.
FIRST_PAUSE = 0.05


LONGEST_PAUSE = 1.0


# How often a pause looks whether the job was cancelled, in seconds.
POLL = 0.05


# How long one attempt may wait for a server that accepts and says nothing, in seconds: it
# cannot be interrupted, so this is how long a cancelled call may have to wait for it.
ATTEMPT = 5


def connect_patiently(
    database: Any, attempt: Callable[[], None], timeout: float, check: Callable[[], None]
) -> None:
    """Connect this thread, trying for `timeout` seconds while the server is away.

    `attempt` leaves nothing half open behind when it fails. `check` is called in between and
    raises when nobody wants the connection any more. Raises what the driver raised last,
    without any part of a password.
    """
    deadline = time.monotonic() + timeout
    for pause in _pauses():
        try:
            attempt()
            return
        except peewee.PeeweeException as error:
            is_hopeless = not is_transient(error) or time.monotonic() + pause > deadline
            if is_hopeless:
                raise redacted(error, database) from None
        _sleep(pause, check)


def bound_attempts(database: Any, target: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a server's database with a bound for one attempt, if the user set none."""
    has_server = isinstance(database, (peewee.PostgresqlDatabase, peewee.MySQLDatabase))
    is_bound = "connect_timeout" in f"{target} {[*parameters]}" or "PGCONNECT_TIMEOUT" in os.environ
    return {"connect_timeout": ATTEMPT, **parameters} if has_server and not is_bound else parameters


# What notices a peer that has vanished without a word, while a statement runs too: the kernel asks the
# peer's after so many seconds without traffic, then every so many, and gives up after so many seconds
# without an answer. The peer's kernel answers, however long a statement takes.
IDLE, INTERVAL, GIVE_UP = 30, 10, 60


def add_keepalives(database: Any, target: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of libpq's database with those that notice a vanished peer.

    What the user has set stays, and a service file is the user's place for all of them. libpq
    passes over them on a Unix socket.
    """
    if not isinstance(database, peewee.PostgresqlDatabase):
        return parameters
    dsn = parameters.get("dsn") or parameters.get("conninfo")
    given = f"{target} {dsn} {[*parameters]}"
    if "service" in given or "PGSERVICE" in os.environ:
        return parameters
    wanted = {
        "keepalives_idle": IDLE,
        "keepalives_interval": INTERVAL,
        "keepalives_count": (GIVE_UP - IDLE) // INTERVAL,
        "tcp_user_timeout": GIVE_UP * 1000,  # milliseconds
    }
    return {**{name: value for name, value in wanted.items() if name not in given}, **parameters}


# The same for a socket; not every system has each.
OPTIONS = {
    "TCP_KEEPIDLE": IDLE,
    "TCP_KEEPINTVL": INTERVAL,
    "TCP_KEEPCNT": (GIVE_UP - IDLE) // INTERVAL,
    "TCP_USER_TIMEOUT": GIVE_UP * 1000,  # milliseconds
}


def keep_alive(descriptor: int) -> None:
    """Set the same on an open socket, where the driver has no parameters for it; what is shorter stays."""
    # A copy of the descriptor, which is of the same socket: the original stays the driver's.
    with socket.socket(fileno=os.dup(descriptor)) as side:
        if side.family not in (socket.AF_INET, socket.AF_INET6):
            return
        side.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in OPTIONS.items():
            option = getattr(socket, name, None)
            if option is not None and not 0 < side.getsockopt(socket.IPPROTO_TCP, option) < value:
                side.setsockopt(socket.IPPROTO_TCP, option, value)


def connect_once(database: Any, connect: Callable[[], Any]) -> Any:
    """Make one attempt; return the driver's connection.

    PyMySQL's `connect_timeout` ends when the server accepts; its greeting is waited for as for
    any answer, which is without end.
    """
    module: Any = vars(peewee).get("mysql")
    # Not where a class of the user's or playhouse's connects by itself, to another driver.
    is_peewees = getattr(connect, "__func__", None) is peewee.MySQLDatabase.__dict__["_connect"]
    is_pymysql = is_peewees and getattr(module, "__name__", "") == "pymysql"
    if not is_pymysql or "read_timeout" in database.connect_params:
        return connect()
    patience = database.connect_params.get("connect_timeout") or ATTEMPT
    parameters = {**database.connect_params, "read_timeout": patience}
    connection = module.connect(database=database.database, autocommit=True, **parameters)
    connection._read_timeout = None
    return connection


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, LONGEST_PAUSE)


def _sleep(seconds: float, check: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check()
        time.sleep(min(left, POLL))
