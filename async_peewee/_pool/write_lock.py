"""The write gate: one writer at a time per database file, first come first served.

SQLite has one writer by nature. Its own answer to a second one is to poll until the busy
timeout ends with "database is locked", and polling starves whoever came first. The gate
queues the writers of this process instead; other processes still meet the busy timeout.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

Grant = Callable[[], bool]


# How often a thread that waits for the gate looks whether its job was cancelled, in seconds.
POLL = 0.05


class WriteGate:
    """Admit one holder at a time; a queue of callbacks takes the place of waiting threads."""

    def __init__(self) -> None:
        # Protects _held and _waiting. Never held while a grant runs: a grant takes the
        # lock of a pool, and a pool enters the gate under its own lock.
        self._lock = threading.Lock()
        self._held = False
        self._waiting: deque[Grant] = deque()
        # Says who holds it, for a message; the holder sets it.
        self.describe: Callable[[float], str] = _nobody

    @property
    def is_held(self) -> bool:
        return self._held

    def enter(self, grant: Grant) -> bool:
        """Return True if the gate is the caller's now; else call `grant` when it is.

        `grant` runs on the thread of whoever leaves. It returns False if the gate is not
        wanted any more, and then the next in the queue is asked.
        """
        with self._lock:
            if not self._held:
                self._held = True
                return True
            self._waiting.append(grant)
            return False

    def enter_blocking(self, timeout: float, given_up: Callable[[], bool]) -> bool:
        """Wait in this thread for the gate, `timeout` seconds at most or until `given_up()`."""
        granted = threading.Event()
        # Whoever takes this lock decides: the grant, or the one who waits and gives up.
        decision = threading.Lock()

        def grant() -> bool:
            if not decision.acquire(blocking=False):
                return False
            granted.set()
            return True

        if self.enter(grant):
            return True
        deadline = time.monotonic() + timeout
        while not granted.wait(POLL):
            if time.monotonic() >= deadline or given_up():
                return not decision.acquire(blocking=False)
        return True

    def leave(self) -> None:
        """Hand the gate to the next in the queue."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._held = False
                    return
                grant = self._waiting.popleft()
            if grant():
                return


def _nobody(now: float) -> str:
    return "nobody"


# Protects _gates: two threads that open the same file must get the same gate.
_gates_lock = threading.Lock()


_gates: weakref.WeakValueDictionary[str, WriteGate] = weakref.WeakValueDictionary()


def forget_holders() -> None:
    """After a fork, in the child: who holds or waits for a gate is in the parent."""
    global _gates_lock
    _gates_lock = threading.Lock()
    for gate in list(_gates.values()):
        gate.__init__()  # type: ignore[misc]


def gate_for(path: str) -> WriteGate:
    """Return the gate of a database file, the same one for every database object on it."""
    with _gates_lock:
        gate = _gates.get(path)
        if gate is None:
            gate = _gates[path] = WriteGate()
        return gate
