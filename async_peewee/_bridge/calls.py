"""Calls: the pending call, and aio()."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import sys
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, ParamSpec, TypeVar, overload

import anyio.lowlevel
import peewee

from .._typing.results import DualValue, Returned
from .connections import Connections, connections_for_function, connections_of, inside
from .detaching import detached
from .entries import Entries, made_here, open_blocks
from .places import on_loop_thread
from .results import make_elsewhere, read_for
from .unawaited import Unawaited, set_attribute

P = ParamSpec("P")


T = TypeVar("T")


class PendingCall(Unawaited, Coroutine[Any, Any, T]):
    """A call that was made and not awaited yet; nothing has happened.

    It is single use, warns when it is dropped, and is a coroutine to asyncio.create_task()
    and gather().
    """

    __slots__ = ("__weakref__", "_begin", "_coroutine", "_label")
    _begin: Callable[[], Coroutine[Any, Any, T]] | None
    _coroutine: Coroutine[Any, Any, T] | None
    _label: str

    def __init__(self, label: str, begin: Callable[[], Coroutine[Any, Any, T]]) -> None:
        set_attribute(self, "_label", label)
        set_attribute(self, "_begin", begin)
        set_attribute(self, "_coroutine", None)

    def _describe(self) -> str:
        return self._label if self._label.endswith(")") else f"{self._label}()"

    @property
    def __name__(self) -> str:
        # trio names what it was given instead of an async function in the error about it.
        return self._describe()

    def _start(self) -> Coroutine[Any, Any, T]:
        begin = self._begin
        if begin is None:
            raise RuntimeError(f"{self._describe()} was awaited already; make the call again")
        set_attribute(self, "_begin", None)
        return begin()

    def __await__(self) -> Generator[Any, Any, T]:
        begin = self._begin
        if begin is None:
            return self._start().__await__()
        set_attribute(self, "_begin", None)
        return begin().__await__()

    def _driven(self) -> Coroutine[Any, Any, T]:
        if self._coroutine is None:
            set_attribute(self, "_coroutine", self._start())
        assert self._coroutine is not None
        return self._coroutine

    def send(self, value: Any) -> Any:
        return self._driven().send(value)

    def throw(self, *error: Any) -> Any:
        return self._driven().throw(*error)

    def close(self) -> None:
        """Drop the call without a warning."""
        set_attribute(self, "_begin", None)
        if self._coroutine is not None:
            self._coroutine.close()

    def __del__(self) -> None:
        if self._begin is not None:
            warnings.warn(
                f"{self._describe()} was never awaited, and nothing was done; "
                f"write: await {self._describe()}",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )


def call_on_worker(
    label: str,
    connections: Connections,
    function: Callable[[], Any],
    *,
    writes: bool | None = None,
    finish: Callable[[Any], bool] | None = None,
    made_in: Entries = (),
) -> DualValue[Any]:
    """Return the pending call of a function on a worker.

    It belongs to the task that makes it: it runs in the connection context that this task
    holds now, whoever awaits it, so that `gather(User.create(...), User.create(...))` inside
    `atomic()` stays inside. If the task holds none, it runs in that of the query or reference which it
    is of: `made_in`. `finish` sees the result on the loop's thread; False: it is a cursor wrapper of
    which a worker has to make more rows first.
    """
    entry = connections.current()
    if entry is None and made_in:
        entry = connections.find(made_in)
    if entry is not None:
        outside = entry.outside
    else:
        outside = connections.outside(label) if open_blocks.get() is not None else None
    begin = partial(connections.call, function, label, entry, writes)
    if outside is not None:
        begin = partial(connections.call_outside, outside.of_call(label), function, label, entry, writes)
    if finish is None:
        return PendingCall(label, begin)  # type: ignore[return-value]
    more = partial(connections.call, label=label, entry=entry)
    return PendingCall(label, partial(_call_and_finish, begin, finish, more))  # type: ignore[return-value]


async def _call_and_finish(
    begin: Callable[[], Coroutine[Any, Any, Any]],
    finish: Callable[[Any], bool],
    more: Callable[..., Coroutine[Any, Any, Any]],
) -> Any:
    result = await begin()
    if not finish(result):
        # Once, it may have been another thread that has kept the interpreter.
        await anyio.lowlevel.checkpoint()
        if not finish(result):
            while not await make_elsewhere(more, partial(read_for, result), math.inf):
                pass
            finish(result)
    return result


def is_async(function: Any) -> bool:
    """Return True for a coroutine function; inspect's own answer takes as long as a small query."""
    code = getattr(function, "__code__", None)
    if code is None:
        return inspect.iscoroutinefunction(function)
    return bool(code.co_flags & inspect.CO_COROUTINE) or hasattr(function, "is_of_its_block")


