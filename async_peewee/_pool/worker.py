"""Worker: one thread, one connection, jobs one after another, and an interrupt that cannot miss.

The worker knows callables, not Peewee: what it does to its connection goes through a
Connection. What it does next the pool decides, and puts into its inbox.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import Enum
from functools import partial
from typing import Any

from .._errors import Interrupted, PoolClosed
from . import deadlines
from .connection import Connection
from .deadlines import Deadline
from .gil import FreeTurns, GilTurns, make_turns
from .jobs import Job, Lease, State
from .write_lock import WriteLock

logger = logging.getLogger("async_peewee")

# How long a worker without work sleeps before it looks whether it is wanted at all, in seconds.
TICK = 0.5

# The pauses between attempts to interrupt one job, in seconds: the first attempt may fall
# between two statements of it.
PAUSES = (0.02, 0.04, 0.08, 0.16, 0.25)

# How long a COMMIT lasts before Ctrl-C is counted, in seconds: few last so long, and nobody is
# quicker than that with a second Ctrl-C.
SLOW_COMMIT = 0.2


class Here(threading.local):
    """What a thread knows of itself."""

    worker: Worker | None = None


# Read directly where each call of a function would count.
here = Here()


def current_worker() -> Worker | None:
    """Return the worker whose thread this is, None on any other thread."""
    return here.worker


def forget_worker() -> None:
    """After a fork, in the child: its one thread may have been a worker of the parent."""
    here.worker = None


class Interrupter:
    """Stop the running job of a worker from outside, and never the next one."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        # Protects _job. An interrupt checks and strikes under it, so it cannot hit the next job; the
        # worker waits here while an interrupt is under way.
        self._guard = threading.Lock()
        self._job: Job | None = None
        # Protects the fields below. Not the guard: the loop's thread would wait for an interrupt.
        self._limits = threading.Lock()
        # The job, while it is not to be interrupted, and when that is cut all the same: never,
        # unless the pool ends.
        self._spared: Job | None = None
        self._deadline: Deadline | None = None
        self._is_ending = False

    # -- on the worker's own thread ---------------------------------------------------

    def begin(self, job: Job) -> None:
        """Let interrupts of this job strike from now on."""
        with self._guard:
            self._job = job

    def end(self) -> None:
        """Let no interrupt strike any more; waits for one that is under way."""
        with self._guard:
            self._job = None

    def check(self) -> None:
        """Raise Interrupted if the running job was cancelled."""
        job = self._job
        if job is not None and job.interrupted:
            raise Interrupted(f"{job.label} was cancelled")

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Let no interrupt reach what runs inside: nobody could say what became of a COMMIT.

        When the pool ends, it is cut all the same, after the grace period.
        """
        with self._guard:
            job, self._job = self._job, None
        with self._limits:
            self._spared = job
            if self._is_ending:
                self._limit()
        try:
            yield
        finally:
            with self._limits:
                deadline, self._deadline, self._spared = self._deadline, None, None
            with self._guard:
                self._job = job
            if deadline is not None:
                self._end_limit(deadline, job)

    def _end_limit(self, deadline: Deadline, job: Job | None) -> None:
        deadlines.shared.end(deadline)
        if deadline.was_late and job is not None:
            job.was_cut = True
            logger.error("%s: %s had no answer to its end, and was cut", self._name, job.label)

    # -- from any thread --------------------------------------------------------------

    def limit_commit(self, job: Job | None = None) -> None:
        """Have a COMMIT cut, too, that has no answer within the grace period.

        That of `job`; without one, any that runs or will run: the pool, the loop or the program ends.
        """
        with self._limits:
            self._is_ending = self._is_ending or job is None
            if self._spared is not None and job in (None, self._spared):
                self._limit()

    def _limit(self) -> None:
        # Where the database is part of the process it is at work, and not silent.
        if self._deadline is None and self._connection.may_overlap:
            self._deadline = deadlines.shared.begin(deadlines.GRACE, self._connection.kill)

    def interrupt(self, job: Job) -> None:
        """Interrupt `job`, again and again until it has ended, from a thread made for that.

        Not the loop's thread: an interrupt may talk to a server that does not answer. Not a
        worker: all of them may be busy.
        """
        if job.finished is not None:  # such a thread is there
            return
        job.finished = threading.Event()
        job.interrupted = True
        thread = threading.Thread(
            target=self._interrupt_until_done,
            args=(job, job.finished),
            name=f"{self._name} interrupt",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:
            # Python 3.12 has no new thread for a program whose main thread has ended. Its
            # loop's watch asks again.
            job.finished = None
            self._interrupt_once(job, kill=True)

    def _interrupt_until_done(self, job: Job, finished: threading.Event) -> None:
        kill_at = time.monotonic() + deadlines.GRACE
        attempt, was_cut = 0, False
        while job.state is not State.DONE:
            if self._interrupt_once(job, kill=time.monotonic() >= kill_at) and not was_cut:
                was_cut = True
                logger.warning("%s: %s does not react to interrupts, and is cut", self._name, job.label)
            if finished.wait(PAUSES[min(attempt, len(PAUSES) - 1)]):
                return
            attempt += 1

    def _interrupt_once(self, job: Job, kill: bool) -> bool:
        """Interrupt a job, or cut its connection; True: it was cut."""
        # Decided and done under the guard: see __init__.
        with self._guard:
            if self._job is not job:
                return False
            if kill:
                self._connection.kill()
            else:
                self._connection.interrupt()
            return kill


class WorkerState(Enum):
    """What a worker is there for at the moment."""

    COMING = "connects"
    IDLE = "waits for any job"
    BUSY = "has a job"
    LEASED = "waits for a job of its lease"
    STOPPING = "ends after the job that it has"
    GONE = "its thread is through with it"


class Worker:
    """Serve jobs on one thread until the pool, the loop or the process ends."""

    def __init__(self, pool: Any, connection: Connection, name: str) -> None:
        # The WorkerPool, which is above: it is told what happened, and says what to do next.
        self._pool = pool
        self.name = name
        self.connection = connection
        self.turns: GilTurns | FreeTurns = make_turns(pool, connection.worth_passing)
        self.interrupter: Interrupter = Interrupter(connection, name)
        # Whose connection it has; a pool that is tested without one has none.
        self.database_key: object = getattr(connection, "database_key", None)
        # None in the inbox means: end.
        self.inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        # The write lock that it holds.
        self.write_lock: WriteLock | None = None
        self._writes_since = 0.0
        # Whether it runs a statement that Peewee has written.
        self.is_generating = False
        # What is called before a statement that writes, where the job's caller wants to know.
        self.on_write: Callable[[], None] | None = None
        self._visits: list[Callable[[], None]] = []
        # Below: the scheduler's, under the pool's lock.
        self.state = WorkerState.COMING
        self.is_started = False
        self.job: Job | None = None
        self.lease: Lease | None = None
        self.idle_since: float = 0.0

    # -- on the worker's own thread ---------------------------------------------------

    def serve(self) -> None:
        """Connect, take jobs and run them; return when there is no more to do for this worker."""
        if not self._pool.started(self):
            return
        thread = threading.current_thread()
        borrowed_name, thread.name = thread.name, self.name
        here.worker = self
        self.turns.start_clock()
        if self.connection.may_overlap:
            deadlines.shared.enter()
        try:
            if self._connect():
                self._serve_jobs()
        finally:
            self._close()
            self.release_write_lock()
            if self.connection.may_overlap:
                deadlines.shared.leave()
            here.worker = None
            thread.name = borrowed_name
            self._pool.gone(self)

    def _connect(self) -> bool:
        try:
            self.connection.ensure_connected(self._check_wanted)
        except Interrupted:
            return False
        except BaseException as error:
            self._pool.connect_failed(self, error)
            return False
        return True

    def attempt_failed(self, error: BaseException) -> None:
        """Note that one attempt to connect has failed; `error` quotes no secret."""
        self._pool.attempt_failed(self, error)

    def _check_wanted(self) -> None:
        if not self._pool.is_wanted(self):
            raise Interrupted(f"{self.name} is not needed any more")

    def _serve_jobs(self) -> None:
        # One name for all jobs, and no other frame keeps one: an idle worker must not keep
        # alive what its last caller had.
        job = self._pool.connected(self) or self._wait()
        while job is not None:
            job = self._perform(job)
            if job is None:
                job = self._wait()

    def _wait(self) -> Job | None:
        while True:
            try:
                job = self.inbox.get(timeout=TICK)
            except queue.Empty:
                if not self._pool.should_end(self) or self.job is not None:
                    continue
                return None
            if job is None and self.job is not None:
                # Handed out before the end was decided, on a thread that was slower.
                job = self.inbox.get()
                self.inbox.put(None)
            return job

    def _perform(self, job: Job) -> Job | None:
        if job.write_lock is not None:
            self._note_write_lock(job.write_lock)
        self._run(job)
        self._clean_up(job)
        # First free, then answered: when control returns to the caller, the worker that
        # served it can be had again.
        following: Job | None = self._pool.finished(self, job)
        return following

    def _run(self, job: Job) -> None:
        function, job.function = job.function, None
        context, job.context = job.context, None
        assert function is not None
        assert context is not None
        self.interrupter.begin(job)
        try:
            if job.interrupted:
                self.interrupter.check()
            # A leased connection that was lost is closed when its holder has been told so.
            if self.lease is None or self.connection.state.get("closed"):
                self._ensure_connected()
            job.result = context.run(function)
        except StopIteration as error:
            # A coroutine cannot raise it: Python would turn it into something vaguer.
            job.error = RuntimeError(f"{job.label} raised StopIteration")
            job.error.__cause__ = error
        except Interrupted as error:
            # Its caller was cancelled and does not look at it, or the pool ends under both.
            job.error = PoolClosed(job.closed_pool) if job.closed_pool else error
        except BaseException as error:
            job.error = error
        finally:
            self.interrupter.end()
            self.turns.progress += 1
            # Whatever the function held (a cursor in a query) is let go on this thread.
            del function, context

    def _ensure_connected(self) -> None:
        if self.connection.state.get("closed") and self.connection.opens_slowly:
            with self.turns.waiting():
                self.connection.ensure_connected(self.interrupter.check)
        else:
            self.connection.ensure_connected(self.interrupter.check)

    def _clean_up(self, job: Job) -> None:
        # Whatever fails here, the caller must be answered: it waits, and cannot be cancelled.
        try:
            for leave in self._visits:
                leave()
            if (job.takes_lease and job.error is None) or (self.lease is not None and not job.ends_lease):
                self.connection.check_transaction()
            else:
                self.connection.clean_up()
        except Exception:
            logger.exception(
                "%s: cleaning up after %s failed, the connection is dropped", self.name, job.label
            )
            self._close()
        finally:
            self._visits.clear()

    def _close(self) -> None:
        try:
            self.connection.close()
        except Exception:
            logger.exception("%s: its connection could not be closed", self.name)

    def at_job_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` run when the current job has ended, whatever became of it."""
        self._visits.append(callback)

    def defer(self, callback: Callable[[], Any]) -> None:
        """Have `callback` run on the loop's thread when the current job has succeeded."""
        job = self.job
        assert job is not None
        job.after = [*(job.after or ()), callback]

    def committing(self) -> AbstractContextManager[None]:
        """Let no interrupt reach the COMMIT inside, but for a second Ctrl-C, and the end of all."""
        if self._pool.loop.outlives_interrupts and self.connection.may_overlap:
            return self._heeding_interrupts()
        return self.interrupter.uninterrupted()

    @contextmanager
    def _heeding_interrupts(self) -> Iterator[None]:
        loop = self._pool.loop
        limit = partial(self.interrupter.limit_commit, self.job)
        heed, forget = partial(loop.heed_interrupts, limit), partial(loop.forget_interrupts, limit)
        deadline = deadlines.shared.begin(SLOW_COMMIT, partial(loop.wake, heed))
        try:
            with self.interrupter.uninterrupted():
                yield
        finally:
            deadlines.shared.end(deadline)
            if deadline.was_late:
                loop.wake(forget)

    # -- the write lock ---------------------------------------------------------------

    def acquire_write_lock(self, lock: WriteLock, timeout: float) -> bool:
        """Hold the lock until the job or its transaction ends; False: not within `timeout` seconds."""
        if self.write_lock is not None:
            return True
        job = self.job
        with self.turns.waiting() if lock.is_held else nullcontext():
            acquired = lock.acquire_blocking(timeout, lambda: job is not None and job.interrupted)
        if not acquired:
            self.interrupter.check()
            return False
        self._note_write_lock(lock)
        return True

    def give_back_write_lock(self, job: Job) -> WriteLock | None:
        """Return the lock, for the next writer, unless a transaction goes on: only that of a lease does."""
        if job.lease is not None and not job.ends_lease and self.connection.in_transaction():
            return None
        lock, self.write_lock = self.write_lock, None
        return lock

    def _note_write_lock(self, lock: WriteLock) -> None:
        self.write_lock = lock
        self._writes_since = time.monotonic()
        lock.describe = self._describe_write

    def release_write_lock(self) -> None:
        """Let the next writer in."""
        lock, self.write_lock = self.write_lock, None
        if lock is not None:
            lock.release()

    # -- from any thread --------------------------------------------------------------

    def describe(self, now: float) -> str:
        """Say what holds this worker, for the message of a PoolTimeout."""
        # Each read once: another thread may clear it at any time.
        lease, job = self.lease, self.job
        if lease is not None:
            return lease.describe(now)
        return job.label if job is not None else ""

    def _describe_write(self, now: float) -> str:
        """Say what holds the write lock by this worker, and for how long."""
        lease, job = self.lease, self.job
        # The lease's own age is that of its block, which may have begun to write only just now.
        holder = lease.label if lease is not None else job.label if job is not None else "nobody"
        return f"{holder} for {now - self._writes_since:.1f} s"
