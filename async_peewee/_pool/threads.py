"""WorkerThreads: the threads of one pool's workers, each lent by anyio for as long as its worker serves."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from functools import partial

import anyio

from .._eventloops import EventLoop, wait_to_the_end
from .worker import Worker, WorkerState

# How often the watch looks whether the loop and the process still live, in seconds: half a second
# is what a program may notice when it ends.
LOOK = 0.5


class WorkerThreads:
    """Give workers a thread, see them through their lives, and wait for their ends. On the loop's thread."""

    def __init__(
        self,
        loop: EventLoop,
        workers: set[Worker],
        dismiss: Callable[[Worker], None],
        fail: Callable[[Worker, Exception], None],
        close_at_once: Callable[[], None],
    ) -> None:
        self._loop = loop
        # The scheduler's: those that have not gone.
        self._workers = workers
        # Has a worker end at once; without having begun, for an error; has all end, and refuses new work.
        self._dismiss = dismiss
        self._fail = fail
        self._close_at_once = close_at_once
        self._empty: anyio.Event | None = None
        # anyio's own default limiter is the whole program's, 40 threads; waiting for one of
        # them, or taking all of them, would tie others to our pool. How many there are, the
        # scheduler decides.
        self._limiter: anyio.CapacityLimiter | None = None
        self._watch = LoopWatch(loop, workers, close_at_once)

    def hire(self, worker: Worker) -> None:
        """Get a thread for a worker."""
        self._watch.begin()
        self._loop.spawn(
            partial(self._own, worker), f"{worker.name}, its owner", partial(self._replace, worker)
        )

    async def _own(self, worker: Worker) -> None:
        """See a worker through its whole life, in a task of its own."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(math.inf)
        try:
            await self._loop.lend_thread(worker.serve, self._limiter)
        except Exception as error:
            if worker.is_started:
                raise
            self._fail(worker, error)  # there are no more threads
        finally:
            if worker.state is not WorkerState.GONE:
                await self._give_up(worker)

    async def _give_up(self, worker: Worker) -> None:
        """End the workers of a loop that is ending, after those who still write in their `finally`.

        Whoever writes for long is served by workers without an owner: the watch ends them. A COMMIT that
        has no answer is not waited for: its task may be one of these.
        """
        worker.interrupter.limit_commit()
        if not worker.is_started:
            self._replace(worker)
        elif await self._loop.outlast_others():
            await self.wait_until_gone(0)

    def _replace(self, worker: Worker) -> None:
        """Let those who wait for a worker that has no thread yet have another one, where there may be one."""
        if self._loop.cancels_spawned_last:
            self._close_at_once()
        else:
            self._dismiss(worker)

    def note_gone(self) -> None:
        """End the waits for all workers when the last one has gone."""
        if not self._workers and self._empty is not None:
            self._empty.set()

    def note_gone_anywhere(self) -> None:
        """Have the watch end when the last worker has gone; from any thread."""
        if not self._workers:
            self._watch.look()

    async def wait_until_gone(self, timeout: float) -> None:
        """Wait `timeout` seconds for all workers to end, then dismiss them; cancelled: at once."""
        if not self._workers:
            return
        if self._empty is None or self._empty.is_set():
            self._empty = anyio.Event()
        try:
            with anyio.move_on_after(timeout):
                await self._empty.wait()
        finally:
            for worker in list(self._workers):
                self._dismiss(worker)
            await wait_to_the_end(self._empty)


class LoopWatch:
    """End the workers of a loop that was closed under them, or that will never run again.

    By a thread of its own, while there are workers: a worker that runs a job cannot look.
    """

    def __init__(self, loop: EventLoop, workers: set[Worker], close_at_once: Callable[[], None]) -> None:
        self._loop = loop
        self._workers = workers
        self._close_at_once = close_at_once
        # Protects _is_watching: no worker may be hired between the thread's last look and its end.
        self._lock = threading.Lock()
        self._is_watching = False
        self._due = threading.Event()
        # The thread that runs the loop.
        self._runner = threading.current_thread()

    def begin(self) -> None:
        """Watch the loop until there is no worker any more; on the loop's thread."""
        self._runner = threading.current_thread()
        with self._lock:
            if not self._is_watching:
                # A daemon: the workers keep the process from ending, until they have rolled back.
                thread = threading.Thread(target=self._run, name="async_peewee loop watch", daemon=True)
                with contextlib.suppress(RuntimeError):  # no more threads: nor is there one for the worker
                    thread.start()
                    self._is_watching = True

    def look(self) -> None:
        """Have the watch look at once; from any thread."""
        self._due.set()

    def _run(self) -> None:
        while True:
            self._due.wait(LOOK)
            self._due.clear()
            with self._lock:
                self._is_watching = bool(self._workers)
                if not self._is_watching:
                    return
            if self._is_forsaken():
                self._close_at_once()

    def _is_forsaken(self) -> bool:
        if self._loop.is_closed():
            return True
        # A process ends with the last thread that is no daemon; in such a one the loop may go on.
        goes_on = self._runner.is_alive() and not self._runner.daemon
        return not (threading.main_thread().is_alive() or goes_on)
