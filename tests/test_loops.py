"""Parking a task and waking it, on asyncio, uvloop and trio alike."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from typing import Any

import anyio
import pytest

from async_peewee._eventloops import current_task, event_loop, running_key, task_name, wait_to_the_end
from tests.support import in_thread, on_asyncio, on_trio, wait_until

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


async def test_a_thread_wakes_a_parked_task() -> None:
    loop = event_loop(running_key())
    parker = loop.parker()
    threading.Thread(target=lambda: loop.wake(parker.unpark)).start()
    with anyio.fail_after(5):
        await parker.park(lambda: True)


async def test_unparked_before_it_parks_a_task_does_not_wait() -> None:
    parker = event_loop(running_key()).parker()
    parker.unpark()
    with anyio.fail_after(5):
        await parker.park(lambda: True)


@pytest.mark.parametrize("is_over", [True, False])
async def test_a_scope_cancels_a_parked_task_at_once_or_when_the_work_is_done(is_over: bool) -> None:
    """`on_cancel` is asked once; after False the cancellation waits for unpark()."""
    parker = event_loop(running_key()).parker()
    asked: list[str] = []
    steps: list[str] = []

    async def parked(scope: anyio.CancelScope) -> None:
        with scope:
            await parker.park(lambda: (asked.append("asked"), is_over)[1])
        steps.append("back")

    async with anyio.create_task_group() as group:
        scope = anyio.CancelScope()
        group.start_soon(parked, scope)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await wait_until(lambda: asked)
        for _ in range(5):
            await anyio.sleep(0)
        assert steps == (["back"] if is_over else [])
        parker.unpark()
    assert scope.cancelled_caught
    assert (asked, steps) == (["asked"], ["back"])


@on_asyncio
async def test_task_cancel_ends_a_wait_that_may_be_abandoned(anyio_backend: Any) -> None:
    """At once, without a shield or a scope in between."""
    parker = event_loop(running_key()).parker()
    asked: list[str] = []
    task = asyncio.ensure_future(parker.park(lambda: (asked.append("asked"), True)[1]))
    await asyncio.sleep(0)
    task.cancel()
    with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
        await task
    parker.unpark()  # the worker that answers nobody harms nobody
    assert asked == ["asked"]


@on_asyncio
async def test_task_cancel_twice_waits_for_the_work_and_is_not_lost(anyio_backend: Any) -> None:
    """asyncio's own cancel() cannot be shielded from; both are survived, and then raised."""
    parker = event_loop(running_key()).parker()
    asked: list[str] = []
    task = asyncio.ensure_future(parker.park(lambda: (asked.append("asked"), False)[1]))
    await asyncio.sleep(0)
    for _ in range(2):
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
    parker.unpark()
    with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
        await task
    assert asked == ["asked"]


async def cancelled_by_asyncio_timeout(is_over: bool) -> None:
    loop = event_loop(running_key())
    parker, asked = loop.parker(), threading.Event()

    def on_cancel() -> bool:
        asked.set()
        loop.key.call_later(0.01, parker.unpark)
        return is_over

    async with asyncio.timeout(0.01):
        try:
            await parker.park(on_cancel)
        finally:
            assert asked.is_set()


if sys.version_info >= (3, 11):  # not a skip: there is no asyncio.timeout before

    @on_asyncio
    @pytest.mark.parametrize("is_over", [True, False])
    async def test_asyncio_timeout_is_still_a_timeout_after_the_wait(
        anyio_backend: Any, is_over: bool
    ) -> None:
        """It counts cancellations, so none may be added or swallowed."""
        with pytest.raises(TimeoutError):
            await cancelled_by_asyncio_timeout(is_over)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


