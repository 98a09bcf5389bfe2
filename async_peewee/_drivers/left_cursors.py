"""Cursors that a job has left open, bound to its thread: read elsewhere they say what to write instead."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

from .._errors import BlockingCallError
from .._pool.worker import here

# Set in the flags of a class whose instances may be given another class, and clear.
HEAP_TYPE, IMMUTABLE_TYPE = 1 << 9, 1 << 8


@cache
def replaceable(kind: Any) -> Any:
    """Return a class like a driver's, whose cursors can change it; None if they can already."""
    if kind.__flags__ & HEAP_TYPE and not kind.__flags__ & IMMUTABLE_TYPE:
        return None
    return type(kind.__name__, (kind,), {"__slots__": (), "__module__": kind.__module__})


def refuse_elsewhere(cursor: Any) -> None:
    """Have a cursor that a job has left say what to write when it is read off its worker."""
    kind: Any = type(cursor)
    if cursor is not None and not issubclass(kind, LeftCursor):
        with contextlib.suppress(TypeError):  # of a user's own class, which is laid out differently
            cursor.__class__ = _left(kind)


@cache
def _left(kind: Any) -> Any:
    return type(kind.__name__, (LeftCursor, kind), {"__slots__": (), "__module__": kind.__module__})


class LeftCursor:
    """What is different in a cursor when the job that has opened it is over."""

    __slots__ = ()

    def _check(self) -> None:
        if here.worker is None:
            raise BlockingCallError(
                "reading rows that a function has left on its worker",
                "return list(query), or the rows themselves, from the function",
                "needs the worker's connection",
            )

    def fetchone(self) -> Any:
        self._check()
        return super().fetchone()  # type: ignore[misc]

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        self._check()
        return super().fetchmany(*args, **kwargs)  # type: ignore[misc]

    def fetchall(self) -> Any:
        self._check()
        return super().fetchall()  # type: ignore[misc]

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        self._check()
        return super().__next__()  # type: ignore[misc]
