"""All that differs between asyncio and trio: park a task, wake it from a thread, run in the background."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ClassVar, Protocol

import anyio
import anyio.to_thread

logger = logging.getLogger("async_peewee")

# How long a task of ours that was cancelled waits for the users' tasks to end, in seconds. Whoever
# has cancelled all tasks and waits for them may be one of these: then nobody else would give way.
WIND_UP = 0.5


Callback = Callable[[], object]


Repeated = Callable[[], float | None]


class Parker(Protocol):
    """One wait of one task, ended by `unpark` on the loop's own thread."""

    def unpark(self) -> None:
        """End the wait. Call it on the thread that runs the loop."""

    def park(self, on_cancel: Callable[[], bool]) -> Awaitable[None]:
        """Wait for `unpark`.

        When the task is cancelled, `on_cancel` is called once. If it returns True the
        cancellation is raised at once; if False, when `unpark` has been called, so that
        control never returns while the work goes on.
        """


class EventLoop(Protocol):
    """A running event loop, as the pool sees it."""

    key: Any
    # Whether a task may go on when Ctrl-C was pressed twice: then the loop has to be asked.
    outlives_interrupts: bool
    # Whether a task of spawn() is cancelled only when all others have ended, and no other one can
    # be spawned after that.
    cancels_spawned_last: bool
    # Makes a new Parker for the current task; no method, for a call of it counts.
    parker: Callable[[], Parker]

    def wake(self, callback: Callback) -> bool:
        """Have `callback` run on the loop's thread; from any thread. False: the loop is gone."""

    def call_every(self, seconds: float, function: Repeated) -> None:
        """Have `function` called after so many seconds, and again after as many as it returns.

        None ends it. On the loop's thread.
        """

    def is_closed(self) -> bool:
        """Return True when the loop will never run again; from any thread."""

    def heed_interrupts(self, callback: Callback) -> None:
        """Have `callback` run at the second Ctrl-C from now on, if a loop outlives that. On its thread."""

    def forget_interrupts(self, callback: Callback) -> None:
        """Take that back."""

    def spawn(self, function: Callable[[], Awaitable[None]], name: str, never_began: Callback) -> None:
        """Run `function` in a task of its own, beside and outlasting the current one.

        `never_began` is called instead where the task is cancelled before it begins, and where the loop
        takes no new tasks.
        """

    async def lend_thread(self, function: Callback, limiter: anyio.CapacityLimiter) -> None:
        """Run `function` on a thread of anyio's, and wait for it; cancelled: at once, and it goes on."""

    async def outlast_others(self) -> bool:
        """Wait until all tasks have ended but those of spawn(); False: not within WIND_UP seconds.

        For a task of spawn() that was cancelled, as all are where the loop is to end.
        """


# Asyncio's own function, not Python's: read directly where each call of a function would count.
running_asyncio = asyncio._get_running_loop


def running_key() -> Any:
    """Return what identifies the event loop that runs in this thread, None where none runs."""
    loop = asyncio._get_running_loop()
    trio = sys.modules.get("trio")
    if trio is None:
        return loop
    if loop is not None and not trio.lowlevel.in_trio_task():
        return loop  # else both: trio as a guest of asyncio, and what runs now decides
    if not trio.lowlevel.in_trio_run():
        return None
    token = trio.lowlevel.current_trio_token()
    return None if token is _inherited else token


# The parent's trio run, in a forked child: unlike asyncio, trio believes it to go on there.
_inherited: Any = None


def forget_loop() -> None:
    """After a fork, in the child: the parent's event loop does not run here."""
    global _inherited
    _inherited = running_key()


def event_loop(key: Any) -> EventLoop:
    """Return the EventLoop for what `running_key` returned."""
    return AsyncioLoop(key) if isinstance(key, asyncio.AbstractEventLoop) else TrioLoop(key)


def current_task(key: Any) -> Any:
    """Return the task that runs now on the loop `key`, None in a bare callback or without a loop."""
    if key is None:
        return None
    if isinstance(key, asyncio.AbstractEventLoop):
        return asyncio.current_task(key)
    trio = sys.modules["trio"]
    return trio.lowlevel.current_task() if trio.lowlevel.in_trio_task() else None


def task_name(task: Any) -> str:
    """Return the name of a task of either library, for messages."""
    get_name = getattr(task, "get_name", None)
    return str(get_name() if get_name is not None else getattr(task, "name", "no task"))