@on_trio
@pytest.mark.parametrize("is_over", [True, False])
async def test_a_scope_of_trios_own_cancels_a_parked_task(anyio_backend: Any, is_over: bool) -> None:
    import trio

    loop = event_loop(running_key())
    parker, steps = loop.parker(), list[str]()

    def on_cancel() -> bool:
        steps.append("asked")
        threading.Timer(0.02, lambda: (steps.append("done"), loop.wake(parker.unpark))).start()
        return is_over

    with trio.move_on_after(0.01) as scope:
        await parker.park(on_cancel)
    steps.append("back")
    assert scope.cancelled_caught
    with anyio.fail_after(5):
        while len(steps) < 3:
            await anyio.sleep(0.005)
    assert steps == (["asked", "back", "done"] if is_over else ["asked", "done", "back"])


async def test_done_before_the_cancellation_arrives_a_wait_is_not_asked_to_stop() -> None:
    """What has ended cannot be interrupted; the cancellation meets the task later, or here."""
    parker = event_loop(running_key()).parker()
    asked: list[str] = []
    with anyio.CancelScope() as scope:
        parker.unpark()
        scope.cancel()
        await parker.park(lambda: (asked.append("asked"), True)[1])
    assert asked == []


async def test_a_spawned_task_outlives_its_caller_and_does_not_keep_its_context() -> None:
    """Cancelled with its scope, the caller is gone; what it had in its variables is let go."""
    go_on, seen = anyio.Event(), list[str]()
    tenant.set("somebody")

    async def spawned() -> None:
        await go_on.wait()
        seen.append(tenant.get())

    async def caller() -> None:
        event_loop(running_key()).spawn(spawned, "spawned", lambda: None)
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    go_on.set()
    await wait_until(lambda: seen)
    assert seen == ["nobody"]


@on_trio
async def test_a_spawned_task_that_fails_does_not_take_the_run_down(
    anyio_backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """trio ends a run for an error in a system task; ours is logged."""

    async def spawned() -> None:
        raise ValueError("spawned")

    event_loop(running_key()).spawn(spawned, "the task", lambda: None)
    await wait_until(lambda: "the task failed" in caplog.text)


async def test_wait_to_the_end_is_not_cancelled() -> None:
    event = anyio.Event()

    async def set_later() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.05)
            event.set()

    async with anyio.create_task_group() as group:
        group.start_soon(set_later)
        await anyio.sleep(0)
        group.cancel_scope.cancel()
        await wait_to_the_end(event)
        assert event.is_set()


async def test_tasks_and_their_names() -> None:
    names: list[str] = []

    async def named() -> None:
        names.append(task_name(current_task(running_key())))

    async with anyio.create_task_group() as group:
        group.start_soon(named, name="a name")
    assert "a name" in names[0]


@on_asyncio
async def test_wait_to_the_end_withstands_task_cancel(anyio_backend: Any) -> None:
    """Twice; then it returns as if nothing had been."""
    event = anyio.Event()
    task = asyncio.ensure_future(wait_to_the_end(event))
    await asyncio.sleep(0)
    for _ in range(2):
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
    event.set()
    with anyio.fail_after(5):
        await task


async def test_a_thread_without_a_loop_has_no_key() -> None:
    """Even while a loop runs in another thread."""
    assert running_key() is not None
    assert await in_thread(running_key) is None


async def test_an_open_loop_is_open_also_for_other_threads() -> None:
    loop = event_loop(running_key())
    assert not loop.is_closed()
    assert await in_thread(loop.is_closed) is False
    woken = anyio.Event()
    assert await in_thread(loop.wake, woken.set)
    with anyio.fail_after(5):
        await woken.wait()


def test_no_loop_no_key_and_a_closed_loop_cannot_be_woken() -> None:
    assert running_key() is None
    keys: list[Any] = []

    async def main() -> None:
        keys.append(running_key())

    for backend in ("asyncio", "trio"):
        pytest.importorskip(backend)
        anyio.run(main, backend=backend)
        loop = event_loop(keys[-1])
        assert loop.is_closed()
        assert not loop.wake(lambda: None)
