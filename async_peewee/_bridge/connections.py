"""Connections: which worker's connection a block, a stream or a task has, one set for each database.

Keyed by task. An inherited contextvar would put a child task into its parent's
transaction, where their statements interleave and one's rollback takes the other's rows.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import peewee

from .._errors import PoolClosed, TransactionFinished
from .._eventloops import call_at_end, call_at_end_no_more, current_task, running_key, task_name
from .._pool.connection import Connection
from .._pool.jobs import Job, Lease
from .._pool.per_loop import PoolPerLoop
from .._pool.pool import WorkerPool
from .._pool.worker import Worker
from .._pool.write_lock import WriteLock
from .._settings import PoolSettings
from .entries import Entries, Entry, OutsideCall, blocks_above, note_entered, note_left, nothing

logger = logging.getLogger("async_peewee")

# Why a call fails whose block was left under it.
LEFT_BY_ANOTHER = (
    "was left by another task than the one that entered it, and what this task did in it is rolled back. "
    "A generator with a block in it that is left by `break` is closed later: write "
    "async with contextlib.aclosing(generator)"
)


def require_task() -> Any:
    """Return the task that runs here; raise InterfaceError where none does."""
    task = current_task(running_key())
    if task is None:
        raise peewee.InterfaceError("a connection context belongs to a task, and no task is running here")
    return task


class Connections:
    """The pools of one database, and who holds a worker of them."""

    # Every database's connections, for aio(function), which names no database.
    known: ClassVar[weakref.WeakSet[Connections]] = weakref.WeakSet()

    def __init__(
        self,
        settings: PoolSettings,
        make_connection: Callable[[], Connection],
        forget_connection: Callable[[], Any],
    ) -> None:
        self.pools: PoolPerLoop = PoolPerLoop(settings, make_connection)
        # In front of the writers of this database, None where the database needs none.
        self.write_lock: WriteLock | None = None
        # The functions that were seen to take it: the next time they wait for it without a worker.
        self._writers: set[str] = set()
        # What the database does, after a fork, with the connection of the thread that survives.
        self._forget_connection = forget_connection
        # What each task has entered, the innermost last.
        self._entries: weakref.WeakKeyDictionary[Any, list[Entry]] = weakref.WeakKeyDictionary()
        self.known.add(self)

    def forget(self) -> Any:
        """After a fork, in the child: begin anew, and return what must not be let go of."""
        inherited = (self.pools.forget(), self._entries, self._forget_connection())
        for stack in list(self._entries.values()):
            for entry in stack:
                entry.lease.state = Lease.ENDED
        self._entries = weakref.WeakKeyDictionary()
        return inherited

    # -- who holds what ---------------------------------------------------------------

    def current(self) -> Entry | None:
        """Return what the current task has entered last, None outside any block."""
        if not self._entries:
            return None
        task = current_task(running_key())
        stack = self._entries.get(task) if task is not None else None
        while stack and stack[-1].is_lent and stack[-1].is_over:
            stack.pop()
        return stack[-1] if stack else None

    def require(self, what: str) -> Entry:
        """Return what the current task has entered; raise InterfaceError outside any block."""
        entry = self.current()
        if entry is None:
            raise peewee.InterfaceError(
                f"{what} outside a block would reach an arbitrary connection; "
                "write it inside: async with db.manual_commit(), or another block"
            )
        return entry

    def find(self, entries: Entries) -> Entry | None:
        """Return the innermost of these entries that is of this database and not over."""
        pool = self.pools.find() if entries else None
        for reference in reversed(entries):
            entry = reference()
            if entry is not None and entry.pool is pool and not entry.is_over:
                return entry
        return None

    def outside(self, label: str, is_connection: bool = False) -> OutsideCall | None:
        """Return what warns of a call or block of this task, if a task above has a transaction open."""
        pool = self.pools.find()
        for reference in reversed(blocks_above()):
            entry = reference()
            if entry is not None and entry.pool is pool and entry.is_open_transaction:
                return OutsideCall(label, entry, self.write_lock is not None, is_connection)
        return None

    def push(self, entry: Entry) -> None:
        """Let the task of an entry be inside of it."""
        task = entry.task()
        if task not in self._entries:
            self._entries[task] = []
            call_at_end(task, self._left_behind)
        self._entries[task].append(entry)
        if entry.block is None or entry.block.owns_queries:
            note_entered(entry)

    def pop(self, entry: Entry) -> list[Entry]:
        """Let the task of an entry be outside; return what it has entered inside and not left."""
        entry.is_left = True
        note_left(entry)
        task = entry.task()
        stack = self._entries.get(task, []) if task is not None else []
        if entry not in stack:
            return []
        position = stack.index(entry)
        inside = [other for other in stack[position + 1 :] if other.lease is entry.lease]
        del stack[position]
        if not stack:
            del self._entries[task]
            call_at_end_no_more(task, self._left_behind)
        return inside

    def _left_behind(self, task: Any) -> None:
        for entry in self._entries.pop(task, []):
            entry.reclaim()

    # -- calls ------------------------------------------------------------------------

    def note_writer(self, worker: Worker) -> None:
        """Remember that the function of the running job writes."""
        job = worker.job
        if self.write_lock is not None and job is not None and job.lease is None:
            self._writers.add(job.label)

    async def call(
        self, function: Callable[[], Any], label: str, entry: Entry | None = None, writes: bool | None = False
    ) -> Any:
        """Run a function on the worker of an entry, or on whichever is free, and return its result.

        Outside a block a function that writes waits for the write lock before it has a worker;
        `writes` is None where only its name is known.
        """
        if entry is not None:
            return await self._call_inside(function, label, entry)
        lock = self.write_lock
        if lock is not None and not (label in self._writers if writes is None else writes):
            lock = None
        job, pool = Job(function, label, write_lock=lock), self.pools.get()
        pool.start(job)
        try:
            await pool.wait(job)
        except BaseException as cancelled:
            _raise_loss(job, cancelled)
            raise
        return job.outcome() if job.after is None else await _outcome(job)

    async def call_outside(
        self,
        outside: OutsideCall,
        function: Callable[[], Any],
        label: str,
        entry: Entry | None,
        writes: bool | None,
    ) -> Any:
        """Make a call of a child task that is outside its parent's transaction; warn if it writes."""
        if writes or label in self._writers:
            outside.warn()  # before it waits for what the parent holds
        else:
            function = outside.watch(function)
        return await self.call(function, label, entry, writes)

    async def _call_inside(self, function: Callable[[], Any], label: str, entry: Entry) -> Any:
        entry.check()
        job, pool = Job(function, label, lease=entry.lease), entry.pool
        pool.start(job)
        try:
            await pool.wait(job)
        except BaseException as cancelled:
            _raise_loss(job, cancelled)
            raise
        if entry.may_be_dropped:
            # Who closes a generator that was dropped before this call was made goes first.
            await anyio.lowlevel.checkpoint()
        if entry.problem:
            raise TransactionFinished(entry.label, entry.problem)
        return job.outcome() if job.after is None else await _outcome(job)

    async def acquire(
        self,
        function: Callable[[], Any],
        label: str,
        *,
        undo: Callable[[], Any] = nothing,
        write_lock: WriteLock | None = None,
    ) -> tuple[WorkerPool, Lease, Any]:
        """Lease a worker and run a function on it, in one hop.

        Returns the pool, the lease and the result. If the function raises, nothing is leased. If
        the task is cancelled when the function has succeeded already, `undo` runs first.
        """
        pool, lease = self.pools.get(), Lease(f"{label} in task {task_name(require_task())!r}")
        job = Job(function, label, lease=lease, takes_lease=True, write_lock=write_lock)
        try:
            await pool.run(job)
            result = job.outcome()
        except BaseException:
            if lease.is_held:
                with contextlib.suppress(PoolClosed):  # its worker has ended, and undone everything
                    await self.end(pool, lease, undo)
            raise
        return pool, lease, result

    async def end(self, pool: WorkerPool, lease: Lease, function: Callable[[], Any]) -> Any:
        """Run a last function on a leased worker and give the worker back. Not interrupted."""
        job = Job(function, lease.label, lease=lease)
        try:
            # The shield: what ends a block must run although the block was cancelled, or the
            # worker would never come back.
            with anyio.CancelScope(shield=True):
                await pool.end(lease, job)
        except BaseException as cancelled:
            _raise_loss(job, cancelled)
            raise
        return await _outcome(job)

    async def call_to_the_end(self, entry: Entry, function: Callable[[], Any]) -> Any:
        """Run a function on a leased worker that must not be interrupted, such as a rollback."""
        job = entry.job(function)
        # The shield: as in end().
        with anyio.CancelScope(shield=True):
            await entry.pool.run(job, shielded=True)
        return await _outcome(job)

    async def warm_up(self) -> None:
        """Connect the first workers, at least one, so that a wrong address shows at once."""
        pool = self.pools.get()
        leases = [Lease("connect()") for _ in range(max(1, self.pools.settings.pool_min_size))]
        # Leased, so that each goes to a worker of its own.
        jobs = [Job(nothing, "connect()", lease=lease, takes_lease=True) for lease in leases]
        try:
            async with anyio.create_task_group() as group:
                for job in jobs:
                    group.start_soon(pool.run, job)
        finally:
            for lease in leases:
                if lease.is_held:
                    await self.end(pool, lease, nothing)
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

    def __init__(self, connections: Connections, entry: Entry) -> None:
        self._connections = connections
        self._shared = entry
        self._entered: list[Entry] = []

    async def __aenter__(self) -> SharedConnection:
        shared = self._shared
        shared.check()
        entry = Entry(shared.pool, shared.lease, shared.label, require_task())
        entry.outside = shared.outside
        self._connections.push(entry)
        self._entered.append(entry)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = current_task(running_key())
        own = [entry for entry in self._entered if entry.task() is task] or self._entered
        entry = own[-1]
        self._entered.remove(entry)
        self._connections.pop(entry)


