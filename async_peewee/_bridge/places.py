"""Where code runs: on a loop's thread, which must not block, on a worker, or on any other thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from types import FrameType
from typing import Any

import peewee

from .._errors import BlockingCallError
from .._eventloops import running_key
from .._pool.worker import Worker, here


class Place(Enum):
    """Where code runs, as seen by one database."""

    LOOP = "a thread that runs an event loop, and must not block"
    WORKER = "one of the database's own workers"
    VISITOR = "a worker of another database"
    THREAD = "any other thread, where Peewee works as ever"


_sync_allowed: ContextVar[bool] = ContextVar("async_peewee_sync_allowed", default=False)


def place(database: Any) -> Place:
    """Return where this code runs, as seen by a database."""
    if here.worker is not None:
        return Place.WORKER if worker_of(database) is not None else Place.VISITOR
    return Place.LOOP if on_loop_thread() else Place.THREAD


def on_loop_thread() -> bool:
    """Return True where blocking would stop an event loop, and nobody has allowed it."""
    return here.worker is None and running_key() is not None and not _sync_allowed.get()


def worker_of(database: Any) -> Worker | None:
    """Return the database's worker whose thread this is, None on any other thread."""
    worker = here.worker
    if worker is None:
        return None
    if isinstance(database, peewee.Proxy):
        database = database.obj
    return worker if worker.database_key is database.database_key else None


def current_connection(database: Any) -> Any:
    """Return the connection of the worker whose thread this is, None on another thread or database."""
    worker = worker_of(database)
    return worker.connection if worker is not None else None


def is_peewee(frame: FrameType) -> bool:
    """Return True if the code of a frame is Peewee's own."""
    module = frame.f_globals.get("__name__", "")
    return bool(module == "peewee" or module.startswith("playhouse."))


def guard(what: str, instead: str, *problem: str) -> None:
    """Raise BlockingCallError on a thread that runs an event loop."""
    if on_loop_thread():
        raise BlockingCallError(what, instead, *problem)


@contextmanager
def sync_allowed() -> Iterator[None]:
    """Let this context's calls block: inside, dual methods are Peewee's own."""
    token = _sync_allowed.set(True)
    try:
        yield
    finally:
        _sync_allowed.reset(token)
