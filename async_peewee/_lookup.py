"""Which database a call is for: that of a model or query, or the one that a plain function can only mean."""

from __future__ import annotations

from typing import Any

import peewee

from ._contexts import ConnectionContexts


def context_for_function() -> ConnectionContexts:
    """Choose the database on whose worker a plain function runs, for aio(function).

    The one whose connection the task holds, else the only one open on this loop, else the
    only one there is.
    """
    everyone = list(ConnectionContexts.known)
    held = [contexts for contexts in everyone if contexts.current() is not None]
    is_open = [c for c in everyone if (pool := c.find_pool()) is not None and not pool.is_closed]
    for candidates in (held, is_open, everyone):
        if len(candidates) == 1:
            return candidates[0]
    raise peewee.InterfaceError(
        f"aio(function) cannot tell which of {len(everyone)} databases is meant; "
        "write: await db.run(function, ...)"
    )


def contexts_of(database: Any) -> ConnectionContexts:
    """Return the connection contexts of a database, or of what a proxy stands for."""
    if isinstance(database, peewee.Proxy):
        database = database.obj
    contexts = getattr(database, "contexts", None)
    if isinstance(contexts, ConnectionContexts):
        return contexts
    if database is None:
        raise peewee.InterfaceError("no database is set: give the model's Meta one, or bind the query")
    raise peewee.InterfaceError(
        f"{type(database).__name__} is not an asynchronous database; use AsyncSqliteDatabase, "
        "AsyncPostgresqlDatabase or the AsyncDatabase mixin"
    )