def _raise_loss(job: Job, cancelled: BaseException) -> None:
    """Raise the error of a job whose COMMIT was cut: of a mere cancellation nobody would think that."""
    if job.was_cut and job.error is not None:
        if isinstance(cancelled, KeyboardInterrupt):  # which is to end the program all the same
            raise cancelled from job.error
        raise job.error from cancelled


@contextlib.contextmanager
def inside(entries: Entries) -> Iterator[None]:
    """Let the current task be inside blocks, where it is in none of the same database."""
    entered = []
    for connections in list(Connections.known):
        entry = connections.find(entries)
        if entry is not None and connections.current() is None:
            own = Entry(entry.pool, entry.lease, entry.label, require_task())
            own.outside = entry.outside
            connections.push(own)
            entered.append((connections, own))
    try:
        yield
    finally:
        for connections, own in entered:
            connections.pop(own)


async def _outcome(job: Job) -> Any:
    result = job.outcome()
    for callback in job.after or ():
        answer = callback()
        if inspect.isawaitable(answer):
            await answer
    return result


# -- which database a call is for -------------------------------------------------------


def connections_for_function(
    function: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
) -> Connections:
    """Choose the database on whose worker a plain function runs, for aio(function, ...).

    That of the object whose method it is, else the one whose connection the task holds, else that
    of its arguments, else the only one open on this loop, else the only one there is.
    """
    if isinstance(function, partial):
        merged = {**function.keywords, **(kwargs or {})}
        return connections_for_function(function.func, (*function.args, *args), merged)
    own = _connections_about(getattr(function, "__self__", None))
    if own is not None:
        return own
    everyone = list(Connections.known)
    held = [connections for connections in everyone if connections.current() is not None]
    if len(held) == 1:
        return held[0]
    given = {_connections_about(argument) for argument in (*args, *(kwargs or {}).values())} - {None}
    is_open = [c for c in everyone if (pool := c.pools.find()) is not None and not pool.is_closed]
    for candidates in (given, is_open, everyone):
        if len(candidates) == 1 and (found := next(iter(candidates))) is not None:
            return found
    raise peewee.InterfaceError(
        f"aio(function) cannot tell which of {len(everyone)} databases is meant; "
        "write: await db.run(function, ...)"
    )


def _connections_about(thing: Any) -> Connections | None:
    """Return the connections of a model, an instance, a query or a database; None for anything else."""
    if isinstance(thing, peewee.Model) or (isinstance(thing, type) and issubclass(thing, peewee.Model)):
        thing = thing._meta.database
    elif isinstance(thing, (peewee.BaseQuery, peewee.Table)):
        thing = vars(thing)["_database"]
    if isinstance(thing, peewee.Proxy):
        thing = thing.obj
    connections = getattr(thing, "connections", None) if isinstance(thing, peewee.Database) else None
    return connections if isinstance(connections, Connections) else None


def connections_of(database: Any) -> Connections:
    """Return the connections of a database, or of what a proxy stands for."""
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
