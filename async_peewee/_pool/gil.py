"""Who may run Python: one worker at a time under the GIL, the others while it waits for the database.

Under the GIL two threads that run Python only take turns, and each change of turn costs both
of them more than a small statement takes. So one worker has the turn, and goes on from job to
job. When its statement is expected to take long, or is seen to, the turn goes to another one.
A short one that a server works on is not worth that; where jobs mostly consist of such, two
workers have a turn, and one computes while the other waits. On a free-threaded Python nobody
needs a turn: there the two classes of each pair that says so do nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

# How long a worker waits for its turn before it goes on without, in seconds: the loop, which
# sees to it that nobody keeps the turn, may have gone.
PATIENCE = 0.5

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

# More turns than there can be workers.
UNBOUNDED = 1_000_000


def has_gil() -> bool:
    """Return True if one thread of this interpreter at a time can run Python."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


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


# -- a worker's side ------------------------------------------------------------------


class GilTurns:
    """Give the turn up for what takes long, and note for the pool how the worker gets on."""

    def __init__(self, giver: Any, worth_passing: float) -> None:
        # The WorkerPool, which is above: it gives and takes turns.
        self._giver = giver
        # From how many seconds on a statement is worth passing the turn on for.
        self._worth_passing = worth_passing
        # Acquired by the worker that waits for its turn, released by the pool that gives it.
        self._given = threading.Lock()
        self._given.acquire()
        # For the pool, which looks whether a worker gets on: how many statements and jobs it has
        # ended, and whether it is in one.
        self.progress: int = 0
        self.in_driver: bool = False
        self._clock: int | None = None
        # What its jobs have waited for in short statements, and all that it has computed, in seconds.
        self._waited = self._used = 0.0

    def start_clock(self) -> None:
        if hasattr(time, "pthread_getcpuclockid"):
            self._clock = time.pthread_getcpuclockid(threading.get_ident())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let another worker have the turn while this one waits inside."""
        self._giver.give_up_turn(self)
        try:
            yield
        finally:
            self._take_back()

    def statement(
        self, expected: ExpectedTime, execute: Callable[..., Any], *args: Any, **options: Any
    ) -> Any:
        """Run a statement; another worker has the turn meanwhile if it is expected to take long."""
        is_long = expected.seconds >= self._worth_passing
        if is_long:
            self._giver.give_up_turn(self)
        else:
            # Not what it takes now: with others in Python it has to wait for them as well.
            self._waited += expected.seconds
        start = time.perf_counter()
        self.in_driver = True
        try:
            return execute(*args, **options)
        finally:
            self.in_driver = False
            self.progress += 1
            expected.took(time.perf_counter() - start)
            if is_long:
                self._take_back()

    def _take_back(self) -> None:
        has_turn = self._giver.take_back_turn(self) or self._given.acquire(timeout=PATIENCE)
        if not has_turn and self._giver.continue_without_turn(self):  # it has come at the last moment
            self._given.acquire()

    def resume(self) -> None:
        """Let the worker go on, which has its turn now; from any thread."""
        self._given.release()

    def take_spent(self) -> tuple[float, float]:
        """Return how long it has computed and waited in short statements since the last call, in seconds."""
        used, waited = time.thread_time(), self._waited
        computed, self._used, self._waited = used - self._used, used, 0.0
        return computed, waited

    def processor_time(self) -> float:
        """Return the seconds of processor time that the worker's thread has used; from any thread."""
        return time.clock_gettime(self._clock) if self._clock is not None else 0.0


class FreeTurns:
    """What a worker does about its turn on a free-threaded Python: nothing."""

    def __init__(self) -> None:
        self.in_driver: bool = False
        self.progress: int = 0

    def start_clock(self) -> None: ...

    def take_spent(self) -> tuple[float, float]:
        return 0.0, 0.0

    def waiting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def statement(
        self, expected: ExpectedTime, execute: Callable[..., Any], *args: Any, **options: Any
    ) -> Any:
        self.in_driver = True
        try:
            return execute(*args, **options)
        finally:
            self.in_driver = False


def make_turns(giver: Any, worth_passing: float) -> GilTurns | FreeTurns:
    """Return what a new worker does about its turn."""
    return GilTurns(giver, worth_passing) if has_gil() else FreeTurns()


# -- the pool's side ------------------------------------------------------------------


class Gil:
    """Say whose turn it is; all of it under the pool's lock."""

    def __init__(self) -> None:
        # How many turns are free. An attribute, for it is looked at several times for each job.
        # Less than none, while one is to be given up.
        self.free = 1
        self._overlaps = False
        # What an average job computes, and waits in short statements, in seconds.
        self._computed = self._waited = 0.0
        # Who has one, and what the last look has seen of it: its progress, its processor time.
        self._holders: dict[GilTurns, tuple[int, float] | None] = {}
        # When that was, and how much processor time the loop's thread had used.
        self._looked_at = self._loop_used = 0.0
        # Those that take their turn back after a long statement: in the middle of a job, so
        # they go first.
        self.returning: deque[GilTurns] = deque()

    def take(self, turns: Any) -> None:
        """Give a turn that is free to a worker; one that has a turn keeps it."""
        # A writer may get its next job while it is leaving the write lock, before its turn is over.
        self.free -= turns not in self._holders
        self._holders[turns] = None

    def learn(self, computed: float, waited: float) -> None:
        """Learn from a job whether two workers are to overlap."""
        self._computed += (computed - self._computed) / MEMORY
        self._waited += (waited - self._waited) / MEMORY
        overlaps = self._computed <= self._waited * MOST_COMPUTING
        self.free += overlaps - self._overlaps
        self._overlaps = overlaps

    def give_up(self, turns: Any) -> bool:
        """Take the turn from a worker; False: it did not have one."""
        had = turns in self._holders
        if had:
            del self._holders[turns]
            self.free += 1
        return had

    def take_back(self, turns: GilTurns) -> bool:
        """Give a turn to a worker in the middle of a job; False: it has to wait."""
        if self.free > 0:
            self.take(turns)
            return True
        self.returning.append(turns)
        return False

    def continue_without(self, turns: GilTurns) -> bool:
        """Take a worker out of the queue of those that take a turn back; False: it has one by now."""
        waits = turns in self.returning
        if waits:
            self.returning.remove(turns)
        return waits

    def take_returning(self) -> GilTurns | None:
        """Return the first of those that wait for a turn in the middle of a job, with the turn."""
        if not self.returning:
            return None
        turns = self.returning.popleft()
        self.take(turns)
        return turns

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
                self.give_up(holder)


class NoGil:
    """Let every worker run: a free-threaded Python."""

    free = UNBOUNDED
    returning: tuple[()] = ()

    def take(self, turns: Any) -> None: ...

    def learn(self, computed: float, waited: float) -> None: ...

    def give_up(self, turns: Any) -> bool:
        return False

    def take_back(self, turns: Any) -> bool:
        return True

    def continue_without(self, turns: Any) -> bool:
        return True

    def take_returning(self) -> None:
        return None

    def free_if_stuck(self, now: float) -> None: ...


def make_gil() -> Gil | NoGil:
    """Return who says whose turn it is, for a new pool."""
    return Gil() if has_gil() else NoGil()
