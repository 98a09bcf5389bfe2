"""What the state machine of the pool works with: jobs that watch themselves, and a server of connections."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

from async_peewee._pool.jobs import Job, Lease, State
from async_peewee._pool.worker import Worker
from async_peewee._pool.write_lock import WriteLock
from tests.fakes import FakeConnection, worker_here

ENDED = (State.DONE, State.DROPPED)

stamps = itertools.count()


class Failure(Exception):
    """What a job fails with that is to fail."""


class Faults:
    """What was seen to be wrong, on whichever thread."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def expect(self, is_right: object, what: str) -> None:
        if not is_right:
            self.found.append(what)


class Recorded(Job):
    """A job that keeps its states and runs, and looks around when it runs.

    `how` it goes: "at once", "fails", "holds" until it is released, "waits" likewise without the turn.
    """

    def __init__(
        self, faults: Faults, number: int, how: str, *, lease: Lease | None = None, **options: Any
    ) -> None:
        self.states = [State.QUEUED]
        self.runs: list[tuple[int, Worker]] = []
        self.entered, self.released = threading.Event(), threading.Event()
        self.is_cancelled = False
        self._faults = faults
        self._how = how
        super().__init__(self._work, f"job {number} ({how})", lease=lease, **options)

    @property
    def state(self) -> State:  # type: ignore[override]
        return self.states[-1]

    @state.setter
    def state(self, state: State) -> None:
        if state is self.state:
            return
        self._faults.expect(
            self.state not in ENDED, f"{self.label} {self.state.value}, and then {state.value}"
        )
        self._faults.expect(state is not State.RUNNING or state not in self.states, f"{self.label} ran again")
        self.states.append(state)

    def _work(self) -> str:
        worker = worker_here()
        self.runs.append((next(stamps), worker))
        self._look_around(worker)
        connection: Any = worker.connection
        connection.current = self
        try:
            self._go_on(worker)
        finally:
            connection.current = None
        return self.label

    def _look_around(self, worker: Worker) -> None:
        expect, own = self._faults.expect, None if self.takes_lease else self.lease
        expect(worker.job is self, f"{self.label} runs, and its worker is said to run {worker.job}")
        expect(self.worker is worker, f"{self.label} runs on another worker than its own")
        expect(worker.lease is own, f"{self.label} runs on a worker under another lease")
        expect(own is None or own.worker is worker, f"{self.label} runs, and its lease has another worker")
        expect(self.state is State.RUNNING, f"{self.label} runs, and {self.state.value}")

    def _go_on(self, worker: Worker) -> None:
        self.entered.set()
        connection: Any = worker.connection
        connection.in_a_transaction |= self.takes_lease and self.write_lock is not None
        if self._how == "holds":
            self.released.wait()
        elif self._how == "waits":
            with worker.turns.waiting():
                self.released.wait()
        worker.interrupter.check()
        if self._how == "fails":
            raise Failure(self.label)

    @property
    def is_over(self) -> bool:
        return self.state in ENDED

    def is_moving(self, server: Server) -> bool:
        """Return whether it will get on by itself: it waits for nobody, and not to be released."""
        if self.state is State.PLACED:
            return self.worker.job is self
        if self.state is not State.RUNNING:
            return False
        if not self.entered.is_set():
            return server.answers.is_set()
        return self._how not in ("holds", "waits") or self.released.is_set()

    def check_end(self) -> None:
        """Note what is wrong with how it has ended."""
        expect = self._faults.expect
        expect(self.is_over, f"{self.label} still {self.state.value}")
        has_run = self.state is State.DONE
        expect(len(self.runs) <= has_run, f"{self.label} {self.state.value}, and ran {len(self.runs)} times")
        if self.parker is not None:
            woken: int = self.parker.woken  # type: ignore[attr-defined]
            own = self.is_cancelled and self.state is State.DROPPED
            expect(woken == 1 or (own and woken == 0), f"{self.label}: woken {woken} times")


class CountedParker:
    """A parker that counts how often it is woken."""

    def __init__(self, parker: Any) -> None:
        self._parker = parker
        self.park = parker.park
        self.woken = 0

    def unpark(self) -> None:
        self.woken += 1
        self._parker.unpark()


class Server:
    """Where the connections of the machine's pools come from."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.answers = threading.Event()
        self.answers.set()
        self.refuses = False
        self.opens_slowly = False

    def connection(self) -> ServedConnection:
        return ServedConnection(self)


class ServedConnection(FakeConnection):
    """A connection that an interrupt reaches while a job runs on it."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self.opens_slowly = server.opens_slowly
        self.current: Recorded | None = None

    def ensure_connected(self, check: Callable[[], None]) -> None:
        if not self.state["closed"]:
            return
        while not self._server.answers.wait(0.001):
            check()
        if self._server.refuses:
            raise ConnectionError("refused")
        self.state["closed"] = False

    def interrupt(self) -> None:
        job = self.current
        if job is not None:
            self._server.faults.expect(job.interrupted, f"{job.label} was hit by the interrupt of another")
            job.released.set()

    kill = interrupt

    def clean_up(self) -> None:
        self.in_a_transaction = False

    def check_transaction(self) -> None: ...

    def close(self) -> None:
        self.in_a_transaction = False
        self.state["closed"] = True


def holder_of(lock: WriteLock, workers: set[Worker]) -> Worker | None:
    """Return the worker that holds a lock."""
    return next((worker for worker in workers if worker.write_lock is lock), None)
