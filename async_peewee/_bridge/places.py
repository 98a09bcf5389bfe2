"""Where code runs: on a loop's thread, which must not block, on a worker, or on any other thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import peewee

from .._errors import BlockingCallError
from .._eventloops import running_key
from .._pool.worker import here


def current_connection(database: Any) -> Any:
    """Return the driver of the worker whose thread this is, None on another thread or database."""
    worker = here.worker
    if isinstance(database, peewee.Proxy):
        database = database.obj
    return worker.connection if worker is not None and worker.database is database else None


_sync_allowed: ContextVar[bool] = ContextVar("async_peewee_sync_allowed", default=False)


def on_loop_thread() -> bool:
    """Return True where blocking would stop an event loop, and nobody has allowed it."""
    return here.worker is None and running_key() is not None and not _sync_allowed.get()


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
