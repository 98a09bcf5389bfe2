"""Cancel a call in every way that the running library has. Each way says whether the call was cancelled."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import anyio

Call = Callable[[], Awaitable[object]]
Way = Callable[[Call, float], Awaitable[bool]]


def ways() -> list[Way]:
    """Return all of them; each takes a call, and after how many seconds it is cancelled."""
    both: list[Way] = [by_scope, by_group]
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return both
    return [*both, by_task_cancel, by_two_cancels, by_wait_for, *([by_timeout] if has_timeout else [])]


has_timeout = sys.version_info >= (3, 11)


async def by_scope(call: Call, after: float) -> bool:
    with anyio.move_on_after(after) as scope:
        await call()
    return scope.cancelled_caught


async def by_group(call: Call, after: float) -> bool:
    """Cancel the group whose task makes the call."""
    is_done = False

    async def make() -> None:
        nonlocal is_done
        await call()
        is_done = True
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(make)
        await anyio.sleep(after)
        group.cancel_scope.cancel()
    return not is_done


async def by_task_cancel(call: Call, after: float, times: int = 1) -> bool:
    task = asyncio.ensure_future(call())
    await asyncio.wait([task], timeout=after)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def by_two_cancels(call: Call, after: float) -> bool:
    return await by_task_cancel(call, after, times=2)


async def by_wait_for(call: Call, after: float) -> bool:
    try:
        await asyncio.wait_for(call(), after)
    except asyncio.TimeoutError:
        return True
    return False


async def by_timeout(call: Call, after: float) -> bool:
    try:
        async with asyncio.timeout(after):
            await call()
    except TimeoutError:
        return True
    return False