def call_at_end(task: Any, callback: Callable[[Any], None]) -> None:
    """Call back when a task of asyncio ends. One of trio is let go of then, which is noticed too."""
    if hasattr(task, "add_done_callback"):
        task.add_done_callback(callback)


def call_at_end_no_more(task: Any, callback: Callable[[Any], None]) -> None:
    """Take the wish of `call_at_end` back."""
    if hasattr(task, "remove_done_callback"):
        task.remove_done_callback(callback)


async def wait_to_the_end(event: anyio.Event) -> None:
    """Wait for an event whatever cancels the task meanwhile; the caller re-raises."""
    with anyio.CancelScope(shield=True):
        while not event.is_set():
            try:
                await event.wait()
            except asyncio.CancelledError:
                # The shield keeps scopes out, not task.cancel() of asyncio.
                continue


class AsyncioLoop:
    # The second Ctrl-C ends the loop, before Python 3.11 the first: asyncio.run() then cancels all tasks.
    outlives_interrupts = False
    cancels_spawned_last = False
    # The tasks of spawn(), of every database: all others are the users'.
    _spawned: ClassVar[weakref.WeakSet[asyncio.Task[None]]] = weakref.WeakSet()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.key = loop
        self.parker: Callable[[], Parker] = partial(AsyncioParker, loop)
        # asyncio itself holds its tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self, callback: Callback) -> bool:
        try:
            self.key.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def call_every(self, seconds: float, function: Repeated) -> None:
        # In an empty context, like any task of ours: see spawn().
        self.key.call_later(seconds, self._call_again, function, context=contextvars.Context())

    def _call_again(self, function: Repeated) -> None:
        pause = function()
        if pause is not None:
            self.call_every(pause, function)

    def heed_interrupts(self, callback: Callback) -> None: ...

    def forget_interrupts(self, callback: Callback) -> None: ...

    def is_closed(self) -> bool:
        return bool(self.key.is_closed())

    def spawn(self, function: Callable[[], Awaitable[None]], name: str, never_began: Callback) -> None:
        has_begun = False

        async def run() -> None:
            nonlocal has_begun
            has_begun = True
            await function()

        def note_end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not has_begun:
                never_began()

        # In an empty context: the task outlives the caller, so it must not keep the
        # caller's variables alive.
        task: asyncio.Task[None] = contextvars.Context().run(lambda: self.key.create_task(run(), name=name))
        # A loop that is closed without cancelling its tasks would complain about ours,
        # which its worker thread has cleaned up after by itself.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks.add(task)
        self._spawned.add(task)
        task.add_done_callback(note_end)

    async def lend_thread(self, function: Callback, limiter: anyio.CapacityLimiter) -> None:
        thread: list[threading.Thread] = []

        def run() -> None:
            thread.append(threading.current_thread())
            try:
                function()
            finally:
                _end_thread(thread[0])

        await anyio.to_thread.run_sync(run, limiter=limiter, abandon_on_cancel=True)
        _forget_thread(thread[0])

    async def outlast_others(self) -> bool:
        deadline = self.key.time() + WIND_UP
        while others := asyncio.all_tasks(self.key).difference(self._spawned):
            patience = deadline - self.key.time()
            if patience <= 0:
                return False
            try:
                await asyncio.wait(others, timeout=patience)
            except asyncio.CancelledError:
                continue  # again, by one who cancels all tasks; the caller re-raises the first
        return True


# On asyncio anyio ends an idle thread when the task is done that ran the loop when the thread was
# made. On a loop that was stopped and closed no task gets done any more, nor does the loop hear what a
# thread has to say: such a thread would be idle for ever, and keep the process from ending. So
# a thread that was lent to us ends by itself when it comes back, by the means by which anyio ends it.


def _end_thread(thread: Any) -> None:
    """Have a thread of anyio's end when it has reported to its loop; on that thread."""
    stop = getattr(thread, "stop", None)
    if stop is not None:
        stop()


def _forget_thread(thread: Any) -> None:
    """Let the task that would have ended the thread not keep what is left of it."""
    root_task = getattr(thread, "root_task", None)
    if root_task is not None:
        root_task.remove_done_callback(thread.stop)


