"""WorkerPool: a bounded number of workers on one event loop, first come, first served.

It has the one lock. Whatever happens, on the loop's thread or on a worker's, it tells its
Scheduler under the lock, once, and does outside the lock what that has decided.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from .._errors import PoolClosed, TransactionFinished
from .._eventloops import EventLoop, Parker
from .._settings import PoolSettings
from .connection import Connection
from .gil import GilTurns
from .jobs import Job, Lease, State
from .scheduler import Actions, Scheduler
from .threads import WorkerThreads
from .worker import Worker, WorkerState, current_worker

logger = logging.getLogger("async_peewee")

# How long an outcome may wait for others while its worker goes on to the next job, in
# seconds: a wake costs as much as a small statement, for the loop's thread and the worker
# then fight for the interpreter.
REPLY_PATIENCE = 0.003

# Set, every pool checks its invariants after each event: for tests and for looking for faults.
CHECK_VARIABLE = "ASYNC_PEEWEE_CHECK"


@dataclass(frozen=True)
class PoolStats:
    """Say how a pool is: its size, what its workers do now, and what it has done so far.

    `pool_size`, `workers`, `idle`, `busy` and `leased` count workers, `waiting` the calls in
    the queue; `calls`, `cancelled`, `timed_out` and `refused` count calls since it was opened,
    `failed_connects` attempts to connect that failed.
    """

    pool_size: int = 0
    workers: int = 0
    idle: int = 0
    busy: int = 0
    leased: int = 0
    waiting: int = 0
    calls: int = 0
    cancelled: int = 0
    timed_out: int = 0
    refused: int = 0
    failed_connects: int = 0


class Replies:
    """Take outcomes on the workers' threads, and end the waits for them on the loop's."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        # A deque's append and popleft are atomic, and the flag is lowered before the deque is
        # emptied, so a reply is never left behind: at worst the loop is woken once too often.
        self._ready: deque[Parker] = deque()
        self._wake_due = False
        self._first_at = 0.0

    def send(self, job: Job, batch: int = 0) -> None:
        """Have the wait for a job ended; from any thread.

        With a `batch`, others will follow and the pool looks here before long: the loop is
        woken when more than so many are ready.
        """
        if job.parker is not None:
            if batch and not self._ready:
                self._first_at = time.monotonic()
            self._ready.append(job.parker)
        if self._wake_due:
            return
        if len(self._ready) > batch or time.monotonic() - self._first_at >= REPLY_PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Have the loop deliver what is ready; from any thread."""
        if self._ready and not self._wake_due:
            self._wake_due = True
            # A loop that is gone has nobody who waits; its workers notice by themselves.
            self._loop.wake(self.deliver)

    def deliver(self) -> None:
        """End the waits for all that is ready; on the loop's thread."""
        self._wake_due = False
        while self._ready:
            self._ready.popleft().unpark()


