"""Pin: a worker held for one block, and what it takes to hold it and to let it go."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable
from typing import Any

import peewee

from ._driver import ConnectionDriver
from ._errors import TransactionFinished
from ._jobs import Job
from ._loops import current_task, running_key, task_name
from ._pool import WorkerPool
from ._worker import Worker, here

logger = logging.getLogger("async_peewee")


class Pin:
    """A worker held for one block, and by whom."""

    __slots__ = ("__weakref__", "_finalizer", "ended", "label", "lease", "owner", "pool", "worker")
    ended: bool
    label: str
    lease: object
    owner: weakref.ReferenceType[Any]
    pool: WorkerPool
    worker: Worker

    def __init__(self, pool: WorkerPool, job: Job, task: Any) -> None:
        """Hold what a job has pinned."""
        self.pool = pool
        self.worker = worker = job.worker
        self.lease = job.lease
        label = job.label
        self.label = f"{label} in task {task_name(task)!r}"
        self.ended = False
        # Not always the task that leaves the block: a generator that is dropped in the middle
        # is closed by another one.
        self.owner = weakref.ref(task)
        worker.holder = (self.label, time.monotonic())
        # A task can end without leaving its block. The finalizer runs wherever the garbage
        # collector does, perhaps under a lock of ours: it may only post.
        self._finalizer = weakref.finalize(task, reclaim, self)
        self._finalizer.atexit = False

    def check(self) -> None:
        """Raise if the block has ended, or runs on another event loop."""
        if self.ended:
            raise TransactionFinished(
                f"{self.label} has ended, and its connection serves others; make the call inside the block"
            )
        if self.pool.loop.key is not running_key():
            raise peewee.InterfaceError(f"{self.label} belongs to another event loop")

    def end(self) -> None:
        self.ended = True
        self._finalizer.detach()

    def drop(self, clean_up: Callable[[], Any] = lambda: None) -> None:
        """Give the worker back without waiting; safe wherever a finalizer may run."""
        self.end()
        self.pool.post(self.job(clean_up, unpin=True))

    def post(self, clean_up: Callable[[], Any]) -> None:
        """Have something cleaned up on the worker without waiting; safe wherever a finalizer may run."""
        self.pool.post(self.job(clean_up))

    def job(self, function: Callable[[], Any], label: str = "", *, unpin: bool = False) -> Job:
        """Return a job for this worker, which runs only as long as the pin holds it."""
        return Job(function, label or self.label, worker=self.worker, lease=self.lease, unpin=unpin)


def reclaim(pin: Pin) -> None:
    """Take a worker back from a task that has ended inside its block."""
    logger.error("%s was never left; it is rolled back", pin.label)
    pin.drop()


def require_task() -> Any:
    task = current_task(running_key())
    if task is None:
        raise peewee.InterfaceError("a connection context belongs to a task, and no task is running here")
    return task


def current_driver(database: Any) -> ConnectionDriver | None:
    """Return the driver of the worker whose thread this is, None on another thread or database."""
    worker = here.worker
    if isinstance(database, peewee.Proxy):
        database = database.obj
    return worker.driver if worker is not None and worker.database is database else None  # type: ignore[return-value]
