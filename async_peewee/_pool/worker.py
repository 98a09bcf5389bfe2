"""Worker: one thread, one connection, jobs one after another, and an interrupt that cannot miss.

The worker knows callables, not Peewee: what it does to its connection goes through a
Driver. Jobs come to it from the pool, in its own inbox (pinned) or from the shared queue.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import anyio

from .._errors import PoolClosed, TransactionFinished
from .connection import Connection
from .gil import TurnGiver, TurnTaker
from .jobs import Interrupted, Job, State
from .write_lock import WriteGate

# The pauses between attempts to interrupt one job, in seconds: the first attempt may fall
# between two statements of it.
PAUSES = (0.02, 0.04, 0.08, 0.16, 0.25)


# How long a job is interrupted politely before its connection is shut down, in seconds.
GRACE = 5.0


class Interruptible:
    """The side of a worker that interrupts reach."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name
        self.connection = connection
        # Protects _job. An interrupt checks and strikes under it, so it cannot hit the
        # next job; the worker waits here while an interrupt is under way.
        self._guard = threading.Lock()
        self._job: Job | None = None

    # -- on the worker's own thread ---------------------------------------------------

    def check_interrupted(self) -> None:
        """Raise Interrupted if the running job was cancelled."""
        job = self._job
        if job is not None and job.interrupted:
            raise Interrupted(f"{job.label} was cancelled")

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Let no interrupt reach what runs inside: nobody could say what became of a COMMIT."""
        with self._guard:
            job, self._job = self._job, None
        try:
            yield
        finally:
            with self._guard:
                self._job = job

    # -- from any thread --------------------------------------------------------------

    def cancel(self, job: Job) -> None:
        """Interrupt `job`, again and again until it has ended, from a thread made for that.

        Not the loop's thread: an interrupt may talk to a server that does not answer. Not a
        worker: all of them may be busy.
        """
        job.finished = threading.Event()
        job.interrupted = True
        threading.Thread(
            target=self._pursue, args=(job, job.finished), name=f"{self.name} interrupt", daemon=True
        ).start()

    def _pursue(self, job: Job, finished: threading.Event) -> None:
        kill_at = time.monotonic() + GRACE
        attempt = 0
        while job.state is not State.DONE:
            self._strike(job, kill=time.monotonic() >= kill_at)
            if finished.wait(PAUSES[min(attempt, len(PAUSES) - 1)]):
                return
            attempt += 1

    def _strike(self, job: Job, kill: bool) -> None:
        # Decided and done under the guard: see __init__.
        with self._guard:
            if self._job is not job:
                return
            if kill:
                self.connection.kill()
            else:
                self.connection.interrupt()


logger = logging.getLogger("async_peewee")


# How long a worker without work sleeps before it looks whether its loop and its process
# still live, in seconds. Half a second is what a program may notice when it ends.
TICK = 0.5


class Dispatcher(TurnGiver, Protocol):
    """What a worker needs from its pool."""

    def started(self, worker: Worker) -> bool: ...
    def take(self, worker: Worker) -> Job | None: ...
    def claim(self, worker: Worker, job: Job) -> bool: ...
    def finish(self, worker: Worker, job: Job) -> Job | None: ...
    def refuse(self, job: Job, error: BaseException) -> None: ...
    def should_end(self, worker: Worker) -> bool: ...
    def ended(self, worker: Worker) -> None: ...


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


class Worker(TurnTaker, Interruptible):
    """Serve jobs on one thread until the pool, the loop or the process ends."""

    _pool: Dispatcher
    # Again: a checker of the installed package takes `+=` in a subclass for a name without a type.
    progress: int

    def __init__(self, pool: Dispatcher, connection: Connection, name: str) -> None:
        Interruptible.__init__(self, connection, name)
        TurnTaker.__init__(self)
        # Whose connection it has; a pool that is tested without one has none.
        self.database: Any = getattr(connection, "database", None)
        # None in the inbox means: end.
        self.inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._pool = pool
        self.held_gate: WriteGate | None = None
        # Whether it runs a statement that Peewee has written.
        self.is_generating = False
        self._visits: list[Callable[[], None]] = []
        # Below: the pool's, under the pool's lock.
        self.lease: object = None
        self.holder: tuple[str, float] | None = None
        self.is_started = False
        self.is_stopping = False
        self.idle_since: float = 0.0
        self.running: Job | None = None
        self.gone: anyio.Event | None = None

    @property
    def pinned(self) -> bool:
        """Whether a block or a stream holds the worker."""
        return self.lease is not None

    # -- on the worker's own thread ---------------------------------------------------

    def serve(self) -> None:
        """Take jobs and run them; return when there is no more to do for this worker."""
        if not self._pool.started(self):
            return
        thread = threading.current_thread()
        borrowed_name, thread.name = thread.name, self.name
        here.worker = self
        self.start_clock()
        try:
            job = self._pool.take(self) or self._wait()
            while job is not None:
                job = self._perform(job) or self._wait()
        finally:
            self._close()
            self._leave_gate()
            self._refuse_rest()
            here.worker = None
            thread.name = borrowed_name
            self._pool.ended(self)

    def _wait(self) -> Job | None:
        while True:
            try:
                return self.inbox.get(timeout=TICK)
            except queue.Empty:
                if self._pool.should_end(self):
                    return None

    def _perform(self, job: Job) -> Job | None:
        if job.state is not State.TAKEN and not self._pool.claim(self, job):
            return None
        if job.holds_gate and job.gate is not None:
            self._note_gate(job.gate)
        self._run(job)
        self._clean_up(job)
        # First free, then answered: when control returns to the caller, the worker that
        # served it can be had again.
        return self._pool.finish(self, job)

    def _run(self, job: Job) -> None:
        function, job.function = job.function, None
        with self._guard:
            self._job = job
        try:
            self.check_interrupted()
            self._check_lease(job)
            # A held connection that was lost is closed when its holder has been told so.
            if not self.pinned or self.connection.state.get("closed"):
                self._make_ready()
            assert function is not None
            job.result = job.context.run(function)
        except StopIteration as error:
            # A coroutine cannot raise it: Python would turn it into something vaguer.
            job.error = RuntimeError(f"{job.label} raised StopIteration")
            job.error.__cause__ = error
        except BaseException as error:
            job.error = error
        finally:
            with self._guard:
                self._job = None
            self.progress += 1
            # Whatever the function held (a cursor in a query) is let go on this thread.
            del function

    def _make_ready(self) -> None:
        if self.connection.state.get("closed") and self.connection.opens_slowly():
            with self.aside():
                self.connection.ensure_connected(self.check_interrupted)
        else:
            self.connection.ensure_connected(self.check_interrupted)

    def _check_lease(self, job: Job) -> None:
        # Its block has ended before it: here it would be part of another's, or committed on its own.
        if job.in_block and job.lease is not self.lease:
            raise TransactionFinished(f"{job.label}: its block has ended, and its connection serves others")

    def _clean_up(self, job: Job) -> None:
        # Whatever fails here, the caller must be answered: it waits, and cannot be cancelled.
        try:
            for leave in self._visits:
                leave()
            stays = (self.pinned or (job.pin and job.error is None)) and not job.unpin
            if stays:
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

    def _refuse_rest(self) -> None:
        while True:
            try:
                job = self.inbox.get_nowait()
            except queue.Empty:
                return
            if job is not None:
                if job.holds_gate and job.gate is not None:
                    job.gate.leave()
                self._pool.refuse(job, PoolClosed(self.name))

    def at_job_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` run when the current job has ended, whatever became of it."""
        self._visits.append(callback)

    def defer(self, callback: Callable[[], Any]) -> None:
        """Have `callback` run on the loop's thread when the current job has succeeded."""
        job = self.running
        assert job is not None
        job.after = [*(job.after or ()), callback]

    def enter_gate(self, gate: WriteGate, timeout: float) -> bool:
        """Hold the gate until the job or its transaction ends; False: not within `timeout` seconds."""
        if self.held_gate is not None:
            return True
        job = self._job
        with self.aside() if gate.is_held else nullcontext():
            entered = gate.enter_blocking(timeout, lambda: job is not None and job.interrupted)
        if not entered:
            self.check_interrupted()
            return False
        self._note_gate(gate)
        return True

    def leave_gate(self) -> None:
        """Let the next writer in, unless a transaction goes on."""
        if not self.connection.in_transaction():
            self._leave_gate()

    def _note_gate(self, gate: WriteGate) -> None:
        self.held_gate = gate
        gate.describe = self.describe

    def _leave_gate(self) -> None:
        gate, self.held_gate = self.held_gate, None
        if gate is not None:
            gate.leave()

    def describe(self, now: float) -> str:
        """Say what holds this worker, for the message of a PoolTimeout."""
        if self.holder is not None:
            label, since = self.holder
            return f"{label} for {now - since:.1f} s"
        job = self.running
        return job.label if job is not None else ""
