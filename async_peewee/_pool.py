"""WorkerPool: a bounded number of workers on one event loop, first come, first served."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from ._crew import Crew
from ._dispatch import Dispatch
from ._driver_protocol import Driver
from ._errors import PoolClosed, PoolFull, PoolTimeout
from ._jobs import Job, State
from ._loops import EventLoop
from ._schedule import LOOK, Schedule
from ._settings import PoolSettings
from ._stats import PoolStats
from ._worker import Worker


class WorkerPool:
    """Hand jobs to at most `pool_size` workers. Its methods are for the loop's thread."""

    def __init__(
        self, name: str, settings: PoolSettings, loop: EventLoop, make_driver: Callable[[], Driver]
    ) -> None:
        self.name = name
        self.settings = settings
        self.loop = loop
        self._make_driver = make_driver
        # How often `async with db` was entered and not left.
        self.entries = 0
        # Protects the crew, the queues, the turn and the counts, and the pool's fields of each
        # worker and job. Held for a few instructions only, never around a call that can block.
        self._lock = threading.Lock()
        self._crew = Crew(name, settings, loop, self._lock, self._grow)
        self._schedule = Schedule(self._crew, settings.acquire_timeout, self._admit, loop.wake)
        self._crew.before_stop = self._schedule.release
        self._counts: Counter[str] = Counter()
        self._dispatch = Dispatch(loop, self._lock, self._crew, self._schedule, self._grow)

    # -- giving work ------------------------------------------------------------------

    async def run(self, job: Job, *, shielded: bool = False) -> None:
        """Submit a job and wait until it has ended; its outcome is in the job.

        Cancelled while the job waits in the queue, it never runs. Cancelled while it runs,
        it is interrupted, and the cancellation goes on when its worker is free. `shielded`:
        the job is left alone, and the cancellation goes on when it has ended.
        """
        self.start(job)
        await self.wait(job, shielded=shielded)

    def start(self, job: Job) -> None:
        """Submit a job that `wait` will be called for later."""
        job.parker = self.loop.parker()
        self.submit(job)

    def wait(self, job: Job, *, shielded: bool = False) -> Awaitable[None]:
        """Wait until a job that was started has ended; cancellation as in `run`."""
        assert job.parker is not None
        return job.parker.park(_never if shielded else partial(self._cancel, job))

    def submit(self, job: Job) -> None:
        """Put a job on its way. Raises PoolClosed or PoolFull."""
        with self._lock:
            self._refuse_if_closed_or_full(job)
            self._schedule.add(job)
            self._schedule.dispatch()
            must_look = self._schedule.begin_to_look()
            must_grow = self._schedule.may_grow()
        if must_grow:
            self._grow()
        if must_look:
            self.loop.look(LOOK, self._look)

    def post(self, job: Job) -> None:
        """Put a job on its way that nobody waits for; safe wherever a finalizer may run.

        The garbage collector may call it on a thread that is inside the pool's lock: so it is the
        loop's next turn that submits the job.
        """
        self.loop.wake(partial(self._submit_posted, job))

    def _submit_posted(self, job: Job) -> None:
        # A pool that is closing ends its workers, and whatever they had open, by itself.
        with contextlib.suppress(PoolClosed):
            self.submit(job)

    def _refuse_if_closed_or_full(self, job: Job) -> None:
        if self._crew.is_closing if job.worker is None else job.worker.is_stopping:
            raise PoolClosed(self.name)
        limit = self.settings.max_waiting
        if job.worker is None and limit is not None and self._schedule.is_full(job, limit):
            self._counts["refused"] += 1
            raise PoolFull(self.name, limit)

    def _admit(self, job: Job) -> bool:
        with self._lock:
            is_admitted = self._schedule.admit(job)
            self._schedule.dispatch()
            must_grow = self._schedule.may_grow()
        if must_grow:
            self.loop.wake(self._grow)
        return is_admitted

    # -- taking it back ---------------------------------------------------------------

    def abandon(self, job: Job) -> None:
        """Have a job ended that nobody will wait for, if it still is under way."""
        if job.state is not State.DONE:
            self._cancel(job)

    def _cancel(self, job: Job) -> bool:
        """Drop a queued job (True), or have a running one interrupted (False)."""
        with self._lock:
            self._counts["cancelled"] += 1
            dropped = job.state is State.QUEUED
            if dropped:
                self._schedule.queue.drop(job)
        if not dropped and job.worker is not None:
            job.worker.cancel(job)
        return dropped

    def _fail(self, jobs: list[Job], error: Callable[[], Exception]) -> None:
        for job in jobs:
            job.error = error()
            if job.parker is not None:
                job.parker.unpark()

    # -- looking after what waits ------------------------------------------------------

    def _look(self) -> float | None:
        """Time out what waits too long, and free the turn of a worker that waits itself."""
        with self._lock:
            now = time.monotonic()
            overdue, message = self._drop_overdue(now)
            self._schedule.turnstile.free_if_stuck(now)
            self._schedule.dispatch()
            pause = self._schedule.next_look(now)
        self._fail(overdue, lambda: PoolTimeout(message))
        self._dispatch.replies.deliver()
        self._grow()
        return pause

    def _drop_overdue(self, now: float) -> tuple[list[Job], str]:
        """Drop the jobs that have waited too long; return them and what to tell their callers."""
        deadline = self._schedule.queue.next_deadline()
        if deadline is None or deadline > now:
            return [], ""
        message = self._describe_timeout(now)  # before: it says how many wait
        overdue = self._schedule.queue.drop_overdue(now)
        self._counts["timed_out"] += len(overdue)
        return overdue, message

    def _describe_timeout(self, now: float) -> str:
        holders = [text for worker in self._crew.workers if (text := worker.describe(now))]
        return (
            f"no worker of {self.name} became free within {self.settings.acquire_timeout:g} s: "
            f"pool size {self.settings.pool_size}, {self._schedule.queue.waiting} waiting, "
            f"held by: {'; '.join(sorted(holders)) or 'nobody'}. Make the blocks shorter "
            "or the pool larger (pool_size, ASYNC_PEEWEE_POOL_SIZE)"
        )

    # -- growing and ending -----------------------------------------------------------

    def _grow(self) -> None:
        """Hire a worker for the jobs that wait, if the pool may have one more."""
        with self._lock:
            if not self._schedule.may_grow():
                return
            worker = Worker(self._dispatch, self._make_driver(), self._crew.next_name())
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
            refused = self._schedule.queue.drop_all()
            self._schedule.dispatch()
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
                waiting=self._schedule.queue.waiting,
                calls=self._schedule.calls,
                cancelled=self._counts["cancelled"],
                timed_out=self._counts["timed_out"],
                refused=self._counts["refused"],
            )


def _never() -> bool:
    return False
