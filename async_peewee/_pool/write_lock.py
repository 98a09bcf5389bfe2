"""The write lock: one writer at a time per database file, first come first served.

SQLite has one writer by nature. Its own answer to a second one is to poll until the busy
timeout ends with "database is locked", and polling starves whoever came first. The lock
queues the writers of this process instead; other processes still meet the busy timeout.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

# How often a thread that waits for the lock looks whether its job was cancelled, in seconds.
POLL = 0.05


class Waiter:
    """Somebody who waits for the lock: a job of a scheduler, or a thread."""

    __slots__ = ("grant", "job", "scheduler")

    def __init__(self, grant: Callable[[Any], bool], job: Any = None, scheduler: object = None) -> None:
        # Called with the job, on the thread of whoever releases the lock; False: it is not wanted any more.
        self.grant: Callable[[Any], bool] = grant
        self.job: Any = job
        self.scheduler: object = scheduler


class WriteLock:
    """Admit one holder at a time; a queue of waiters takes the place of waiting threads."""

    def __init__(self) -> None:
        # Protects _held and _waiting. Never held while a grant runs: a grant takes the
        # lock of a pool, and a pool acquires this one under its own lock.
        self._lock = threading.Lock()
        self._held = False
        self._waiting: deque[Waiter] = deque()
        # Says who holds it and for how long, for a message; the holder sets it.
        self.describe: Callable[[float], str] = _nobody

    @property
    def is_held(self) -> bool:
        return self._held

    def acquire(self, waiter: Waiter) -> bool:
        """Return True if the lock is the caller's now; else the waiter is granted it later."""
        with self._lock:
            if not self._held:
                self._held = True
                return True
            self._waiting.append(waiter)
            return False

    def acquire_blocking(self, timeout: float, given_up: Callable[[], bool]) -> bool:
        """Wait in this thread for the lock, `timeout` seconds at most or until `given_up()`."""
        granted = threading.Event()
        # Whoever takes this lock decides: the grant, or the one who waits and gives up.
        decision = threading.Lock()

        def grant(job: None) -> bool:
            if not decision.acquire(blocking=False):
                return False
            granted.set()
            return True

        if self.acquire(Waiter(grant)):
            return True
        deadline = time.monotonic() + timeout
        while not granted.wait(POLL):
            if time.monotonic() >= deadline or given_up():
                return not decision.acquire(blocking=False)
        return True

    def take_next(self) -> Waiter | None:
        """Return the waiter whose turn it is, for the caller to grant it; None: the lock is free now."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._held = False
            return None

    def release(self, to: Waiter | None = None) -> None:
        """Hand the lock to a waiter that was taken out, else to the next one that still wants it."""
        waiter = to or self.take_next()
        while waiter is not None and not waiter.grant(waiter.job):
            waiter = self.take_next()


def _nobody(now: float) -> str:
    return "nobody"


# Protects _locks: two threads that open the same file must get the same lock.
_locks_lock = threading.Lock()


_locks: weakref.WeakValueDictionary[str, WriteLock] = weakref.WeakValueDictionary()


def forget_holders() -> None:
    """After a fork, in the child: who holds or waits for a lock is in the parent."""
    global _locks_lock
    _locks_lock = threading.Lock()
    for lock in list(_locks.values()):
        lock.__init__()  # type: ignore[misc]


def write_lock_for(path: str) -> WriteLock:
    """Return the lock of a database file, the same one for every database object on it."""
    with _locks_lock:
        lock = _locks.get(path)
        if lock is None:
            lock = _locks[path] = WriteLock()
        return lock
