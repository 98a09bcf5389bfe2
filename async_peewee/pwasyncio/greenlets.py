"""Synchronous functions that wait for the event loop: pwasyncio's greenlet_spawn() and await_()."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, ParamSpec, TypeVar

import anyio
from anyio import from_thread, to_thread

from .._bridge.calls import aio, of_its_block
from .._bridge.connections import Connections
from .._errors import BlockingCallError, Interrupted
from .._pool.worker import Worker, current_worker

P = ParamSpec("P")


T = TypeVar("T")


# How often await_() looks whether the call that it is part of was cancelled, in seconds.
POLL = 0.05


@of_its_block
async def greenlet_spawn(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a synchronous function on a worker, as aio(function) does; it may use await_().

    Raises what the function raises. In a program without a database it runs on a thread of
    its own, and a cancelled task waits for it.
    """
    if Connections.known:
        return await aio(fn, *args, **kwargs)
    call = functools.partial(fn, *args, **kwargs)
    return await to_thread.run_sync(call, limiter=anyio.CapacityLimiter(1))


def await_(awaitable: Awaitable[T]) -> T:
    """Wait, in a function that runs on a worker, for something that runs on the event loop.

    It runs in a task of its own, which does not hold the worker's connection: what it asks
    of the database goes to another one. Raises what it raises, and BlockingCallError on a
    thread that is not a worker. Cancelling the call that the function is part of cancels it.
    """
    worker = current_worker()
    has_begun = False

    async def perform() -> T:
        nonlocal has_begun
        has_begun = True
        return await (awaitable if worker is None else _until_interrupted(awaitable, worker))

    try:
        return from_thread.run(perform)
    except RuntimeError:
        if has_begun:
            raise
        _refuse(awaitable)


async def _until_interrupted(awaitable: Awaitable[T], worker: Worker) -> T:
    outcome: list[T] = []
    error: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_watch, worker, group.cancel_scope)
        try:
            outcome.append(await awaitable)
        except Exception as failure:  # raised below: the group would wrap it in another
            error = failure
        group.cancel_scope.cancel()
    if error is not None:
        raise error
    worker.interrupter.check()
    return outcome[0]


async def _watch(worker: Worker, scope: anyio.CancelScope) -> None:
    while True:
        try:
            worker.interrupter.check()
        except Interrupted:
            scope.cancel()
            return
        await anyio.sleep(POLL)


def _refuse(awaitable: Any) -> NoReturn:
    if inspect.iscoroutine(awaitable):
        awaitable.close()  # or Python would say that it was never awaited
    raise BlockingCallError(
        "await_() outside of a worker",
        "await it, or await db.run(fn) of the function that calls await_(); "
        "await query.aexecute() or await obj.afetch(Model.field) where it stands for a query",
    ) from None
