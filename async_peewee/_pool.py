"""WorkerPool: a bounded number of workers on one event loop, first come, first served."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import anyio

from ._crew import Crew
from ._driver import Driver
from ._errors import PoolClosed, PoolFull, PoolTimeout
from ._jobs import Job, JobQueue, State
from ._loops import EventLoop
from ._replies import Replies, settle
from ._settings import PoolSettings
from ._stats import PoolStats
from ._worker import Worker


class WorkerPool:
    """Hand jobs to at most `pool_size` workers.

    The public methods are for the loop's thread, those of "the workers' side" for theirs.
    """

    def __init__(
        self, name: str, settings: PoolSettings, loop: EventLoop, make_driver: Callable[[], Driver]
    ) -> None:
        self.name = name
        self.settings = settings
        self.loop = loop
        self._make_driver = make_driver
        # How often `async with db` was entered and not left.
        self.entries = 0
        # Protects the crew, the queue and the counts, and the pool's fields of each worker
        # and job. Held for a few instructions only, never around a call that can block.
        self._lock = threading.Lock()
        self._crew = Crew(name, settings, loop, self._lock, self._grow)
        self._queue = JobQueue(settings.acquire_timeout)
        self._counts: Counter[str] = Counter()
        self._watching = False
        self._replies = Replies(loop)

    # -- giving work ------------------------------------------------------------------

    async def run(self, job: Job, *, shielded: bool = False) -> None:
        """Submit a job and wait until it has ended; its outcome is in the job.

        Cancelled while the job waits in the queue, it never runs. Cancelled while it runs,
        it is interrupted, and the cancellation goes on when its worker is free. `shielded`:
        the job is left alone, and the cancellation goes on when it has ended.
        """
        job.parker = self.loop.parker()
        self.submit(job)
        await job.parker.park(_never if shielded else partial(self._cancel, job))

    def submit(self, job: Job) -> None:
        """Put a job on its way. Raises PoolClosed or PoolFull."""
        with self._lock:
            if job.worker is not None:
                self._hand_to_pinned(job, job.worker)
                return
            if self._crew.is_closing:
                raise PoolClosed(self.name)
            self._refuse_if_full(job)
            if self._crew.idle and self._may_start(job):
                self._hand_over(job)
            elif job.state is State.QUEUED and not job.at_gate:
                self._queue.put(job)
            must_watch = self._must_watch()
        self._grow()
        if must_watch:
            self.loop.spawn(self._watch, f"{self.name} queue")

    def _hand_to_pinned(self, job: Job, worker: Worker) -> None:
        if worker.is_stopping:
            raise PoolClosed(self.name)
        worker.inbox.put(job)

    def _refuse_if_full(self, job: Job) -> None:
        limit = self.settings.max_waiting
        # Those for whom a worker is on its way do not wait for another's end.
        if limit is None or self._queue.waiting - self._crew.coming < limit:
            return
        must_wait_at_gate = job.gate is not None and job.gate.is_held
        if (self._crew.idle or self._crew.has_room()) and not must_wait_at_gate:
            return
        self._counts["refused"] += 1
        raise PoolFull(self.name, limit)

    def _may_start(self, job: Job) -> bool:
        """Return True if a worker that is free may have the job; False: it waits at the write gate.

        A job takes the gate only together with a worker. One that held it in the queue
        would wait for workers that wait for the gate.
        """
        if job.gate is not None:
            job.holds_gate = job.gate.enter(partial(self._admit, job))
            job.at_gate = not job.holds_gate
            if job.at_gate:
                self._queue.wait(job)
        return not job.at_gate

    def _hand_over(self, job: Job) -> None:
        worker = self._crew.idle.pop()
        self._assign(job, worker)
        worker.inbox.put(job)

    def _admit(self, job: Job) -> bool:
        """Start a job that waited at the gate, on the thread of the writer before it.

        Without a free worker it declines the gate, and is the first to try again.
        """
        with self._lock:
            job.at_gate = False
            if job.state is not State.QUEUED:
                return False
            job.holds_gate = bool(self._crew.idle)
            if job.holds_gate:
                self._hand_over(job)
            else:
                self._queue.put_first(job)
            must_grow = self._may_grow()
        if must_grow:
            self.loop.wake(self._grow)
        return job.holds_gate

    def _assign(self, job: Job, worker: Worker) -> None:
        self._queue.take(job)
        job.worker = worker
        worker.running = job
        self._counts["calls"] += 1

    # -- taking it back ---------------------------------------------------------------

    def _cancel(self, job: Job) -> bool:
        """Drop a queued job (True), or have a running one interrupted (False)."""
        with self._lock:
            self._counts["cancelled"] += 1
            dropped = job.state is State.QUEUED
            if dropped:
                self._queue.drop(job)
        if not dropped and job.worker is not None:
            job.worker.cancel(job)
        return dropped

    def _fail(self, jobs: list[Job], error: Callable[[], Exception]) -> None:
        for job in jobs:
            job.error = error()
            settle(job)

    def _must_watch(self) -> bool:
        starts = not self._watching and self._queue.waiting > 0
        self._watching = self._watching or starts
        return starts

    async def _watch(self) -> None:
        """Time out the jobs that wait too long; runs only while jobs wait."""
        try:
            while (pause := self._expire()) is not None:
                await anyio.sleep(pause)
        except BaseException:
            # Cancelled while the loop goes on: the next job that waits gets another watch.
            with self._lock:
                self._watching = False
            raise

    def _expire(self) -> float | None:
        """Fail what is overdue; return the seconds to the next deadline, None without one."""
        with self._lock:
            now = time.monotonic()
            message = self._describe_timeout(now)
            overdue = self._queue.drop_overdue(now)
            self._counts["timed_out"] += len(overdue)
            deadline = self._queue.next_deadline()
            self._watching = deadline is not None
        self._fail(overdue, lambda: PoolTimeout(message))
        return None if deadline is None else deadline - now

    def _describe_timeout(self, now: float) -> str:
        holders = [text for worker in self._crew.workers if (text := worker.describe(now))]
        return (
            f"no worker of {self.name} became free within {self.settings.acquire_timeout:g} s: "
            f"pool size {self.settings.pool_size}, {self._queue.waiting} waiting, "
            f"held by: {'; '.join(sorted(holders)) or 'nobody'}. Make the blocks shorter "
            "or the pool larger (pool_size, ASYNC_PEEWEE_POOL_SIZE)"
        )

    # -- the workers' side ------------------------------------------------------------

    def started(self, worker: Worker) -> bool:
        """Note that a worker's thread runs; False: it was stopped before it began."""
        return self._crew.started(worker)

    def should_end(self, worker: Worker) -> bool:
        """Decide whether a worker without work ends."""
        return self._crew.should_end(worker)

    def ended(self, worker: Worker) -> None:
        """Note that a worker's thread is through with it."""
        self._crew.ended(worker)

    def take(self, worker: Worker) -> Job | None:
        """Return the first job of a new worker, None if it has to wait for one."""
        with self._lock:
            self._crew.coming -= 1
            return self._next(worker)

    def claim(self, worker: Worker, job: Job) -> bool:
        """Return False if a job from the worker's own inbox was dropped meanwhile."""
        with self._lock:
            if job.state is State.QUEUED:
                self._assign(job, worker)
            return job.state is State.TAKEN

    def finish(self, worker: Worker, job: Job) -> Job | None:
        """Note that a job has ended; return the next one for its worker."""
        with self._lock:
            job.state = State.DONE
            worker.running = None
            job.pinned = job.pin and job.error is None
            worker.pinned = (worker.pinned or job.pinned) and not job.unpin
            following = None if worker.pinned else self._next(worker)
        if job.finished is not None:
            job.finished.set()
        return following

    def _next(self, worker: Worker) -> Job | None:
        worker.holder = None
        while (job := self._queue.pop()) is not None:
            if self._may_start(job):
                self._assign(job, worker)
                return job
        self._crew.rest(worker)
        return None

    def reply(self, job: Job) -> None:
        """Send an outcome to the loop."""
        self._replies.send(job)

    # -- growing and ending -----------------------------------------------------------

    def _may_grow(self) -> bool:
        return self._crew.coming < self._queue.ready and self._crew.has_room()

    def _grow(self) -> None:
        """Hire workers for the jobs that wait, as many as the pool may have."""
        while True:
            with self._lock:
                if not self._may_grow():
                    return
                worker = Worker(self, self._make_driver(), self._crew.next_name())
                self._crew.workers.add(worker)
                self._crew.coming += 1
            self._crew.hire(worker)

    async def close(self, timeout: float) -> bool:
        """Refuse new work, give what runs `timeout` seconds, interrupt the rest, leave nothing.

        Returns False if the pool was closed already. Cancelled, it interrupts at once and
        still waits for the threads to end.
        """
        with self._lock:
            first = not self._crew.is_closing
            self._crew.stop_unused()
            refused = self._queue.drop_all()
        self._fail(refused, lambda: PoolClosed(self.name))
        await self._crew.wait_until_gone(timeout)
        return first

    @property
    def is_closed(self) -> bool:
        return self._crew.is_closing

    def stats(self) -> PoolStats:
        """Return what the pool does now and has done so far."""
        with self._lock:
            return PoolStats(
                pool_size=self.settings.pool_size,
                workers=len(self._crew.workers),
                idle=len(self._crew.idle),
                busy=sum(worker.running is not None for worker in self._crew.workers),
                pinned=sum(worker.pinned for worker in self._crew.workers),
                waiting=self._queue.waiting,
                calls=self._counts["calls"],
                cancelled=self._counts["cancelled"],
                timed_out=self._counts["timed_out"],
                refused=self._counts["refused"],
            )


def _never() -> bool:
    return False
