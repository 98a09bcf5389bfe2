"""Deadlines: what may take so many seconds, and whose connection is cut after them.

What ends a block, a stream or a session cannot be given up by whoever waits for it, and loses
nothing when it is cut. So it has an end, also where a server does not answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

# How long something that nobody can give up may go without an answer before its connection is
# cut, in seconds; and a job that was cancelled, before it is interrupted no more but cut.
GRACE = 5.0

# How often the thread looks whether anything is late, in seconds.
LOOK = 0.2

# After how many looks at nothing it sleeps until there is something: to wake it takes longer than
# most of what it would be woken for.
LAST_LOOK = 5


class Deadline:
    """What is to be over at a certain time, and what is done if it is not."""

    __slots__ = ("at", "late", "was_late")

    def __init__(self, at: float, late: Callable[[], None]) -> None:
        # In seconds of time.monotonic().
        self.at: float = at
        self.late: Callable[[], None] = late
        self.was_late: bool = False


class Deadlines:
    """Call what is late, by one thread for all connections."""

    def __init__(self) -> None:
        # Protects the fields, and is held while something late is called: what has ended in time is
        # not cut afterwards, when its connection may serve somebody else.
        self._lock = threading.Lock()
        self._pending: set[Deadline] = set()
        # How many there are for whom the thread has to be there.
        self._guests = 0
        self._is_watched = False
        self._is_asleep = False
        self._wake = threading.Event()

    def enter(self) -> None:
        """Keep the thread until `leave`, for deadlines to come.

        Python 3.12 and later have no new thread for a program whose main thread has ended, and that is
        when the last transactions are rolled back.
        """
        with self._lock:
            self._guests += 1
            self._begin_watch()

    def leave(self) -> None:
        """Let the thread end, after the others' deadlines."""
        with self._lock:
            self._guests -= 1
            self._wake.set()

    def begin(self, seconds: float, late: Callable[[], None]) -> Deadline:
        """Have `late` called once, from another thread, unless `end` is called within `seconds`.

        It must neither block nor raise, nor begin or end a deadline.
        """
        deadline = Deadline(time.monotonic() + seconds, late)
        with self._lock:
            self._pending.add(deadline)
            self._begin_watch()
        return deadline

    def end(self, deadline: Deadline) -> None:
        """Note that something is over; waits for a call of `late` that is under way."""
        with self._lock:
            self._pending.discard(deadline)

    @contextmanager
    def within(self, seconds: float, late: Callable[[], None]) -> Iterator[Deadline]:
        """Have `late` called if what runs inside takes longer than `seconds`."""
        deadline = self.begin(seconds, late)
        try:
            yield deadline
        finally:
            self.end(deadline)

    def forget(self) -> None:
        """After a fork, in the child: the thread is the parent's, and so is what it watches."""
        self.__init__()  # type: ignore[misc]

    def _begin_watch(self) -> None:
        if self._is_asleep:
            self._is_asleep = False
            self._wake.set()
        if not self._is_watched:
            # A daemon: it must not keep alive a program whose workers have ended.
            thread = threading.Thread(target=self._watch, name="async_peewee deadlines", daemon=True)
            with suppress(RuntimeError):  # no more threads: the next one tries again
                thread.start()
                self._is_watched = True

    def _watch(self) -> None:
        looks = 0
        while True:
            self._wake.wait(None if self._is_asleep else LOOK)
            with self._lock:
                self._wake.clear()
                self._call_late(time.monotonic())
                looks = 0 if self._pending else looks + 1
                if not self._pending and not self._guests:
                    self._is_watched = False
                    return
                self._is_asleep = looks > LAST_LOOK

    def _call_late(self, now: float) -> None:
        for deadline in [deadline for deadline in self._pending if deadline.at <= now]:
            self._pending.discard(deadline)
            deadline.was_late = True
            deadline.late()


# Those of this process.
shared = Deadlines()
