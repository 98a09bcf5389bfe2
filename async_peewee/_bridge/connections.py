"""Which database a call is for: that of a model or query, or the one that a plain function can only mean."""

from __future__ import annotations

import inspect
import logging
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar

import anyio
import peewee

from .._errors import TransactionFinished
from .._eventloops import call_at_end, call_at_end_no_more, current_task, running_key, task_name
from .._pool.connection import Connection
from .._pool.jobs import Job
from .._pool.per_loop import Pools
from .._pool.pool import WorkerPool
from .._pool.worker import Worker
from .._pool.write_lock import WriteGate
from .._settings import PoolSettings

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


class Connections(Pools):
    """The pools of one database, and who holds a worker of them."""

    # Every database's connections, for aio(function), which names no database.
    known: ClassVar[weakref.WeakSet[Connections]] = weakref.WeakSet()

    def __init__(self, settings: PoolSettings, make_connection: Callable[[], Connection]) -> None:
        super().__init__(settings, make_connection)
        # In front of the writers of this database, None where the database needs none.
        self.gate: WriteGate | None = None
        # The functions that were seen to pass it: the next time they wait for it without a worker.
        self._writers: set[str] = set()
        # What the database does, after a fork, with the connection of the thread that survives.
        self.forget_connection: Callable[[], Any] = lambda: None
        self._held: weakref.WeakKeyDictionary[Any, list[Pin]] = weakref.WeakKeyDictionary()
        self.known.add(self)

    def forget(self) -> Any:
        """After a fork, in the child: begin anew, and return what must not be let go of."""
        inherited = (super().forget(), self._held, self.forget_connection())
        for stack in list(self._held.values()):
            for pin in stack:
                pin.ended = True
        self._held = weakref.WeakKeyDictionary()
        return inherited

    # -- who holds what ---------------------------------------------------------------

    def current(self) -> Pin | None:
        """Return what the current task holds, None outside any block."""
        if not self._held:
            return None
        task = current_task(running_key())
        stack = self._held.get(task) if task is not None else None
        return stack[-1] if stack else None

    def require(self, what: str) -> Pin:
        """Return what the current task holds; raise InterfaceError outside any block."""
        pin = self.current()
        if pin is None:
            raise peewee.InterfaceError(
                f"{what} outside a block would reach an arbitrary connection; "
                "write it inside: async with db.manual_commit(), or another block"
            )
        return pin

    def push_current(self, pin: Pin) -> None:
        """Let the current task hold a worker."""
        task = require_task()
        if task not in self._held:
            self._held[task] = []
            call_at_end(task, self._left_behind)
        self._held[task].append(pin)

    def pop_held(self, pin: Pin, task: Any) -> None:
        """Let a task, None if it is gone, hold the worker no more."""
        stack = self._held.get(task, []) if task is not None else []
        if pin in stack:
            stack.remove(pin)
            if not stack:
                del self._held[task]
                call_at_end_no_more(task, self._left_behind)

    def _left_behind(self, task: Any) -> None:
        for pin in self._held.pop(task, []):
            if pin.owner() is task and not pin.ended:
                reclaim(pin)

    # -- calls ------------------------------------------------------------------------

    def note_writer(self, worker: Worker) -> None:
        """Remember that the function of the running job writes."""
        job = worker.running
        if self.gate is not None and job is not None and not job.in_block:
            self._writers.add(job.label)

    def _gate_of(self, label: str, writes: bool | None) -> WriteGate | None:
        if writes is None:
            writes = label in self._writers
        return self.gate if writes else None

    async def call(
        self, function: Callable[[], Any], label: str, pin: Pin | None = None, writes: bool | None = False
    ) -> Any:
        """Run a function on the worker of `pin`, or on whichever is free, and return its result.

        Outside a block a function that writes waits for the write gate before it has a worker;
        `writes` is None where only its name is known.
        """
        if pin is None:
            job, pool = Job(function, label, gate=self._gate_of(label, writes)), self.pool()
            pool.start(job)
        else:
            job, pool = self.begin(function, label, pin), pin.pool
        await pool.wait(job)
        return job.outcome() if job.after is None else await _outcome(job)

    def begin(self, function: Callable[[], Any], label: str, pin: Pin) -> Job:
        """Start a function on a pinned worker; `pin.pool.wait()` is for whoever wants its outcome."""
        pin.check()
        job = pin.job(function, label)
        pin.pool.start(job)
        return job

    async def acquire(
        self,
        function: Callable[[], Any],
        label: str,
        *,
        undo: Callable[[], Any] = lambda: None,
        gate: WriteGate | None = None,
    ) -> tuple[Pin, Any]:
        """Pin a worker and run a function on it, in one hop.

        Returns the pin and the result. If the function raises, nothing is pinned. If the
        task is cancelled when the function has succeeded already, `undo` runs first.
        """
        pool, task = self.pool(), require_task()
        job = Job(function, label, gate=gate, pin=True)
        try:
            await pool.run(job)
            result = job.outcome()
        except BaseException:
            if job.pinned and job.worker is not None:
                await _finish(pool, Job(undo, label, worker=job.worker, lease=job.lease, unpin=True))
            raise
        return Pin(pool, job, task), result

    async def release(self, pin: Pin, function: Callable[[], Any]) -> Any:
        """Run a last function on a pinned worker and give the worker back. Not interrupted."""
        pin.check()
        pin.end()
        job = pin.job(function, unpin=True)
        await _finish(pin.pool, job)
        return await _outcome(job)

    async def call_to_the_end(self, pin: Pin, function: Callable[[], Any]) -> Any:
        """Run a function on a pinned worker that must not be interrupted, such as a rollback."""
        pin.check()
        job = pin.job(function)
        await _finish(pin.pool, job)
        return await _outcome(job)

    async def warm_up(self) -> None:
        """Connect the first workers, at least one, so that a wrong address shows at once."""
        pool = self.pool()
        jobs = [Job(lambda: None, "connect()", pin=True) for _ in range(max(1, self.settings.pool_min_size))]
        # Pinned, so that each goes to a worker of its own.
        try:
            async with anyio.create_task_group() as group:
                for job in jobs:
                    group.start_soon(pool.run, job)
        finally:
            for job in jobs:
                if job.pinned and job.worker is not None:
                    await _finish(
                        pool, Job(lambda: None, job.label, worker=job.worker, lease=job.lease, unpin=True)
                    )
        for job in jobs:
            job.outcome()

    def share(self) -> SharedConnection:
        """Return the current task's connection as something that another task can enter."""
        return SharedConnection(self, self.require("db.share_connection()"))


