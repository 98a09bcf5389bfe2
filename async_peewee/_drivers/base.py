"""WorkerConnection: one worker's connection, kept fit for use; the part that all databases share."""

from __future__ import annotations

import contextlib
import logging
import random
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import peewee

from .._pool import deadlines
from .._pool.connection import close_quietly
from .._pool.deadlines import Deadline
from .._pool.worker import Worker, current_worker
from .._settings import PoolSettings
from .connecting import connect_patiently
from .tls import explain_missing_file
from .urls import redacted

logger = logging.getLogger("async_peewee")


# A connection that was not used for so many seconds is asked whether it still answers: a
# peer that has died without a word looks alive from here.
ASK_AFTER = 30.0


# Connections made in one burst must not all be replaced in one burst: each lives this
# share of max_lifetime at least.
SHORTEST_LIFE = 0.9


class Versions:
    """What a database has been changed to last; its connections compare it with what they have."""

    def __init__(self) -> None:
        # Changes with each init(): a connection of an earlier one is replaced.
        self.connection: object = object()
        # Changes with each function and the like that is registered on an SQLite database.
        self.registrations: object = None


class WorkerConnection:
    """Keep one thread's Peewee connection fit for use; the common part of all drivers."""

    # How long a statement may take of which nothing is known, in seconds.
    expected_seconds: float = 0.0
    # From how many seconds on a statement is worth passing the turn on for. That costs two
    # changes of thread, and here, where the database is part of the process, it works on a
    # processor that the next worker would have to do without.
    worth_passing: float = 0.0005
    may_overlap: bool = False
    # Whether opening the connection is mostly waiting.
    opens_slowly: bool = False

    def __init__(self, database: Any, settings: PoolSettings) -> None:
        # Weakly: a worker must not keep alive a database that its program has dropped.
        self._database = weakref.ref(database)
        self.database_key: object = database.database_key
        # What of it the connection needs at each call.
        self._versions: Versions = database.versions
        self._peewee_state = database._state
        # The dict behind Peewee's thread-local state of this worker's thread. The loop's
        # thread reads it (in_transaction() and the like) while no job of the task runs.
        self.state: dict[str, Any] = {"closed": True, "transactions": [], "commit_callbacks": []}
        # The database has ended the transaction that Peewee believes to be open.
        self.dead: bool = False
        # Something has changed the session that the next user must not meet.
        self.session_changed: bool = False
        # The server has gone, or nobody knows what it will do to this connection.
        self._has_gone = False
        # User code has had the driver's connection, and may keep it.
        self.was_handed_out: bool = False
        self._session_reset = settings.session_reset
        self._acquire_timeout = settings.acquire_timeout
        self._max_lifetime = settings.max_lifetime
        self._used_at = 0.0
        self._replace_at = 0.0
        self._version: object = None
        # Cursors of streams that were begun and not ended.
        self.streams: list[Any] = []
        # Those among them that the end of a transaction or savepoint may have closed.
        self._doubtful: list[Any] = []
        # What closes those of streams that were dropped, before the next statement.
        self._dropped: deque[Callable[[], None]] = deque()
        # By when the connection that has just been made is to be set up.
        self._set_up_by: Deadline | None = None

    @property
    def database(self) -> Any:
        """The database; None when its program has dropped it."""
        return self._database()

    @property
    def dbapi_connection(self) -> Any:
        return self.state["conn"]

    def ensure_connected(self, check: Callable[[], None]) -> None:
        """Open the connection, or replace it if it is broken, old or of an earlier init().

        Before a job, never inside a transaction. `check` raises when nobody wants it any more.
        """
        now = time.monotonic()
        if not self.state["closed"] and (
            self._version is not self._versions.connection
            or now >= self._replace_at
            or not self.is_usable()
            or (now - self._used_at >= ASK_AFTER and not self.answers())
        ):
            self._discard()
            check()
        if self.state["closed"]:
            self._connect(check)
            now = time.monotonic()
        self._used_at = now

    def _connect(self, check: Callable[[], None]) -> None:
        self.state = self._peewee_state.__dict__
        self._version = self._versions.connection
        connect_patiently(self.database, self._attempt_to_open, self._acquire_timeout, check)
        self.session_changed = self.was_handed_out = False
        lifetime = self._max_lifetime * random.uniform(SHORTEST_LIFE, 1.0)
        self._replace_at = time.monotonic() + lifetime

    def _open(self) -> None:
        """Make one attempt to connect; if it fails, nothing is half open."""
        try:
            self.database.connect(reuse_if_open=True)  # which calls note_connection()
        except BaseException:
            # Peewee keeps a connection that was lost while it was being set up, and the next
            # attempt would take it for a good one.
            if not self.state["closed"]:
                self._discard()
            raise

    def _attempt_to_open(self) -> None:
        try:
            self._open()
        except Exception as error:
            explain_missing_file(self.database, error)
            if (worker := current_worker()) is not None and isinstance(error, peewee.PeeweeException):
                worker.attempt_failed(redacted(error, self.database))
            raise

    def begin_set_up(self) -> None:
        """Give what sets a new connection up, Peewee's and the user's, the grace period."""
        if self.may_overlap:
            cut = partial(self._strike, self.cut_new)
            self._set_up_by = deadlines.shared.begin(deadlines.GRACE, cut)

    def end_set_up(self) -> None:
        deadline, self._set_up_by = self._set_up_by, None
        if deadline is not None:
            deadlines.shared.end(deadline)

    def note_connection(self) -> None:
        """Note what has to be known of a connection that Peewee has just opened on this thread.

        Whoever had it opened: a user's function on a worker may close and open it, and an interrupt
        then is for the new one.
        """
        try:
            with self.within_grace("the set-up of its session"):
                self.connected()
            if self.is_lost():
                raise peewee.OperationalError("it was lost meanwhile")
        except Exception as error:
            self._discard()
            raise peewee.OperationalError(
                f"the server closed the connection that it had just opened ({error})"
            ) from error

    def replace_later(self) -> None:
        """Have the next job, or the next block, meet another connection."""
        self._replace_at = 0.0

    def clean_up(self) -> None:
        """Leave no open transaction and no broken connection to the next job."""
        self.dead = False
        if self.state["closed"]:
            return
        if self.streams:
            self._close_streams()
        self._dropped.clear()
        self.close_cursors()
        # Of connection contexts that were never left.
        self.state["ctx"].clear()
        if self.is_lost():
            self._discard()
        elif self.state["transactions"] or self.is_in_transaction_for_sure():
            logger.warning("%r: a transaction was left open; it is rolled back", self.database)
            self._roll_back()
        if (self.session_changed or self._session_reset == "always") and not self.state["closed"]:
            self._reset()

    def _reset(self) -> None:
        try:
            if self._session_reset != "never":
                with self.within_grace("the reset of its session"):
                    self.reset_session()
        except Exception as error:
            logger.warning(
                "%r: the session reset failed, the connection is dropped: %s", self.database, error
            )
            self._discard()
        finally:
            # Afterwards: what sets a new session up may look like a change.
            self.session_changed = self.was_handed_out = False

    def _roll_back(self) -> None:
        try:
            if self.in_transaction():
                with self.within_grace("ROLLBACK"):
                    self.dbapi_connection.cursor().execute("ROLLBACK")
        except Exception as error:
            logger.warning("%r: the rollback failed, the connection is dropped: %s", self.database, error)
            self._discard()
        else:
            self.state["transactions"].clear()
            self.state["commit_callbacks"].clear()

    def _discard(self) -> None:
        connection = self.dbapi_connection
        self._peewee_state.reset()
        with contextlib.suppress(Exception), self.within_grace("its closing", self._cut_quietly):
            connection.close()
        self._doubtful.clear()
        while self.streams:
            self.abandon_stream(self.streams.pop())

    def close(self) -> None:
        """Roll back and close; nothing is raised, since nobody could do better."""
        if not self.state["closed"]:
            # An SQLite connection whose statements are open keeps its file open.
            self._close_streams()
            self.close_cursors()
            if not self.state["closed"] and self.in_transaction():
                self._roll_back()
            if not self.state["closed"]:
                self._discard()

    def check_transaction(self) -> None:
        """Note whether the database has ended the transaction; without one, drop a lost connection."""
        transactions = self.state["transactions"]
        if not transactions:
            self.dead = False
            if not self.state["closed"] and self.is_lost():
                self._discard()
        # In manual mode BEGIN and COMMIT are the user's, in blocks inside it too.
        elif not [block for block in transactions if isinstance(block, peewee._manual)]:
            self.dead = self.dead or self.has_lost_transaction()

    def begin_statement(self) -> None:
        """Prepare for a statement; refuse it in a dead transaction."""
        if self._dropped:
            self._close_dropped()
        if self.dead:
            self.check_alive()

    def check_alive(self) -> None:
        """Refuse a statement in a dead transaction: outside of it, it would be committed at once."""
        if self.dead:
            raise peewee.OperationalError(
                "the database has already rolled back this transaction (a statement in it was "
                "interrupted or failed, or the connection was lost); leave the block and start again"
            )

    def note_cursor(self, cursor: Any) -> None:
        """Note a cursor that a job has opened, where one that is left open matters to the next job."""

    def close_cursors(self) -> None:
        """Close the noted cursors that a job has left open."""

    def _close_streams(self) -> None:
        # Of a block that has ended before them.
        while self.streams:
            self.end_stream(self.streams[-1], is_exhausted=False)

    def _close_dropped(self) -> None:
        while self._dropped:
            self._dropped.popleft()()

    def begin_stream(self, is_alone: bool) -> Any:
        """Return a cursor that fetches rows as they are asked for; `end_stream()` closes it."""
        cursor = self.stream_cursor(is_alone)
        self.streams.append(cursor)
        return cursor

    def end_stream(self, cursor: Any, is_exhausted: bool) -> None:
        """Close such a cursor, whatever became of its connection."""
        if cursor in self.streams:  # else its block has ended, or the connection was discarded
            close = cursor.close if is_exhausted else partial(self.drop_stream, cursor)
            with self.within_grace("the end of a stream"):
                if cursor in self._doubtful and self.in_transaction():
                    self.close_doubtful(close)
                else:
                    close_quietly(close)
        if cursor in self._doubtful:
            self._doubtful.remove(cursor)
        if cursor in self.streams:  # else it went with its connection just now
            self.streams.remove(cursor)

    def end_stream_later(self, close: Callable[[], None]) -> None:
        """Have what closes such a cursor called before the next statement; safe in a finalizer."""
        self._dropped.append(close)

    def doubt_streams(self) -> None:
        """Note that a transaction or savepoint ends, and with it perhaps the cursors that it has opened."""
        self._doubtful = list(self.streams)

    @contextlib.contextmanager
    def within_grace(self, what: str, cut: Callable[[], None] | None = None) -> Iterator[None]:
        """Cut the connection under what runs inside, if that has no answer within the grace period.

        For what nobody who waits can give up, and what loses nothing by it.
        """
        if not self.may_overlap:  # the database is part of the process: it is at work, and not silent
            yield
            return
        seconds = deadlines.GRACE
        deadline = deadlines.shared.begin(seconds, cut or self.kill)
        try:
            yield
        finally:
            deadlines.shared.end(deadline)
            if deadline.was_late:
                logger.warning(
                    "%r: %s had no answer for %g s, and the connection was cut", self.database, what, seconds
                )

    def interrupt(self) -> None:
        """Stop the running statement. What fails is tried again, and in the end the connection is cut."""
        self._attempt(self.stop_statement)

    def kill(self) -> None:
        """Cut the connection under the running statement."""
        self._attempt(self.cut)

    def _attempt(self, strike: Callable[[], None]) -> None:
        if not self.state["closed"]:  # else it is connecting, and nothing runs yet
            self._strike(strike)

    def _cut_quietly(self) -> None:
        self._strike(self.cut)

    def _strike(self, strike: Callable[[], None]) -> None:
        try:
            strike()
        except Exception as error:
            # The server was asked and has not answered: it may do as asked at any time, and would
            # stop what runs on this connection by then.
            self._has_gone = self._has_gone or isinstance(error, TimeoutError)
            # Its class only: the text may quote the connection's parameters.
            logger.debug("%r: an interrupt failed with %s", self.database, type(error).__name__)

    # -- per driver -------------------------------------------------------------------

    def connected(self) -> None:
        """Note what an interrupt will need; the connection has just been opened."""

    def is_usable(self) -> bool:
        """Return False if the connection is known to be broken, without a round trip."""
        return not self.is_lost()

    def is_lost(self) -> bool:
        """Return True if the connection is not to be used any more: broken, or given up."""
        return self._has_gone

    def answers(self) -> bool:
        """Ask the database for a sign of life."""
        return self.ask() is None

    def ask(self) -> Exception | None:
        """Ask the database for a sign of life within the grace period; return the driver's error, if any."""
        try:
            with self.within_grace("the question whether it answers"):
                cursor = self.dbapi_connection.cursor()
                cursor.execute("SELECT 1")
                cursor.fetchall()  # some drivers refuse the next statement before it
        except Exception as error:
            return error
        return None

    def note_error(self, error: peewee.PeeweeException) -> None:
        """Look whether an error says that the connection is lost, or that another would do better."""

    def changes_session(self, sql: str, is_generated: bool) -> bool:
        """Return True if a statement may change the session. `is_generated`: Peewee wrote it."""
        return not is_generated

    def reset_session(self) -> None:
        """Bring the session back to how it was when connected; here, by a new one."""
        self._discard()

    def has_lost_transaction(self) -> bool:
        """Return True if the transaction that Peewee believes to be open has been rolled back."""
        return not self.in_transaction()

    def in_transaction(self) -> bool:
        """Return True while the connection has a transaction open, without a round trip."""
        raise NotImplementedError

    def is_in_transaction_for_sure(self) -> bool:
        """Return True while a transaction is open, after a round trip where no other way is sure."""
        return self.in_transaction()

    def farewell(self) -> Exception | None:
        """Return the error of a connection that is over although nobody was told; None: it is not."""
        return None

    def stream_cursor(self, is_alone: bool) -> Any:
        """Return a cursor that fetches rows as they are asked for.

        `is_alone`: no other statement meets this connection until the cursor is closed.
        """
        return self.dbapi_connection.cursor()

    def drop_stream(self, cursor: Any) -> None:
        """Close such a cursor before its last row."""
        cursor.close()

    def close_doubtful(self, close: Callable[[], None]) -> None:
        """Close such a cursor inside a transaction, when it may be closed already."""
        close_quietly(close)

    def abandon_stream(self, cursor: Any) -> None:
        """Have such a cursor, whose connection is closed, not complain when it is dropped."""
        close_quietly(cursor.close)

    def stop_statement(self) -> None:
        """Have the database stop the running statement; from another thread."""
        raise NotImplementedError

    def cut(self) -> None:
        """Cut the connection; from another thread."""
        raise NotImplementedError

    def cut_new(self) -> None:
        """Cut a connection that is being set up; from another thread."""
        raise NotImplementedError