def of_its_block(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make a coroutine function's coroutines belong to the block in which they are made.

    A coroutine begins in the task that awaits it, which may be a child: `gather(User.acreate())`.
    """

    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        entries = made_here()
        if not entries:
            return function(*args, **kwargs)
        coroutine: Any = _run_inside(entries, partial(function, *args, **kwargs))
        # For what Python says of one that was never awaited.
        coroutine.__name__, coroutine.__qualname__ = function.__name__, function.__qualname__
        return coroutine  # type: ignore[no-any-return]

    make.is_of_its_block = True  # type: ignore[attr-defined]
    _mark_coroutine_function(make)
    return make


if sys.version_info >= (3, 12):
    _mark_coroutine_function = inspect.markcoroutinefunction
else:

    def _mark_coroutine_function(function: Any) -> None:
        """Have asyncio.iscoroutinefunction() return True for it; inspect's own asks the code alone."""
        function._is_coroutine = vars(asyncio.coroutines)["_is_coroutine"]


async def _run_inside(entries: Entries, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with inside(entries):
        return await begin()


def gives_coroutine(function: Any) -> bool:
    """Return True if a call of this would do nothing until it is awaited, which Peewee never does."""
    called = (function, getattr(type(function), "__call__", None))  # noqa: B004
    return any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in called)


def refuse_async(function: Any, what: str, why: str = "which it runs on a worker") -> None:
    """Raise TypeError for a coroutine function where Peewee, or a worker, is to call it."""
    if gives_coroutine(function):
        raise TypeError(f"{what} is for plain functions, {why}; {name_of(function)} is async")


def name_of(function: Any) -> str:
    """Return a function's name, for messages."""
    name = getattr(function, "__qualname__", None)
    return repr(function) if name is None else str(name)


@overload
def aio(value: Awaitable[T], /) -> Coroutine[Any, Any, T]: ...


@overload
def aio(value: Callable[P, Returned[T]], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]: ...


@overload
def aio(
    value: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
) -> Coroutine[Any, Any, T]: ...


@overload
def aio(value: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]: ...


@overload
def aio(value: T, /) -> Coroutine[Any, Any, T]: ...


def aio(value: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
    """Return a coroutine that gives the result of anything.

        tweet = Tweet.get()                 ->  tweet = await aio(Tweet.get())
        report("2026")                      ->  await aio(report, "2026")
        tweet.user                          ->  await aio(tweet.user)

    A pending call or other awaitable is awaited; a query is executed; a callable is called
    on a worker with the arguments, inside the task's transaction if there is one; any other
    value is the result itself. Of several open databases a callable runs on that of the object
    whose method it is, else on the one whose block the task is in, else on that of a model,
    instance, query or database among its arguments. Being a real coroutine, it fits
    asyncio.create_task() and nursery.start_soon(aio, ...). Raises what the call raises, and
    InterfaceError if it cannot tell on which database's worker a callable should run.
    Cancellation is that of the call inside.
    """
    return _settle(_pending(value, args, kwargs))


def _pending(value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if isinstance(value, Unawaited):
        return value
    if isinstance(value, peewee.BaseQuery):
        return _execution(value, *args, **kwargs)
    if inspect.isawaitable(value):
        return value
    if is_async(value):
        return value(*args, **kwargs)
    if callable(value) and not isinstance(value, type):
        name = f"aio({name_of(value)})"
        connections = connections_for_function(value, args, kwargs)
        return call_on_worker(name, connections, detached(value, *args, **kwargs))
    return value


def _execution(query: Any, database: Any = None) -> Any:
    if hasattr(query, "__await__") or not on_loop_thread():
        return query.execute(database)
    # A plain query, as peewee.Table gives it, of an asynchronous database.
    connections = connections_of(database if database is not None else query._database)
    return call_on_worker("query.execute", connections, detached(query.clone().execute, database))


async def _settle(value: Any) -> Any:
    return await value if isinstance(value, Unawaited) or inspect.isawaitable(value) else value


# What Python says of a dropped coroutine: "coroutine 'aio' was never awaited".
_settle.__name__ = _settle.__qualname__ = "aio"
