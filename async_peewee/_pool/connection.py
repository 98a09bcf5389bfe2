"""Connection: what a worker needs of its connection, whatever the database.

It belongs to one worker. Its methods run on that worker's thread, except `interrupt`
and `kill`, which run on another one while a statement of the worker is running.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol


def close_quietly(close: Callable[[], None]) -> None:
    """Close a cursor whatever became of its connection, which the worker's looks after."""
    for _ in range(2):
        try:
            close()
            return
        except Exception:
            # Again: that the connection is lost psycopg learns from the first attempt, and
            # it warns of a cursor that is dropped open.
            continue


class Connection(Protocol):
    """What a worker needs from its connection; `_drivers` has one for each database."""

    # Peewee's state of the worker's thread: closed, transactions, callbacks.
    state: dict[str, Any]
    # Something has changed the session that the next user must not meet.
    session_changed: bool
    # User code has had the driver's connection, and may keep it.
    was_handed_out: bool
    # Cursors of streams that were begun and not ended.
    streams: list[Any]
    # From how many seconds on a statement is worth passing the turn on for.
    worth_passing: float
    # Whether the database works in another process: who waits for it leaves a processor free.
    may_overlap: bool
    # Whether opening the connection is mostly waiting.
    opens_slowly: bool

    def ensure_connected(self, check: Callable[[], None]) -> None:
        """Open the connection, or replace it if it is broken or old.

        `check` raises when nobody wants it any more.
        """

    def begin_stream(self, is_alone: bool) -> Any:
        """Return a cursor that fetches rows as they are asked for."""

    def doubt_streams(self) -> None:
        """Note that a transaction or savepoint ends, and with it perhaps the cursors that it has opened."""

    def note_cursor(self, cursor: Any) -> None:
        """Note a cursor that a job has opened, where one that is left open matters to the next job."""

    def begin_statement(self) -> None:
        """Prepare for a statement; raise if the database has ended the transaction that it is for."""

    def note_error(self, error: Any) -> None:
        """Look what an error says of the connection."""

    def check_transaction(self) -> None:
        """Look what a job has left of the transaction that goes on, or of the connection without one."""

    def clean_up(self) -> None:
        """Leave nothing of a job behind: no open transaction, no broken connection."""

    def within_grace(self, what: str) -> AbstractContextManager[object]:
        """Cut the connection under what runs inside, if that has no answer within the grace period."""

    def in_transaction(self) -> bool:
        """Return True while a transaction is open."""

    def close(self) -> None:
        """Roll back and close."""

    def interrupt(self) -> None:
        """Stop the running statement; from another thread. May block for two seconds."""

    def kill(self) -> None:
        """Cut the connection under the running statement; from another thread."""


@dataclass
class StreamRequest:
    """A wish for a streaming cursor, on its way through Peewee, and the cursor that came of it."""

    is_alone: bool
    cursor: Any = None
