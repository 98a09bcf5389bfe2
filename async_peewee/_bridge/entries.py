"""Entries: one entering of one block by one task, and what a context tells of those that are open.

Connections are keyed by task. The context variable beside them puts nobody into a block: child
tasks inherit it, and are outside. It tells of a query in which blocks it was made, and of a
call which blocks of the tasks above it are open.
"""

from __future__ import annotations

import logging
import sys
import warnings
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from types import FrameType
from typing import Any, NamedTuple

import peewee

from .._errors import OutsideTransactionWarning, TransactionFinished
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
        "is_left",
        "is_lent",
        "label",
        "lease",
        "may_be_dropped",
        "outside",
        "owns_lease",
        "pool",
        "problem",
        "task",
    )
    # What leaves the block on the worker, for blocks of transactions.
    block: Any
    frame: int
    is_left: bool
    outside: OutsideCall | None
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
        # Its task is outside of it again.
        self.is_left = False
        # It is outside a transaction of a task above: what is warned of when a call in it writes.
        self.outside = None
        # It is of a stream that lends its connection, and over when that is.
        self.is_lent: bool = False

    @property
    def is_over(self) -> bool:
        """Whether calls in it are refused."""
        return bool(self.problem) or not self.lease.is_held

    @property
    def is_open_transaction(self) -> bool:
        """Whether what its task calls now is committed or rolled back with the block."""
        return self.block is not None and self.block.is_transaction and not self.is_left and not self.is_over

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
    """What one task has entered and not left, and what those above it had when they began it."""

    task: weakref.ReferenceType[Any]
    own: Entries
    above: Entries


open_blocks: ContextVar[OpenBlocks | None] = ContextVar("async_peewee_open_blocks", default=None)


def note_entered(entry: Entry) -> None:
    """Note that the current task has entered a block."""
    task, own = entry.task(), (weakref.ref(entry),)
    blocks = open_blocks.get()
    if blocks is None:
        open_blocks.set(OpenBlocks(entry.task, own, ()))
    elif blocks.task() is task:
        open_blocks.set(blocks._replace(own=blocks.own + own))
    else:
        open_blocks.set(OpenBlocks(entry.task, own, _alive(blocks.above + blocks.own)))


def note_left(entry: Entry) -> None:
    """Note that a block was left; does nothing in the context of another task."""
    blocks = open_blocks.get()
    if blocks is None or blocks.task() is not entry.task():
        return
    left = weakref.ref(entry)
    if blocks.own == (left,) and not blocks.above:  # nearly always
        open_blocks.set(None)
        return
    own = tuple(reference for reference in _alive(blocks.own) if reference is not left)
    above = _alive(blocks.above)
    open_blocks.set(OpenBlocks(blocks.task, own, above) if own or above else None)


def _alive(entries: Entries) -> Entries:
    return tuple(reference for reference in entries if reference() is not None)


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


def blocks_above() -> Entries:
    """Return the blocks that the tasks above the current one were in when they began it."""
    blocks = open_blocks.get()
    if blocks is None:
        return ()
    return blocks.above if _is_own(blocks) else blocks.above + blocks.own


# -- a child task that writes outside ----------------------------------------------------


PACKAGE = __name__.partition(".")[0]


class OutsideCall:
    """A call or a block of a child task, which is outside a transaction that a task above has open.

    If it writes it is warned of, at the place where it was made; Python's own filters show
    each place once.
    """

    def __init__(self, label: str, around: Entry, waits: bool, is_connection: bool = False) -> None:
        # It is a block without a transaction, and what is warned of are the calls in it.
        self._is_connection = is_connection
        self._label = label if label.endswith(")") else f"{label}()"
        # Whether a writer waits until the one before has ended.
        self._waits = waits
        self._around = weakref.ref(around)
        self._place = _place(sys._getframe(1))
        self._was_warned_of = False

    def of_call(self, label: str) -> OutsideCall:
        """Return what warns of a call: its own, or that of the transaction that it is in."""
        around = self._around() if self._is_connection else None
        return self if around is None else OutsideCall(label, around, self._waits)

    def watch(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Return a call of a function on a worker that is warned of when it writes."""

        def call() -> Any:
            worker = here.worker
            assert worker is not None
            worker.on_write = self.warn
            try:
                return function()
            finally:
                worker.on_write = None

        return call

    def warn(self) -> None:
        """Warn once, unless the block around has ended meanwhile. On any thread."""
        around = self._around()
        if self._was_warned_of or around is None or not around.is_open_transaction:
            return
        self._was_warned_of = True
        warning = OutsideTransactionWarning(self._label, around.label, self._waits)
        warnings.warn_explicit(warning, None, **self._place)


def _place(frame: FrameType) -> dict[str, Any]:
    """Return where the user's code made a call, as warnings want to know it."""
    caller: FrameType | None = frame
    while caller is not None and _is_ours(caller):
        frame, caller = caller, caller.f_back
    names = (caller or frame).f_globals
    return {
        "filename": (caller or frame).f_code.co_filename,
        "lineno": (caller or frame).f_lineno,
        "module": names.get("__name__"),
        "registry": names.setdefault("__warningregistry__", {}),
    }


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in (PACKAGE, "peewee", "playhouse")
