"""A connection without a database, and a pool made of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from async_peewee._eventloops import event_loop, running_key
from async_peewee._pool.jobs import Job, Lease
from async_peewee._pool.pool import WorkerPool
from async_peewee._pool.worker import Worker, current_worker
from async_peewee._settings import PoolSettings
from tests.support import wait_until


class FakeConnection:
    """Note what a worker asks of its connection; an interrupt ends `until_interrupted`."""

    worth_passing = 0.0001
    may_overlap = False
    opens_slowly = False

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"closed": True}
        self.session_changed = self.was_handed_out = False
        self.calls: list[str] = []
        self.interrupts = threading.Semaphore(0)
        self.in_a_transaction = False

    def ensure_connected(self, check: Callable[[], None]) -> None:
        self.calls.append("ensure_connected")
        self.state["closed"] = False

    def begin_stream(self, is_alone: bool) -> Any:
        raise NotImplementedError

    def note_cursor(self, cursor: Any) -> None: ...

    def begin_statement(self) -> None: ...

    def note_error(self, error: Any) -> None: ...

    def check_transaction(self) -> None:
        self.calls.append("check_transaction")

    def clean_up(self) -> None:
        self.calls.append("clean_up")

    def within_grace(self, what: str) -> Any:
        return nullcontext()

    def in_transaction(self) -> bool:
        return self.in_a_transaction

    def close(self) -> None:
        self.calls.append("close")
        self.state["closed"] = True

    def interrupt(self) -> None:
        self.calls.append("interrupt")
        self.interrupts.release()

    def kill(self) -> None:
        self.calls.append("kill")
        self.interrupts.release()


class FakePool:
    """A pool of workers with fake connections, on the running loop."""

    def __init__(self, make: Callable[[], FakeConnection] = FakeConnection, **settings: Any) -> None:
        self.connections: list[FakeConnection] = []
        self._make = make
        self.pool = WorkerPool(
            "fake", PoolSettings.resolve(**settings), event_loop(running_key()), self._make_connection
        )

    def _make_connection(self) -> FakeConnection:
        self.connections.append(self._make())
        return self.connections[-1]

    async def run(self, function: Callable[[], Any], label: str = "call", **options: Any) -> Any:
        """Run one job to its end and return its outcome."""
        job = Job(function, label, **options)
        await self.pool.run(job)
        return job.outcome()

    async def lease(self, label: str = "block") -> Lease:
        """Take a lease."""
        lease = Lease(label)
        await self.run(nothing, label, lease=lease, takes_lease=True)
        return lease

    async def end(self, lease: Lease, function: Callable[[], Any] | None = None) -> Any:
        """End a lease with a last function, and return its result."""
        last = Job(function or nothing, "last", lease=lease)
        await self.pool.end(lease, last)
        return last.outcome()

    def submit(self, function: Callable[[], Any], label: str = "call", **options: Any) -> Job:
        """Put a job on its way that nobody waits for, and return it."""
        job = Job(function, label, **options)
        self.pool.submit(job)
        return job

    @contextmanager
    def turn_taken(self) -> Iterator[None]:
        """Have somebody keep the turn: what is submitted meanwhile is placed, or waits."""
        keeper: Any = Keeper()
        with self.pool._lock:
            self.pool._scheduler._gil.take(keeper)
        try:
            yield
        finally:
            self.pool.give_up_turn(keeper)

    async def __aenter__(self) -> FakePool:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.pool.close(5)


class Keeper:
    """Has the turn like a worker that gets on, whenever one looks."""

    in_driver = False

    def __init__(self) -> None:
        self._looks = 0

    @property
    def progress(self) -> int:
        self._looks += 1
        return self._looks

    def processor_time(self) -> float:
        return 0.0


def nothing() -> None:
    """Do nothing, where only the job matters."""


def worker_here() -> Worker:
    """Return the worker whose thread this is."""
    worker = current_worker()
    assert worker is not None
    return worker


class Blocker:
    """A function that runs until it is told to end, and notes when it is running."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.end = threading.Event()
        self.thread = ""

    def __call__(self) -> str:
        self.thread = threading.current_thread().name
        self.running.set()
        assert self.end.wait(10)
        return "ended"


async def all_running(fake: FakePool, number: int) -> list[Blocker]:
    """Return so many blockers, each running on a worker of its own."""
    blockers = [Blocker() for _ in range(number)]
    for blocker in blockers:
        fake.submit(blocker, "blocker")
        await wait_until(blocker.running.is_set)
    return blockers


def until_interrupted() -> None:
    """Run like a slow statement: it ends when the connection of its worker is interrupted."""
    assert worker_here().connection.interrupts.acquire(timeout=10)  # type: ignore[attr-defined]
