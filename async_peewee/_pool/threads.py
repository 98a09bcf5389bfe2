"""Crew: the workers of one pool, hired on demand, retired when idle, dismissed at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import anyio
import anyio.to_thread

from .._eventloops import EventLoop, wait_to_the_end
from .._settings import PoolSettings
from .worker import Worker


class Crew:
    """At most `pool_size` workers, each in a thread that anyio lends for as long as it serves.

    What is said to need the lock is decided under it by the pool; nothing there blocks.
    """

    def __init__(
        self,
        name: str,
        settings: PoolSettings,
        loop: EventLoop,
        lock: threading.Lock,
        on_room: Callable[[], None],
    ) -> None:
        self.name = name
        # Called on the loop's thread when a worker has gone: a job may have come meanwhile.
        self._on_room = on_room
        # Called under the lock before a worker is told to end.
        self.before_stop: Callable[[Worker], None] = lambda worker: None
        self._settings = settings
        self._loop = loop
        # The pool's. Protects the fields below and the pool's fields of each worker.
        self._lock = lock
        self.workers: set[Worker] = set()
        # Last in, first out: the worker used most recently is warm, and the others can retire.
        self.idle: list[Worker] = []
        # Workers whose thread has not asked for a job yet.
        self.coming = 0
        self.is_closing = False
        self._numbered = 0
        self._empty: anyio.Event | None = None
        # anyio's own default limiter is the whole program's, 40 threads; waiting for one of
        # them, or taking all of them, would tie others to our pool.
        self._limiter: anyio.CapacityLimiter | None = None

    # -- under the lock ---------------------------------------------------------------

    def has_room(self) -> bool:
        """Return True if one more worker may be hired."""
        # Of those that have been dropped, some may still be in the queue when the pool is closing.
        return not self.is_closing and len(self.workers) < self._settings.pool_size

    @property
    def free(self) -> int:
        """How many more jobs could run beside those that do."""
        occupied = sum(worker.pinned or worker.running is not None for worker in self.workers)
        return self._settings.pool_size - occupied

    def next_name(self) -> str:
        self._numbered += 1
        return f"{self.name} worker {self._numbered}"

    def rest(self, worker: Worker) -> None:
        """Let a worker without a job wait for one, or end."""
        if self.is_closing or worker.is_stopping:
            self.stop(worker)
        elif worker not in self.idle:  # once: a worker that stands there twice is given to two
            worker.idle_since = time.monotonic()
            self.idle.append(worker)

    def stop(self, worker: Worker) -> None:
        """Have a worker end after the jobs that it has been given."""
        if worker in self.idle:
            self.idle.remove(worker)
        if not worker.is_stopping:
            worker.is_stopping = True
            self.before_stop(worker)
            worker.inbox.put(None)

    # -- a worker's own thread --------------------------------------------------------

    def started(self, worker: Worker) -> bool:
        """Note that a worker's thread runs; False: it was stopped before it began."""
        with self._lock:
            worker.is_started = not worker.is_stopping
            return worker.is_started

    def should_end(self, worker: Worker) -> bool:
        """Decide whether a worker without work ends: nobody can want it, or not for long."""
        if self._loop.is_closed() or not threading.main_thread().is_alive():
            with self._lock:
                self.stop(worker)  # nobody else takes it off the list of the idle any more
            return True
        with self._lock:
            idle_for = time.monotonic() - worker.idle_since
            # Those that are ending still count as workers: their threads are not free yet.
            staying = sum(not other.is_stopping for other in self.workers)
            is_spare = staying > self._settings.pool_min_size
            retires = worker in self.idle and is_spare and idle_for >= self._settings.idle_timeout
            if retires:
                self.idle.remove(worker)
                worker.is_stopping = True
            return retires

    def ended(self, worker: Worker) -> None:
        """Note that a worker's thread is through with it."""
        self._loop.wake(partial(self._remove, worker))

    # -- the loop's thread ------------------------------------------------------------

    def hire(self, worker: Worker) -> None:
        """Get a thread for a worker that the pool has added under the lock."""
        self._loop.spawn(partial(self._own, worker), f"{worker.name}, its owner")

    async def _own(self, worker: Worker) -> None:
        """See a worker through its whole life, in a task of its own."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._settings.pool_size)
        try:
            # Abandonable for anyio only: cancelled because the loop or run is ending, this
            # task itself stops the worker and waits for it.
            await anyio.to_thread.run_sync(worker.serve, limiter=self._limiter, abandon_on_cancel=True)
        finally:
            if worker in self.workers:
                await self._dismiss(worker)

    async def _dismiss(self, worker: Worker) -> None:
        with self._lock:
            self.stop(worker)
            job = worker.running
            if not worker.is_started:
                self.coming -= 1
        if not worker.is_started:
            # Its thread never came, and finds that out if it still does.
            self._remove(worker)
            return
        if job is not None:
            worker.cancel(job)
        worker.gone = anyio.Event()
        await wait_to_the_end(worker.gone)

    def _remove(self, worker: Worker) -> None:
        with self._lock:
            self.workers.discard(worker)
            is_empty = not self.workers
        if worker.gone is not None:
            worker.gone.set()
        if is_empty and self._empty is not None:
            self._empty.set()
        if not self.is_closing:
            self._on_room()

    def stop_unused(self) -> None:
        """Under the lock: end the workers that neither run a job nor are pinned."""
        self.is_closing = True
        for worker in [w for w in self.workers if not w.pinned and w.running is None]:
            self.stop(worker)

    async def wait_until_gone(self, timeout: float) -> None:
        """Wait `timeout` seconds for the workers to end, then interrupt them; cancelled: at once."""
        if not self.workers:
            return
        self._empty = self._empty or anyio.Event()
        try:
            with anyio.move_on_after(timeout):
                await self._empty.wait()
        finally:
            self._interrupt_all()
            await wait_to_the_end(self._empty)

    def _interrupt_all(self) -> None:
        with self._lock:
            for worker in self.workers:
                self.stop(worker)
            running = [(worker, worker.running) for worker in self.workers]
        for worker, job in running:
            if job is not None:
                worker.cancel(job)
