"""WorkerPool: a bounded number of workers on one event loop, first come, first served."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from ._crew import Crew
from ._driver import Driver
from ._errors import PoolClosed, PoolFull, PoolTimeout
from ._jobs import Job, JobQueue, State
from ._loops import EventLoop
from ._replies import Replies, settle
from ._settings import PoolSettings
from ._stats import PoolStats
from ._turnstile import Turnstile
from ._worker import Worker

# How often the loop's thread looks, while jobs wait, whether the worker that has the turn
# gets on, in seconds: a statement that lasts so long may well last much longer.
LOOK = 0.002

# The most replies that one wake of the loop brings.
BATCH = 32

# How often it looks while nobody has the turn: all workers wait for the database.
SELDOM = 0.02


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
        # Protects the crew, the queues, the turn and the counts, and the pool's fields of each
        # worker and job. Held for a few instructions only, never around a call that can block.
        self._lock = threading.Lock()
        self._crew = Crew(name, settings, loop, self._lock, self._grow)
        self._queue = JobQueue(settings.acquire_timeout)
        # Jobs that have a worker, and wait for its turn.
        self._placed: deque[Job] = deque()
        self._turnstile = Turnstile()
        self._placed_are_next = False
        self._counts: Counter[str] = Counter()
        # Whether the loop's thread will look at what waits, and whether replies rely on it.
        self._looks = False
        self._replies_wait = False
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
                if job.worker.is_stopping:
                    raise PoolClosed(self.name)
                self._placed.append(job)
            else:
                if self._crew.is_closing:
                    raise PoolClosed(self.name)
                self._refuse_if_full(job)
                self._queue.put(job)
            self._dispatch()
            must_look = not self._looks and (self._queue.waiting > 0 or bool(self._placed))
            self._looks = self._looks or must_look
            must_grow = self._may_grow()
        if must_grow:
            self._grow()
        if must_look:
            self.loop.look(LOOK, self._look)

    def _refuse_if_full(self, job: Job) -> None:
        limit = self.settings.max_waiting
        if limit is None:
            return
        # Those for whom there is a worker, or room for one, do not wait for another's end.
        free = 0 if job.gate is not None and job.gate.is_held else self._crew.free
        if self._queue.waiting - free < limit:
            return
        self._counts["refused"] += 1
        raise PoolFull(self.name, limit)

    # -- choosing what runs, under the lock --------------------------------------------

    def _dispatch(self, finisher: Worker | None = None) -> Job | None:
        """Give the turn, while it is free, to whoever is next; return a job for `finisher` itself."""
        while self._turnstile.is_free:
            worker = self._turnstile.next_returning()
            if worker is not None:
                self._turnstile.take(worker)
                worker.turn.release()
                continue
            job = self._choose()
            if job is None:
                return None
            self._turnstile.take(job.worker)
            if job.worker is finisher:
                return job
            job.worker.inbox.put(job)
        return None

    def _choose(self) -> Job | None:
        """Return the next job, with its worker: by turns from the blocks and from the queue."""
        self._placed_are_next = not self._placed_are_next
        if self._placed_are_next:
            return self._next_placed() or self._next_queued()
        return self._next_queued() or self._next_placed()

    def _next_placed(self) -> Job | None:
        while self._placed:
            job = self._placed.popleft()
            if job.state is State.QUEUED:
                self._assign(job, job.worker)
            if job.state is State.TAKEN:
                return job
        return None

    def _next_queued(self) -> Job | None:
        while self._crew.idle and (job := self._queue.pop()) is not None:
            if self._may_start(job):
                self._assign(job, self._crew.idle.pop())
                return job
        return None

    def _may_start(self, job: Job) -> bool:
        """Return True if a worker that is free may have the job; False: it waits at the write gate.

        A job takes the gate only together with a worker. One that held it in the queue
        would wait for workers that wait for the gate.
        """
        if job.gate is not None:
            job.holds_gate = job.gate.enter(partial(self._admit, job))
            job.at_gate = not job.holds_gate
        return not job.at_gate

    def _admit(self, job: Job) -> bool:
        """Place a job that waited at the gate, on the thread of the writer before it.

        Without a free worker it declines the gate, and is among the first to try again.
        """
        with self._lock:
            job.at_gate = False
            if job.state is not State.QUEUED:
                return False
            job.holds_gate = bool(self._crew.idle)
            if job.holds_gate:
                self._assign(job, self._crew.idle.pop())
                self._placed.append(job)
            else:
                self._queue.put_back(job)
            self._dispatch()
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

    # -- looking after what waits ------------------------------------------------------

    def _next_look(self, now: float) -> float | None:
        """Return in how many seconds the loop's thread must look at what waits, None if it need not."""
        is_held = not self._turnstile.is_free
        if not (self._queue.waiting or self._replies_wait or (is_held and self._placed)):
            return None
        pause = LOOK if is_held else SELDOM
        deadline = self._queue.next_deadline()
        return pause if deadline is None else max(0.0, min(pause, deadline - now))

    def _look(self) -> float | None:
        """Time out what waits too long, and free the turn of a worker that waits itself."""
        with self._lock:
            now = time.monotonic()
            message = self._describe_timeout(now)
            overdue = self._queue.drop_overdue(now)
            self._counts["timed_out"] += len(overdue)
            self._turnstile.free_if_stuck(now)
            self._dispatch()
            pause = self._next_look(now)
            self._looks = pause is not None
            self._replies_wait = False
        self._fail(overdue, lambda: PoolTimeout(message))
        self._replies.deliver()
        self._grow()
        return pause

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
        self.step_aside(worker)
        self._crew.ended(worker)

    def take(self, worker: Worker) -> Job | None:
        """Return the first job of a new worker, None if it has to wait for one."""
        with self._lock:
            self._crew.coming -= 1
            self._crew.rest(worker)
            return self._dispatch(worker)

    def claim(self, worker: Worker, job: Job) -> bool:
        """Return False if a job from the worker's own inbox was dropped meanwhile."""
        with self._lock:
            if job.state is State.QUEUED:
                self._assign(job, worker)
            return job.state is State.TAKEN

    def finish(self, worker: Worker, job: Job) -> Job | None:
        """Note that a job has ended and reply; return the next one for its worker."""
        with self._lock:
            job.state = State.DONE
            worker.running = None
            job.pinned = job.pin and job.error is None
            worker.pinned = (worker.pinned or job.pinned) and not job.unpin
            if not worker.pinned:
                worker.holder = None
                self._crew.rest(worker)
        if worker.held_gate is not None:
            # While it has the turn and is the first of the idle: the next writer gets both.
            worker.leave_gate()
        following, batch = self._go_on(worker)
        if job.finished is not None:
            job.finished.set()
        self._replies.send(job, batch)
        return following

    def _go_on(self, worker: Worker) -> tuple[Job | None, int]:
        """Return the next job for a worker, and how many replies may wait for one another meanwhile."""
        with self._lock:
            self._turnstile.leave(worker)
            following = self._dispatch(worker)
            # As many as wait still: then the loop gives out new jobs while these are done.
            may_wait = self._looks and not self._turnstile.is_free
            batch = min(self._queue.waiting + len(self._placed), BATCH) if may_wait else 0
            self._replies_wait = self._replies_wait or batch > 0
            must_grow = self._may_grow()
        if must_grow:
            self.loop.wake(self._grow)
        return following, batch

    def step_aside(self, worker: Worker) -> None:
        """Pass the turn on: its worker is going to wait."""
        with self._lock:
            if not self._turnstile.leave(worker):
                return
            self._dispatch()
            is_free = self._turnstile.is_free
            must_grow = self._may_grow()
        if must_grow:
            self.loop.wake(self._grow)
        if is_free:
            self._replies.flush()

    def step_back(self, worker: Worker) -> bool:
        """Return True if the worker has the turn again; False: it has to wait for `worker.turn`."""
        with self._lock:
            return self._turnstile.come_back(worker)

    def go_on(self, worker: Worker) -> bool:
        """Return False if the worker goes on without the turn; True: it has got it just now."""
        with self._lock:
            return not self._turnstile.stop_waiting(worker)

    def refuse(self, job: Job, error: BaseException) -> None:
        """Answer a job that its worker will not run."""
        job.error = error
        self._replies.send(job)

    # -- growing and ending -----------------------------------------------------------

    def _may_grow(self) -> bool:
        # One at a time: it passes the turn on while it connects, and that calls for the next.
        return (
            self._queue.ready > 0
            and self._turnstile.is_free
            and not self._crew.idle
            and not self._crew.coming
            and self._crew.has_room()
        )

    def _grow(self) -> None:
        """Hire a worker for the jobs that wait, if the pool may have one more."""
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
            self._dispatch()
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