ConnectionClass = type[WorkerConnection]


class Backend:
    """What a database of one kind needs; by itself, of one that needs nothing more."""

    def __init__(self, database: Any, drivers: tuple[ConnectionClass, ...]) -> None:
        self.database = database
        self._drivers = drivers
        # How many connections there have been.
        self.opened = 0

    def check_target(self, target: Any) -> Any:
        """Return what Peewee's init() is to be given as the database; refuse what is not valid."""
        return target

    def prepare(self) -> None:
        """Set the defaults, when Peewee's init() has read the arguments."""

    def set_defaults(self, connection: Any) -> None:
        """Set on a new connection of the driver, of any thread, what the user has not."""

    def make_connection(self) -> WorkerConnection:
        return self._drivers[0](self.database, self.database.connections.pools.settings)

    def begin_writes(self, *args: Any, **kwargs: Any) -> bool:
        """Return True if a transaction begun so is a writer from its first moment."""
        return False

    def explain(self, error: peewee.PeeweeException) -> str:
        """Return what there is to add to the message of a statement's error."""
        return ""

    def may_write(self, sql: str) -> bool:
        """Return True if a statement has to take the write lock first."""
        return False

    def take_write_lock(self, worker: Worker) -> None:
        """Hold the write lock until the job or its transaction ends."""
