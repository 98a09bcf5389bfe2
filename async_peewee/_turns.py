"""Turns: the side of a worker that waits for the database, and lets another have its turn meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ._driver_protocol import Driver
from ._statements import Statement

# How long a worker waits for its turn before it goes on without, in seconds: the loop, which
# sees to it that nobody keeps the turn, may have gone.
PATIENCE = 0.5


class TurnGiver(Protocol):
    """What gives and takes turns: the worker's pool."""

    def step_aside(self, worker: TurnTaker) -> None: ...
    def step_back(self, worker: TurnTaker) -> bool: ...
    def go_on(self, worker: TurnTaker) -> bool: ...


class TurnTaker:
    """Give the turn up for what takes long, and note for the turnstile how it gets on."""

    _pool: TurnGiver
    driver: Driver

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

    def ask(self, statement: Statement, execute: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run a statement; another worker has the turn meanwhile if it is expected to take long."""
        is_long = statement.seconds >= self.driver.worth_passing
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
