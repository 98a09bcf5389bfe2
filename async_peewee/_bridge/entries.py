"""Entries: one entering of one block by one task, and what a context tells of those that are open.

Connections are keyed by task. The context variable beside them puts nobody into a block: child
tasks inherit it, and are outside. It tells of a query in which blocks it was made.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

import peewee

from .._errors import TransactionFinished
from .._eventloops import current_task, running_key
from .._pool.jobs import Job, Lease
from .._pool.pool import WorkerPool
from .._pool.worker import here

logger = logging.getLogger("async_peewee")


class Entry:
    """One entering of one block by one task: what the task calls meanwhile runs on its lease's worker.

    A stream that lends its connection to the task that reads it, and a connection that another
    task has handed over, make entries too.
    """

    __slots__ = (
        "__weakref__",
        "block",
        "frame",
        "is_lent",
        "label",
        "lease",
        "may_be_dropped",
        "owns_lease",
        "pool",
        "problem",
        "task",
    )
    # What leaves the block on the worker, for blocks of transactions.
    block: Any
    frame: int
    may_be_dropped: bool
    problem: str

    def __init__(
        self, pool: WorkerPool, lease: Lease, label: str, task: Any, owns_lease: bool = False
    ) -> None:
        self.pool: WorkerPool = pool
        self.lease: Lease = lease
        self.label: str = label
        # Not always the task that leaves the block: a generator that is dropped in the middle
        # is closed by another one.
        self.task: weakref.ReferenceType[Any] = weakref.ref(task)
        self.owns_lease: bool = owns_lease
        self.block = None
        # Whose frame has entered it, by id, while the block is open; and whether that is one of an
        # asynchronous generator, which may be dropped in the middle.
        self.frame = 0
        self.may_be_dropped = False
        # Why calls in it are refused although the lease is held.
        self.problem = ""
        # It is of a stream that lends its connection, and over when that is.
        self.is_lent: bool = False

    @property
    def is_over(self) -> bool:
        """Whether calls in it are refused."""
        return bool(self.problem) or not self.lease.is_held

    def check(self) -> None:
        """Raise if the block has ended, or runs on another event loop."""
        if self.problem:
            raise TransactionFinished(self.label, self.problem)
        if self.lease.state is not Lease.HELD:
            raise self.lease.end_error()
        if self.pool.loop.key is not running_key():
            raise peewee.InterfaceError(f"{self.lease.label} belongs to another event loop")

    def job(self, function: Callable[[], Any], label: str = "") -> Job:
        """Return a job that runs on the lease's worker while the lease is held."""
        return Job(function, label or self.label, lease=self.lease)

    def reclaim(self) -> None:
        """Take the worker back from a task that has ended inside its block; safe in a finalizer."""
        if self.owns_lease and self.lease.is_held:
            self.owns_lease = False
            logger.error("%s was never left; it is rolled back", self.lease.label)
            self.pool.end_later(self.lease, self.job(nothing))

    def __del__(self) -> None:
        # A task of trio, and one of asyncio that is dropped unfinished, tell nobody that they
        # are no more: their entries go with them.
        self.reclaim()


def nothing() -> None:
    """Do nothing: what ends a lease rolls back whatever is open."""


# -- what a context tells -----------------------------------------------------------------


# Weakly, the innermost last: a query or a task that is kept must keep no block alive.
Entries = tuple[weakref.ReferenceType[Entry], ...]


class OpenBlocks(NamedTuple):
    """What one task has entered and not left; those that it has begun meanwhile inherit it."""

    task: weakref.ReferenceType[Any]
    own: Entries


open_blocks: ContextVar[OpenBlocks | None] = ContextVar("async_peewee_open_blocks", default=None)


def note_entered(entry: Entry) -> None:
    """Note that the current task has entered a block."""
    blocks = open_blocks.get()
    around = blocks.own if blocks is not None and blocks.task() is entry.task() else ()
    open_blocks.set(OpenBlocks(entry.task, (*around, weakref.ref(entry))))


def note_left(entry: Entry) -> None:
    """Note that a block was left; does nothing in the context of another task."""
    blocks = open_blocks.get()
    if blocks is None or blocks.task() is not entry.task():
        return
    left = weakref.ref(entry)
    own = () if blocks.own == (left,) else tuple(each for each in blocks.own if each is not left)
    open_blocks.set(OpenBlocks(blocks.task, own) if own else None)


def made_here() -> Entries:
    """Return the blocks that the current task is in, or the job of a worker, for what is made now."""
    blocks = open_blocks.get()
    if blocks is None:
        return ()
    worker = here.worker
    if worker is not None:
        return blocks.own if worker.job is not None and worker.job.lease is not None else ()
    return blocks.own if _is_own(blocks) else ()


def _is_own(blocks: OpenBlocks) -> bool:
    task = blocks.task()
    return task is not None and task is current_task(running_key())
