"""Dispatch: what the workers ask of their pool, on their own threads: jobs, turns, replies."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ._crew import Crew
from ._jobs import Job, State
from ._loops import EventLoop
from ._replies import Replies
from ._schedule import Schedule
from ._turns import TurnTaker
from ._worker import Worker


class Dispatch:
    """The side of a pool that its workers see."""

    def __init__(
        self, loop: EventLoop, lock: threading.Lock, crew: Crew, schedule: Schedule, grow: Callable[[], None]
    ) -> None:
        self._loop = loop
        # The pool's, and what it protects.
        self._lock = lock
        self._crew = crew
        self._schedule = schedule
        # Hires a worker; on the loop's thread.
        self._grow = grow
        # The pool delivers what waits here when it looks.
        self.replies = Replies(loop)

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
            job = self._schedule.dispatch(worker)
            must_grow = self._schedule.may_grow()
        if must_grow:
            self._loop.wake(self._grow)
        return job

    def claim(self, worker: Worker, job: Job) -> bool:
        """Return False if a job from the worker's own inbox was dropped meanwhile."""
        with self._lock:
            if job.state is State.QUEUED:
                self._schedule.assign(job, worker)
            return job.state is State.TAKEN

    def finish(self, worker: Worker, job: Job) -> Job | None:
        """Note that a job has ended and reply; return the next one for its worker."""
        with self._lock:
            job.state = State.DONE
            worker.running = None
            job.pinned = job.pin and job.error is None
            if job.pinned:
                worker.lease = job.lease
            elif job.unpin and job.lease is worker.lease:
                worker.lease = None
            if not worker.pinned:
                worker.holder = None
                self._crew.rest(worker)
        if worker.held_gate is not None:
            # While it has the turn and is the first of the idle: the next writer gets both.
            worker.leave_gate()
        following, batch = self._pass_on(worker)
        if job.finished is not None:
            job.finished.set()
        self.replies.send(job, batch)
        return following

    def _pass_on(self, worker: Worker) -> tuple[Job | None, int]:
        """Return the next job for a worker, and how many replies may wait for one another meanwhile."""
        spent = worker.spent() if worker.driver.may_overlap else None
        with self._lock:
            self._schedule.turnstile.leave(worker)
            if spent is not None:
                self._schedule.turnstile.weigh(*spent)
            following = self._schedule.dispatch(worker)
            batch = self._schedule.batch()
            must_grow = self._schedule.may_grow()
        if must_grow:
            self._loop.wake(self._grow)
        return following, batch

    def step_aside(self, worker: TurnTaker) -> None:
        """Pass the turn on: its worker is going to wait."""
        with self._lock:
            if not self._schedule.turnstile.leave(worker):
                return
            self._schedule.dispatch()
            is_free = self._schedule.turnstile.free > 0
            must_grow = self._schedule.may_grow()
        if must_grow:
            self._loop.wake(self._grow)
        if is_free:
            self.replies.flush()

    def step_back(self, worker: TurnTaker) -> bool:
        """Return True if the worker has the turn again; False: it has to wait for `worker.turn`."""
        with self._lock:
            return self._schedule.turnstile.come_back(worker)

    def go_on(self, worker: TurnTaker) -> bool:
        """Return False if the worker goes on without the turn; True: it has got it just now."""
        with self._lock:
            return not self._schedule.turnstile.stop_waiting(worker)

    def refuse(self, job: Job, error: BaseException) -> None:
        """Answer a job that its worker will not run."""
        job.error = error
        self.replies.send(job)