class SharedConnection:
    """A block's connection, handed to another task by the one that holds it.

    The task that enters it works inside the block: same connection, same transaction, its
    calls queued with the owner's in order. When the owner's block has ended, calls raise
    TransactionFinished.
    """

    def __init__(self, connections: Connections, pin: Pin) -> None:
        self._connections = connections
        self._pin = pin

    async def __aenter__(self) -> SharedConnection:
        self._pin.check()
        self._connections.push_current(self._pin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connections.pop_held(self._pin, require_task())


async def _finish(pool: WorkerPool, job: Job) -> None:
    # The shield: what ends a block must run although the block was cancelled, or the
    # worker would never come back.
    with anyio.CancelScope(shield=True):
        await pool.run(job, shielded=True)


async def _outcome(job: Job) -> Any:
    result = job.outcome()
    for callback in job.after or ():
        answer = callback()
        if inspect.isawaitable(answer):
            await answer
    return result


def connections_for_function() -> Connections:
    """Choose the database on whose worker a plain function runs, for aio(function).

    The one whose connection the task holds, else the only one open on this loop, else the
    only one there is.
    """
    everyone = list(Connections.known)
    held = [connections for connections in everyone if connections.current() is not None]
    is_open = [c for c in everyone if (pool := c.find_pool()) is not None and not pool.is_closed]
    for candidates in (held, is_open, everyone):
        if len(candidates) == 1:
            return candidates[0]
    raise peewee.InterfaceError(
        f"aio(function) cannot tell which of {len(everyone)} databases is meant; "
        "write: await db.run(function, ...)"
    )


def connections_of(database: Any) -> Connections:
    """Return the connection connections of a database, or of what a proxy stands for."""
    if isinstance(database, peewee.Proxy):
        database = database.obj
    connections = getattr(database, "connections", None)
    if isinstance(connections, Connections):
        return connections
    if database is None:
        raise peewee.InterfaceError("no database is set: give the model's Meta one, or bind the query")
    raise peewee.InterfaceError(
        f"{type(database).__name__} is not an asynchronous database; use AsyncSqliteDatabase, "
        "AsyncPostgresqlDatabase or the AsyncDatabase mixin"
    )
