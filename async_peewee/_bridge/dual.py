"""The dual wrapper: one name, and the place where it is called decides.

On a thread that runs an event loop a dual method returns a PendingCall; on one of our
workers and on any other thread it is Peewee's own method.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, ParamSpec, TypeVar, overload

import peewee

from .._errors import BlockingCallError
from .._eventloops import running_asyncio, running_key
from .._pool.worker import here
from .._typing.results import DualBool, DualInt, DualList, DualValue
from .._writes import method_writes
from .calls import PendingCall, call_on_worker
from .connections import connections_of
from .detaching import detached
from .places import is_peewee, on_loop_thread

P = ParamSpec("P")


T = TypeVar("T")


# All modules that are imported so far.
loaded = sys.modules


Pend = Callable[[Any, str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def dual(name: str, native: Callable[..., Any], pend: Pend, owner: type | None = None) -> Callable[..., Any]:
    """Return a method that is `native` on a worker or a plain thread, and pending on a loop's.

    The place of the call decides, not that of the attribute's look-up: `db.run(User.create)`
    looks up on the loop and calls on the worker. With an `owner`, what follows it in the order
    of the bases is the method, and `native` only says what it is like.
    """

    def forward(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(owner, self), name)(*args, **kwargs)

    run = native if owner is None else forward

    @functools.wraps(native)
    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        # on_loop_thread() alone would do; the first question spares workers a call, for they come here most.
        if here.worker is None:
            if on_loop_thread():
                refuse_peewee(sys._getframe(1), name, self)
                return pend(self, name, run, args, kwargs)
        elif running_asyncio() is not None or ("trio" in loaded and running_key() is not None):
            raise BlockingCallError.of_loop_on_worker(f"{name}()")
        if owner is None:
            return native(self, *args, **kwargs)
        return getattr(super(owner, self), name)(*args, **kwargs)

    method.is_dual = True  # type: ignore[attr-defined]
    return method


def refuse_peewee(frame: FrameType, name: str, target: Any) -> None:
    """Raise BlockingCallError if a call comes from Peewee's own code.

    That would drop the pending call on the floor: `with db.atomic():` would open no
    transaction, `1 in User` would always be true.
    """
    if not is_peewee(frame):
        return
    awaited = f"await db.{name}(...)" if isinstance(target, peewee.Database) else "the awaited form"
    if frame.f_globals["__name__"] == "playhouse.postgres_ext":  # ServerSide(query)
        awaited = "async for row in query.iterator()"
    elif name == "execute":  # the query of a plain table or model
        awaited = "await aio(query)"
    instead = f"{awaited}, or await db.run(function, ...) for code that calls it"
    raise BlockingCallError(f"Peewee's own call of {name}()", instead)


def install_dual(cls: type, names: Iterable[str], pend: Pend) -> None:
    """Make the methods of these names dual on a class: its own, and what its bases bring undone.

    An own method is wrapped. An inherited one that is not dual (a plain mixin's,
    playhouse.signals', Peewee's) is found by super(), so that diamonds hold.
    """
    for name in names:
        owner = None
        own = cls.__dict__.get(name)
        function = own.__func__ if isinstance(own, classmethod) else own
        if own is None:
            inherited = inspect.getattr_static(cls, name, None)
            if inherited is None or is_dual(inherited):
                continue
            owner = cls
            own, function = inherited, getattr(inherited, "__func__", inherited)
        elif is_dual(own) or not callable(function):
            continue
        elif inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{cls.__name__}.{name} cannot be async: Peewee calls {name}() itself, on a worker. Write it "
                f"as a plain method, which runs there as a whole, and await it as before"
            )
        wrapped = dual(name, function, pend, owner)
        setattr(cls, name, classmethod(wrapped) if isinstance(own, classmethod) else wrapped)


def is_dual(method: Any) -> bool:
    """Return True if the method was made by `dual`."""
    return hasattr(getattr(method, "__func__", method), "is_dual")


def pend_method(
    target: Any, name: str, native: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> PendingCall[Any]:
    """Make the pending call of a model's or instance's method."""
    cls = target if isinstance(target, type) else type(target)
    connections = connections_of(cls._meta.database)  # type: ignore[attr-defined]
    function = detached(native, target, *args, **kwargs)
    return call_on_worker(f"{cls.__name__}.{name}", connections, function, writes=method_writes(name))


def refuse_bind_ctx() -> None:
    """Raise InterfaceError on the loop's thread and on workers, where bind_ctx() would reach other tasks."""
    if on_loop_thread() or here.worker is not None:
        raise peewee.InterfaceError(
            "bind_ctx() binds the models for every task of the process, and another task's row would land in "
            "the wrong database; write: query.execute(database), or db.bind(models) once, at the start"
        )


# The kinds of awaitable result do not fit each other, as int and bool do.
@overload
def blocking(function: Callable[P, bool]) -> Callable[P, DualBool]: ...  # type: ignore[overload-overlap]


@overload
def blocking(function: Callable[P, int]) -> Callable[P, DualInt]: ...  # type: ignore[overload-overlap]


@overload
def blocking(function: Callable[P, list[T]]) -> Callable[P, DualList[T]]: ...  # type: ignore[overload-overlap]


@overload
def blocking(function: Callable[P, T]) -> Callable[P, DualValue[T]]: ...


def blocking(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a model's own synchronous method dual, so that it can be awaited as a whole.

    Without it `def publish(self): self.save(); Log.create()` called on the loop makes two
    pending calls and awaits none.

        class Post(AsyncModel):
            @blocking
            def publish(self): ...       # post.publish()  ->  await post.publish()

    It runs on a worker, inside the task's transaction if there is one, in one hop. What it
    returns or raises arrives; cancellation interrupts the statement that runs.
    """
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"@blocking is for plain functions; {function.__qualname__} is async already")
    return dual(function.__name__, function, pend_method)
