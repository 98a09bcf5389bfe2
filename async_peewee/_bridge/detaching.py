"""Detaching: what a function returns is made to need no connection any more before it leaves the worker."""

from __future__ import annotations

import datetime
import decimal
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from types import GeneratorType
from typing import Any

import peewee

from .results import BufferedCursor, read_all, read_partly

# What is never lazy, and most of what rows are made of.
PLAIN = frozenset(
    (
        *(type(None), bool, int, float, str, bytes, decimal.Decimal, uuid.UUID),
        *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
    )
)


LAZY = (peewee.CursorWrapper, peewee.ResultIterator, peewee.BaseQuery, GeneratorType)


# So many containers deep a result is looked into.
DEPTH = 8


# After so many containers in a row with nothing lazy in them those that follow are not looked
# into: they may be rows, a hundred thousand.
VAIN = 10


def detach(result: Any) -> Any:
    """Make a result fit to leave the worker: filled if it is lazy, buffered if it is a raw cursor.

    So is what is lazy in lists, tuples, dicts and dataclasses.
    """
    kind = type(result)
    if kind in PLAIN or issubclass(kind, peewee.Model):
        return result
    return Detaching().detach(result, DEPTH)


class Detaching:
    """Detach one result, with what is in it."""

    def __init__(self) -> None:
        self._found = 0
        # What was met, by id, with its detached form: it may be met again, in itself too.
        self._met: dict[int, tuple[Any, Any]] = {}

    def detach(self, value: Any, depth: int) -> Any:
        """Return a value in its detached form: most are the same object."""
        if id(value) in self._met:
            return self._met[id(value)][1]
        self._met[id(value)] = value, value
        detached = value
        if _is_container(type(value)):
            detached = self._detach_inside(value, depth) if depth else value
        elif isinstance(value, LAZY) or _is_raw_cursor(value):
            self._found += 1
            detached = _detach_itself(value)
        if detached is not value:
            self._met[id(value)] = value, detached
        return detached

    def _detach_inside(self, container: Any, depth: int) -> Any:
        values = _values(container)
        if PLAIN.issuperset(map(type, values)):
            return container
        kinds = {kind for kind in set(map(type, values)) if _may_be_lazy(kind)}
        vain, changed = 0, {}
        for position, value in enumerate(values) if kinds else ():
            if type(value) not in kinds:
                continue
            before = self._found
            detached = self.detach(value, depth - 1)
            if detached is not value:
                changed[position] = detached
            vain = vain + 1 if self._found == before else 0
            if vain == VAIN:
                kinds = {kind for kind in kinds if not _is_container(kind)}
            if not kinds:
                break
        return _with(container, changed) if changed else container


def _detach_itself(lazy: Any) -> Any:
    if isinstance(lazy, peewee.CursorWrapper):
        return read_all(lazy)
    if isinstance(lazy, peewee.ResultIterator):
        read_all(lazy.cursor_wrapper)
        return lazy
    if isinstance(lazy, peewee.BaseQuery):
        wrapper = vars(lazy).get("_cursor_wrapper")
        if wrapper is not None:
            read_all(wrapper)
    elif isinstance(lazy, GeneratorType):
        # Peewee's own generators (iterator(), scalars()) read from the connection as they
        # go. One of the user's own may well mean to run on the loop: it has its rows there.
        if lazy.gi_code.co_filename == sys.modules["peewee"].__file__:
            return list(lazy)
        for value in list(lazy.gi_frame.f_locals.values()) if lazy.gi_frame else ():
            if isinstance(value, (peewee.ResultIterator, peewee.CursorWrapper)):
                _detach_itself(value)
    else:
        return BufferedCursor(lazy)
    return lazy


def _is_container(kind: type) -> bool:
    # Of a tuple only what can be made again with other values.
    if kind is tuple or issubclass(kind, (list, dict)):
        return True
    return hasattr(kind, "__dataclass_fields__") or (issubclass(kind, tuple) and hasattr(kind, "_make"))


def _may_be_lazy(kind: type) -> bool:
    if issubclass(kind, peewee.Model):
        return False
    return issubclass(kind, LAZY) or _is_container(kind) or hasattr(kind, "fetchone")


def _keys(container: Any) -> Iterable[Any]:
    return container if isinstance(container, dict) else container.__dataclass_fields__


def _values(container: Any) -> Sequence[Any]:
    if isinstance(container, (list, tuple)):
        return container
    if isinstance(container, dict):
        return list(container.values())  # at once: others may change it meanwhile
    return [getattr(container, name, None) for name in _keys(container)]


def _with(container: Any, changed: dict[int, Any]) -> Any:
    """Put values in the place of others; return the container, of a tuple another one."""
    if isinstance(container, tuple):
        kind: Any = type(container)
        values = [changed.get(position, value) for position, value in enumerate(container)]
        return kind._make(values) if hasattr(kind, "_make") else kind(values)
    keys = list(range(len(container)) if isinstance(container, list) else _keys(container))
    for position, value in changed.items():
        if isinstance(container, (list, dict)):
            container[keys[position]] = value
        else:
            object.__setattr__(container, str(keys[position]), value)  # past the refusal of a frozen one
    return container


def _is_raw_cursor(result: Any) -> bool:
    kind = type(result)
    return hasattr(kind, "fetchone") and hasattr(result, "description") and kind is not BufferedCursor


def detached(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], Any]:
    """Return a call of `function` whose result may leave the worker."""
    return lambda: detach(function(*args, **kwargs))


def detached_partly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], Any]:
    """Return a call of `function` of whose result `read_here()` may have to make the last rows."""

    def call() -> Any:
        result = function(*args, **kwargs)
        return read_partly(result) if isinstance(result, peewee.CursorWrapper) else detach(result)

    return call
