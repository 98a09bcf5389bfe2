"""A driver without a database, and a pool made of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from async_peewee._eventloops import event_loop, running_key
from async_peewee._pool.jobs import Job
from async_peewee._pool.pool import WorkerPool
from async_peewee._pool.worker import current_worker
from async_peewee._settings import PoolSettings
from tests.support import wait_until


class FakeConnection:
    """Note what a worker asks of its connection; an interrupt ends `blocked` calls."""

    worth_passing = 0.0001
    may_overlap = False

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.calls: list[str] = []
        self.interrupts = threading.Semaphore(0)
        self.in_a_transaction = False

    def opens_slowly(self) -> bool:
        return False

    def ensure_connected(self, check: Callable[[], None]) -> None:
        self.calls.append("ensure_connected")

    def begin_statement(self) -> None: ...

    def check_transaction(self) -> None:
        self.calls.append("check_transaction")

    def clean_up(self) -> None:
        self.calls.append("clean_up")

    def in_transaction(self) -> bool:
        return self.in_a_transaction

    def close(self) -> None:
        self.calls.append("close")

    def interrupt(self) -> None:
        self.calls.append("interrupt")
        self.interrupts.release()

    def kill(self) -> None:
        self.calls.append("kill")
        self.interrupts.release()


class FakePool:
    """A pool of workers with fake drivers, on the running loop."""

    def __init__(self, **settings: Any) -> None:
        self.connections: list[FakeConnection] = []
        self.pool = WorkerPool(
            "fake", PoolSettings.resolve(**settings), event_loop(running_key()), self._make_connection
        )

    def _make_connection(self) -> FakeConnection:
        self.connections.append(FakeConnection())
        return self.connections[-1]

    async def run(self, function: Callable[[], Any], label: str = "call", **options: Any) -> Any:
        """Run one job to its end and return its outcome."""
        if "worker" in options:
            options.setdefault("lease", options["worker"].lease)
        job = Job(function, label, **options)
        await self.pool.run(job)
        return job.outcome()

    async def __aenter__(self) -> FakePool:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.pool.close(5)


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
        fake.pool.submit(Job(blocker, "blocker"))
        await wait_until(blocker.running.is_set)
    return blockers


def until_interrupted() -> None:
    """Run like a slow statement: it ends when the connection of its worker is interrupted."""
    worker = current_worker()
    assert worker is not None
    assert worker.connection.interrupts.acquire(timeout=10)  # type: ignore[attr-defined]