class AsyncioParker:
    __slots__ = ("_future", "_loop", "_woken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] = loop.create_future()
        self._woken = False

    def unpark(self) -> None:
        self._woken = True
        if not self._future.done():
            self._future.set_result(None)

    async def park(self, on_cancel: Callable[[], bool]) -> None:
        try:
            await self._future
        except asyncio.CancelledError:
            if self._woken or on_cancel():
                raise
            again = await self._park_on()
            if again is not None:
                raise again from None
            raise

    async def _park_on(self) -> asyncio.CancelledError | None:
        """Wait out what cannot be abandoned; return the last cancellation that came meanwhile."""
        last = None
        # Without the shield anyio would deliver a scope's cancellation on every tick.
        with anyio.CancelScope(shield=True):
            while not self._woken:
                self._future = self._loop.create_future()
                try:
                    await self._future
                except asyncio.CancelledError as cancelled:
                    last = cancelled
        return last


class TrioLoop:
    cancels_spawned_last = True

    def __init__(self, token: Any) -> None:
        self.key = token
        self.parker: Callable[[], Parker] = TrioParker
        # Kept: at the end of the interpreter, sys.modules may be empty already.
        self._over: type[Exception] = sys.modules["trio"].RunFinishedError
        # trio has Ctrl-C wait for the main task, which waits for its children, and they for a COMMIT.
        self.outlives_interrupts: bool = threading.current_thread() is threading.main_thread()
        self._interrupts = InterruptCounter(self.wake)
        self.heed_interrupts = self._interrupts.add
        self.forget_interrupts = self._interrupts.remove

    def wake(self, callback: Callback) -> bool:
        try:
            self.key.run_sync_soon(callback)
        except self._over:
            return False
        return True

    def call_every(self, seconds: float, function: Repeated) -> None:
        async def run() -> None:
            pause: float | None = seconds
            while pause is not None:
                await anyio.sleep(pause)
                pause = function()

        self.spawn(run, "async_peewee timer", _nothing)

    def is_closed(self) -> bool:
        return not self.wake(_nothing)

    def spawn(self, function: Callable[[], Awaitable[None]], name: str, never_began: Callback) -> None:
        # A task of trio always begins, cancelled or not.
        async def run() -> None:
            try:
                await function()
            except Exception:  # an error in a system task would take the whole run down
                logger.exception("%s failed", name)

        try:
            sys.modules["trio"].lowlevel.spawn_system_task(run, name=name, context=contextvars.Context())
        except RuntimeError:  # the run closes what generators its tasks have left, and nothing else begins
            never_began()

    async def lend_thread(self, function: Callback, limiter: anyio.CapacityLimiter) -> None:
        await anyio.to_thread.run_sync(function, limiter=limiter, abandon_on_cancel=True)

    async def outlast_others(self) -> bool:
        return True


class InterruptCounter:
    """Call back at the second Ctrl-C; meanwhile whoever handles it does so as ever. On the main thread."""

    def __init__(self, wake: Callable[[Callback], bool]) -> None:
        self._wake = wake
        self._callbacks: list[Callback] = []
        self._count = 0
        self._handler: Any = self._handle
        self._below: Any = None

    def add(self, callback: Callback) -> None:
        if not self._callbacks:
            self._below = signal.getsignal(signal.SIGINT)
            if not callable(self._below):  # the program ignores it
                return
            self._count = 0
            signal.signal(signal.SIGINT, self._handler)
        self._callbacks.append(callback)

    def remove(self, callback: Callback) -> None:
        if callback not in self._callbacks:
            return
        self._callbacks.remove(callback)
        if not self._callbacks and signal.getsignal(signal.SIGINT) is self._handler:
            signal.signal(signal.SIGINT, self._below)

    def _handle(self, number: int, frame: Any) -> None:
        self._count += 1
        if self._count > 1:
            for callback in self._callbacks:
                # Not here: it may be in the middle of anything, and hold a lock.
                self._wake(callback)
        self._below(number, frame)


class TrioParker:
    __slots__ = ("_parked", "_task", "_woken")

    def __init__(self) -> None:
        self._task: Any = None
        self._woken = False

    def unpark(self) -> None:
        self._woken = True
        if self._task is not None:
            task, self._task = self._task, None
            sys.modules["trio"].lowlevel.reschedule(task)

    async def park(self, on_cancel: Callable[[], bool]) -> None:
        lowlevel = sys.modules["trio"].lowlevel
        if self._woken:
            return
        self._task = lowlevel.current_task()
        pending: list[Any] = []

        def abort(raise_cancel: Any) -> Any:
            if on_cancel():
                self._task = None
                return lowlevel.Abort.SUCCEEDED
            pending.append(raise_cancel)
            return lowlevel.Abort.FAILED

        await lowlevel.wait_task_rescheduled(abort)
        if pending:
            pending[0]()


def _nothing() -> None:
    pass
