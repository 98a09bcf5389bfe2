"""Who may run Python: one worker at a time under the GIL, the others while it waits for the database."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from .connection import Connection

# How long a worker waits for its turn before it goes on without, in seconds: the loop, which
# sees to it that nobody keeps the turn, may have gone.
PATIENCE = 0.5


class ExpectedTime:
    """How long a statement is expected to take in the driver, in seconds, learned from how long it took."""

    __slots__ = ("seconds",)
    seconds: float

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def took(self, seconds: float) -> None:
        """Learn from an execution: believe a short one at once, a long one by and by.

        A short one may seem long, because its thread had to wait for the interpreter.
        """
        if seconds > self.seconds:
            seconds = self.seconds + (seconds - self.seconds) / 4
        self.seconds = seconds


class TurnGiver(Protocol):
    """What gives and takes turns: the worker's pool."""

    def step_aside(self, worker: TurnTaker) -> None: ...
    def step_back(self, worker: TurnTaker) -> bool: ...
    def go_on(self, worker: TurnTaker) -> bool: ...


class TurnTaker:
    """Give the turn up for what takes long, and note for the turnstile how it gets on."""

    _pool: TurnGiver
    connection: Connection

    def __init__(self) -> None:
        # Acquired by the worker that waits for its turn, released by the pool that gives it.
        self.turn: threading.Lock = threading.Lock()
        self.turn.acquire()
        # For the pool, which looks whether a worker gets on: how many statements and jobs it has
        # ended, and whether it is in one.
        self.progress: int = 0
        self.in_driver: bool = False
        self._clock: int | None = None
        # What its jobs have waited for in short statements, and all that it has computed, in seconds.
        self._waited = self._used = 0.0

    def start_clock(self) -> None:
        """On the worker's own thread: let others read how much processor time it uses."""
        if hasattr(time, "pthread_getcpuclockid"):
            self._clock = time.pthread_getcpuclockid(threading.get_ident())

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let another worker have the turn while this one waits inside."""
        self._pool.step_aside(self)
        try:
            yield
        finally:
            self._come_back()

    def ask(self, statement: ExpectedTime, execute: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run a statement; another worker has the turn meanwhile if it is expected to take long."""
        is_long = statement.seconds >= self.connection.worth_passing
        if is_long:
            self._pool.step_aside(self)
        else:
            # Not what it takes now: with others in Python it has to wait for them as well.
            self._waited += statement.seconds
        start = time.perf_counter()
        self.in_driver = True
        try:
            return execute(*args, **options)
        finally:
            self.in_driver = False
            self.progress += 1
            statement.took(time.perf_counter() - start)
            if is_long:
                self._come_back()

    def _come_back(self) -> None:
        is_back = self._pool.step_back(self) or self.turn.acquire(timeout=PATIENCE)
        if not is_back and self._pool.go_on(self):  # it has come at the last moment
            self.turn.acquire()

    def spent(self) -> tuple[float, float]:
        """Return how long it has computed and waited in short statements since the last call, in seconds."""
        used, waited = time.thread_time(), self._waited
        computed, self._used, self._waited = used - self._used, used, 0.0
        return computed, waited

    def processor_time(self) -> float:
        """Return the seconds of processor time that the worker's thread has used; from any thread."""
        return time.clock_gettime(self._clock) if self._clock is not None else 0.0


# A holder that has used less than this share of the time since the last look is waiting for
# something, in Python code or in the driver.
WORKING_SHARE = 0.25


# A loop that has used more than this share of it may be what the holder has waited for.
BUSY_SHARE = 0.5


# Two workers get more done than one as long as their jobs compute for at most so many times
# as long as they wait in short statements. Measured at a server on the same machine: get(),
# create() and small transactions up to 2.3 times, lists of a hundred rows from 2.7 times on.
MOST_COMPUTING = 2.5


# In how many jobs a change of what they are like shows.
MEMORY = 16


def turns() -> int:
    """Return how many threads of this interpreter can run Python at the same time."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return 1 if has_gil else os.cpu_count() or 1


class Turnstile:
    """Say whose turn it is; all of it under the pool's lock."""

    def __init__(self) -> None:
        # How many turns are free. An attribute, for it is looked at several times for each job.
        # Less than none, while one is to be given up.
        self.free = turns()
        self._overlaps = False
        # What an average job computes, and waits in short statements, in seconds.
        self._computed = self._waited = 0.0
        # Who has one, and what the last look has seen of it: its progress, its processor time.
        self._holders: dict[TurnTaker, tuple[int, float] | None] = {}
        # When that was, and how much processor time the loop's thread had used.
        self._looked_at = self._loop_used = 0.0
        # Those that come back from a long statement: in the middle of a job, so they go first.
        self._returning: deque[TurnTaker] = deque()

    def take(self, worker: TurnTaker) -> None:
        """Give a turn that is free to a worker; one that has a turn keeps it."""
        # A writer may get its next job while it is leaving the gate, before its turn is over.
        self.free -= worker not in self._holders
        self._holders[worker] = None

    def weigh(self, computed: float, waited: float) -> None:
        """Learn from a job whether two workers are to overlap."""
        self._computed += (computed - self._computed) / MEMORY
        self._waited += (waited - self._waited) / MEMORY
        overlaps = self._computed <= self._waited * MOST_COMPUTING
        self.free += overlaps - self._overlaps
        self._overlaps = overlaps

    def leave(self, worker: TurnTaker) -> bool:
        """Take the turn from a worker; False: it did not have one."""
        had = worker in self._holders
        if had:
            del self._holders[worker]
            self.free += 1
        return had

    def come_back(self, worker: TurnTaker) -> bool:
        """Give a turn to a worker in the middle of a job; False: it has to wait."""
        if self.free > 0:
            self.take(worker)
            return True
        self._returning.append(worker)
        return False

    def stop_waiting(self, worker: TurnTaker) -> bool:
        """Take a worker out of the queue of those that come back; False: it has a turn by now."""
        waits = worker in self._returning
        if waits:
            self._returning.remove(worker)
        return waits

    def next_returning(self) -> TurnTaker | None:
        """Return the first of those that come back, None if there is none."""
        return self._returning.popleft() if self._returning else None

    def free_if_stuck(self, now: float) -> None:
        """Take the turn from holders that have got nowhere since the last look, and wait.

        Called on the loop's thread, which may have kept them from the interpreter: then they
        are looked at again.
        """
        elapsed, self._looked_at = now - self._looked_at, now
        loop_used = time.thread_time()
        was_busy = loop_used - self._loop_used > elapsed * BUSY_SHARE
        self._loop_used = loop_used
        for holder, seen in list(self._holders.items()):
            progress, used = self._holders[holder] = holder.progress, holder.processor_time()
            if seen is None or seen[0] != progress or was_busy:
                continue
            # A driver that computes does so without the GIL.
            if holder.in_driver or used - seen[1] < elapsed * WORKING_SHARE:
                self.leave(holder)
