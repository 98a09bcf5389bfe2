"""Where code runs: on a loop's thread, which must not block, on a worker, or on any other thread."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from types import FrameType
from typing import Any

import peewee

from .._errors import BlockingCallError
from .._eventloops import current_task, running_key
from .._pool.worker import Worker, here


class Place(Enum):
    """Where code runs, as seen by one database."""

    LOOP = "a thread that runs an event loop, and must not block"
    WORKER = "one of the database's own workers"
    VISITOR = "a worker of another database"
    THREAD = "any other thread, where Peewee works as ever"


# Who may block an event loop at present: the tasks that are inside allow_sync(), or the loop whose callback
# is. No context variable: what is begun inside would inherit it, and block for the rest of its life.
_permitted: list[weakref.ReferenceType[Any]] = []


def place(database: Any) -> Place:
    """Return where this code runs, as seen by a database."""
    if here.worker is not None:
        return Place.WORKER if worker_of(database) is not None else Place.VISITOR
    return Place.LOOP if on_loop_thread() else Place.THREAD


def on_loop_thread() -> bool:
    """Return True where blocking would stop an event loop, and nobody has allowed it."""
    if here.worker is not None or (key := running_key()) is None:
        return False
    return not _permitted or not _may_block(key)


def _may_block(key: Any) -> bool:
    owner = current_task(key) or key
    return any(reference() is owner for reference in tuple(_permitted))


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
    """Let this task's calls block: inside, dual methods are Peewee's own.

    Not those of tasks and callbacks that are begun inside.
    """
    key = running_key()
    if key is None:  # where no loop runs, all may block
        yield
        return
    permission = weakref.ref(current_task(key) or key)
    _permitted.append(permission)
    try:
        yield
    finally:
        _permitted.remove(permission)


def refuse_loop_on_worker(what: str) -> None:
    """Raise BlockingCallError on an event loop that was started on a worker's thread."""
    if here.worker is not None and running_key() is not None:
        raise BlockingCallError.of_loop_on_worker(what)
