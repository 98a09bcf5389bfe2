"""Connecting: tried again while the server is away, and never with a password in a message."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import peewee

from .urls import _redacted

# What servers and their drivers say when trying again may help. Whatever is not here (a
# wrong password, a missing database) is raised at once.
TRANSIENT = re.compile(
    r"refused|starting up|shutting down|not yet accepting|recovery mode|closed the connection|"
    r"reset by peer|broken pipe|timed? ?out|too many|remaining connection slots|unreachable|"
    r"No such file or directory|can't connect|lost connection|database is locked",
    re.IGNORECASE,
)


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
            is_hopeless = not TRANSIENT.search(str(error)) or time.monotonic() + pause > deadline
            if is_hopeless:
                raise _redacted(error, database) from None
        _sleep(pause, check)


def bound_attempts(database: Any, target: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a server's database with a bound for one attempt, if the user set none."""
    has_server = isinstance(database, (peewee.PostgresqlDatabase, peewee.MySQLDatabase))
    is_bound = "connect_timeout" in f"{target} {[*parameters]}" or "PGCONNECT_TIMEOUT" in os.environ
    return {"connect_timeout": ATTEMPT, **parameters} if has_server and not is_bound else parameters


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
