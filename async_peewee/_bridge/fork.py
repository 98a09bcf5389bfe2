"""Fork: the child begins without workers, and never touches a connection of its parent.

A connection used by two processes gives each the other's rows, and closing it in the child
ends it for the parent. So the child keeps what it has inherited, unused, and makes its own.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

import peewee

from .. import _eventloops
from .._pool import deadlines, worker, write_lock
from .connections import Connections

# What the child has inherited: kept, because letting go of it could close it.
_kept: list[Any] = []


class InheritedTransaction:
    """Stands in the child for a connection that was in a transaction when the process forked."""

    def __getattr__(self, name: str) -> NoReturn:
        raise peewee.InterfaceError(
            "this transaction belongs to the parent process, which has forked inside it; "
            "call db.dispose() in the child to begin with a connection of its own"
        )


def forget_in_child() -> None:
    """Make every database of this process new, as far as connections go."""
    worker.forget_worker()
    write_lock.forget_holders()
    deadlines.shared.forget()
    _eventloops.forget_loop()
    _kept.extend([connections.forget() for connections in list(Connections.known)])


def forget_connection(state: Any) -> Any:
    """Take the inherited connection out of this thread's Peewee state, and return it."""
    connection, in_transaction = state.conn, bool(state.transactions)
    state.reset()
    if in_transaction:
        # Outside of the transaction its statements would be committed one by one.
        state.set_connection(InheritedTransaction())
    return connection


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_in_child)