class WorkerPool:
    """Hand jobs to at most `pool_size` workers. What does not say otherwise is for the loop's thread."""

    def __init__(
        self, name: str, settings: PoolSettings, loop: EventLoop, make_connection: Callable[[], Connection]
    ) -> None:
        self.name = name
        self.settings = settings
        self.loop = loop
        self._make_connection = make_connection
        # How often `async with db` was entered and not left.
        self.entries = 0
        # Protects the scheduler, and its fields of each worker, job and lease. Held for a few
        # instructions only, never around a call that can block.
        self._lock = threading.Lock()
        self._scheduler = Scheduler(name, settings, self._make_worker, self._grant)
        self._threads = WorkerThreads(
            loop, self._scheduler.workers, self._dismiss, self._hire_failed, self._close_at_once
        )
        self._replies = Replies(loop)
        self._checks = bool(os.environ.get(CHECK_VARIABLE))

    def _make_worker(self, name: str) -> Worker:
        return Worker(self, self._make_connection(), name)

    # -- the one way in and out of the scheduler ----------------------------------------

    def _tell(self, event: Callable[..., Actions], *details: object) -> Actions:
        """Tell the scheduler what has happened, and do what it decides; from any thread."""
        with self._lock:
            actions = event(*details)
            if self._checks:
                self._scheduler.check()
        self._act(actions)
        return actions

    def _act(self, actions: Actions) -> None:
        for job in actions.hand_out:
            job.worker.inbox.put(job)
        for turns in actions.resume:
            turns.resume()
        if actions.flush:
            self._replies.flush()
        if actions.hire:
            # By way of the loop: a worker's thread may be who needs another one.
            self.loop.wake(partial(self._hire, actions.hire))
        if actions.watch is not None:
            self._begin_watch(actions.watch)
        if actions.stop or actions.refuse or actions.interrupt or actions.release:
            self._end(actions)

    def _begin_watch(self, pause: float) -> None:
        begin = partial(self.loop.call_every, pause, self._watch)
        if current_worker() is None:
            begin()
        else:
            self.loop.wake(begin)

    def _hire(self, workers: tuple[Worker, ...]) -> None:
        for worker in workers:
            self._threads.hire(worker)

    def _end(self, actions: Actions) -> None:
        """End what is to end: workers, jobs that never ran, jobs that run, a hold of the write lock."""
        for worker in actions.stop:
            worker.inbox.put(None)
        for job, error in actions.refuse:
            job.error = error
            self._replies.send(job)
        for job in actions.interrupt:
            job.worker.interrupter.interrupt(job)
        if actions.release is not None:
            actions.release.release(actions.release_to)

    # -- giving work --------------------------------------------------------------------

    async def run(self, job: Job, *, shielded: bool = False) -> None:
        """Submit a job and wait until it has ended; its outcome is in the job.

        Cancelled while the job waits, it never runs. Cancelled while it runs, it is
        interrupted, and the cancellation goes on when its worker is free. `shielded`: the job
        is left alone, and the cancellation goes on when it has ended.
        """
        self.start(job)
        await self.wait(job, shielded=shielded)

    def start(self, job: Job) -> None:
        """Submit a job to wait for later. Raises PoolClosed, PoolFull or TransactionFinished."""
        job.parker = self.loop.parker()
        self._tell(self._scheduler.submit, job)

    def submit(self, job: Job) -> None:
        """Put a job on its way that nobody will wait for. Raises as `start` does."""
        self._tell(self._scheduler.submit, job)

    def wait(self, job: Job, *, shielded: bool = False) -> Awaitable[None]:
        """Wait until a job that was started has ended; cancellation as in `run`."""
        assert job.parker is not None
        return job.parker.park(_never if shielded else partial(self._cancel, job))

    async def end(self, lease: Lease, last: Job) -> None:
        """End a lease with a last job, after what was placed for it, and wait; not interrupted.

        Raises TransactionFinished if the lease has ended already, and PoolClosed.
        """
        last.parker = self.loop.parker()
        self._tell(self._scheduler.end, lease, last)
        await self.wait(last, shielded=True)

    def end_later(self, lease: Lease, last: Job) -> None:
        """End a lease that nobody waits for; safe wherever a finalizer may run.

        The garbage collector may call it on a thread that is inside the pool's lock: so it is the
        loop's next turn that tells the scheduler.
        """
        self.loop.wake(partial(self._tell_posted, self._scheduler.end, lease, last))

    def submit_later(self, job: Job) -> None:
        """Put a job on its way that nobody waits for; safe wherever a finalizer may run."""
        self.loop.wake(partial(self._tell_posted, self._scheduler.submit, job))

    def _tell_posted(self, event: Callable[..., Actions], *details: object) -> None:
        # What has ended meanwhile, by the pool's or the block's end, has left nothing open.
        with contextlib.suppress(PoolClosed, TransactionFinished):
            self._tell(event, *details)

    def abandon(self, job: Job) -> None:
        """Have a job ended that nobody will wait for, if it still is under way."""
        if job.state not in (State.DONE, State.DROPPED):
            self._cancel(job)

    def drop_if_waiting(self, job: Job) -> None:
        """Drop a job that does not run yet, and leave one that does alone."""
        if job.state is State.PLACED:
            self._tell(self._scheduler.drop, job)

    def _cancel(self, job: Job) -> bool:
        """Drop a job that does not run yet (True), or have it interrupted (False)."""
        return self._tell(self._scheduler.cancel, job).is_dropped

    def _grant(self, job: Job) -> bool:
        """Take the write lock for a job that waits for it; on the thread of whoever releases it."""
        return self._tell(self._scheduler.lock_free, job).is_granted

    def _watch(self) -> float | None:
        actions = self._tell(self._scheduler.watch, time.monotonic())
        self._replies.deliver()
        return actions.watch_again

    # -- what workers ask, on their own threads -----------------------------------------

    def started(self, worker: Worker) -> bool:
        """Note that a worker's thread runs; False: it was stopped before it began."""
        with self._lock:
            return self._scheduler.started(worker)

    def is_wanted(self, worker: Worker) -> bool:
        """Return True if a worker that connects would find work."""
        with self._lock:
            return self._scheduler.is_wanted(worker)

    def connected(self, worker: Worker) -> Job | None:
        """Note that a worker can take jobs; return its first, None if it has to wait for one."""
        return self._tell(self._scheduler.connected, worker).run_now

    def attempt_failed(self, worker: Worker, error: BaseException) -> None:
        """Note that one attempt of a worker to connect has failed."""
        self._note_refusal(self._tell(self._scheduler.attempt_failed, worker, error), error)

    def connect_failed(self, worker: Worker, error: BaseException) -> None:
        """Note that a worker could not connect, and ends."""
        self._note_refusal(self._tell(self._scheduler.connect_failed, worker, error), error)

    def _note_refusal(self, actions: Actions, error: BaseException) -> None:
        if actions.is_refused:
            logger.warning("%s grows no further for now: %s", self.name, " ".join(str(error).split()))

    def _hire_failed(self, worker: Worker, error: Exception) -> None:
        """Note that there is no thread for a worker; on the loop's."""
        self.connect_failed(worker, error)
        self.gone(worker)

    def finished(self, worker: Worker, job: Job) -> Job | None:
        """Note that a job has ended and reply; return the next one for its worker."""
        spent = worker.turns.take_spent() if worker.connection.may_overlap else None
        lock = None if worker.write_lock is None else worker.give_back_write_lock(job)
        actions = self._tell(self._scheduler.finished, worker, job, spent, lock)
        if job.finished is not None:
            job.finished.set()
        self._replies.send(job, actions.batch)
        return actions.run_now

    def should_end(self, worker: Worker) -> bool:
        """End a worker without work that nobody has wanted for long; True: it is to end."""
        self._tell(self._scheduler.retire, worker, time.monotonic())
        return worker.state is WorkerState.STOPPING

    def gone(self, worker: Worker) -> None:
        """Note that a worker's thread is through with it."""
        self._tell(self._scheduler.gone, worker)
        self._threads.note_gone_anywhere()
        self.loop.wake(self._threads.note_gone)

    def give_up_turn(self, turns: GilTurns) -> None:
        """Pass the turn on: its worker is going to wait."""
        self._tell(self._scheduler.give_up_turn, turns)

    def take_back_turn(self, turns: GilTurns) -> bool:
        """Return True if a worker has its turn again; False: it has to wait until it is resumed."""
        with self._lock:
            return self._scheduler.take_back_turn(turns)

    def continue_without_turn(self, turns: GilTurns) -> bool:
        """Return False if a worker goes on without the turn; True: it has got it just now."""
        with self._lock:
            return self._scheduler.continue_without_turn(turns)

    # -- the end ------------------------------------------------------------------------

    async def close(self, timeout: float) -> bool:
        """Refuse new work, give what runs `timeout` seconds, interrupt the rest, leave nothing.

        Returns False if the pool was closed already. Cancelled, it interrupts at once and
        still waits for the threads to end.
        """
        first = not self.is_closed
        self._tell(self._scheduler.close)
        await self._threads.wait_until_gone(timeout)
        return first

    def close_later(self) -> None:
        """Close at once, without waiting; safe wherever a finalizer may run."""
        self.loop.wake(self._close_at_once)

    def _close_at_once(self) -> None:
        """Refuse new work and end all that is there, without waiting; from any thread."""
        self._tell(self._scheduler.close)
        for worker in list(self._scheduler.workers):
            self._dismiss(worker)

    def _dismiss(self, worker: Worker) -> None:
        """Have a worker end at once; from any thread."""
        self._tell(self._scheduler.dismiss, worker)
        worker.interrupter.limit_commit()
        if not worker.is_started:
            # Its thread never came, and finds that out if it still does.
            self.gone(worker)

    @property
    def is_closed(self) -> bool:
        return self._scheduler.is_closing

    def check(self) -> None:
        """Fail unless every invariant of the pool holds; from any thread."""
        with self._lock:
            self._scheduler.check()

    def stats(self) -> PoolStats:
        """Return what the pool does now and has done so far; from any thread."""
        scheduler = self._scheduler
        with self._lock:
            return PoolStats(
                pool_size=self.settings.pool_size,
                workers=len(scheduler.workers),
                idle=len(scheduler.idle),
                busy=sum(worker.job is not None for worker in scheduler.workers),
                leased=sum(worker.lease is not None for worker in scheduler.workers),
                waiting=scheduler.waiting,
                calls=scheduler.calls,
                cancelled=scheduler.counts["cancelled"],
                timed_out=scheduler.counts["timed_out"],
                refused=scheduler.counts["refused"],
                failed_connects=scheduler.counts["failed_connects"],
            )


def _never() -> bool:
    return False
