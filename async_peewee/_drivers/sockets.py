"""What the databases behind a socket have in common: it can be looked at, and cut."""

from __future__ import annotations

import contextlib
import os
import select
import socket

from .base import WorkerConnection

# How long an attempt to reach the server for an interrupt may take, in seconds. The worker
# waits meanwhile, so it is as short as libpq allows.
SIDE_CONNECT_TIMEOUT = 2


def shut_down(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)


class SocketConnection(WorkerConnection):
    """What the databases behind a socket have in common: it can be looked at, and cut."""

    # A server may be far away, until it is seen to answer at once.
    expected_seconds = 0.001
    # The server works elsewhere, all of it is waiting. In a shorter one another worker overlaps.
    worth_passing = 0.001
    may_overlap = True
    opens_slowly = True
    # The descriptor's number, and which socket that was.
    _socket: tuple[int, os.stat_result] | None = None

    def connected(self) -> None:
        self._has_gone = False
        fd = self.fileno()
        self._socket = fd, os.fstat(fd)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN | select.POLLPRI)

    def fileno(self) -> int:
        return int(self.dbapi_connection.fileno())

    def is_usable(self) -> bool:
        # An idle server says nothing. Something to read is its farewell, or a notification
        # (LISTEN), and a round trip tells which. Not asked of a lost connection: the number
        # of its socket could already be another's.
        return not self.is_lost() and (not self._poll.poll(0) or self.answers())

    def farewell(self) -> Exception | None:
        if self.is_lost():
            return ConnectionError("the connection is closed")
        # A server that waits for the next statement says nothing, unless it has ended the session
        # or has a notification: which of them it is a round trip tells.
        if not self._poll.poll(0):
            return None
        error = self.ask()
        # Else it is about this statement: PostgreSQL refuses any in a transaction that has failed.
        return error if error is not None and self.has_gone(error) else None

    def has_gone(self, error: Exception) -> bool:
        """Return True if the connection is lost, as the driver or an error of it says."""
        return self.is_lost()

    def cut(self) -> None:
        if self._socket is None:
            return
        fd, noted = self._socket
        # A copy of the descriptor: shutting it down wakes the thread that reads, and
        # closing the copy leaves the original to the driver.
        copy = os.dup(fd)
        # The driver may have closed the original at any time, and its number be another's: only
        # what the copy is can be looked at, and stays so until it is cut.
        if os.path.samestat(os.fstat(copy), noted):
            with socket.socket(fileno=copy) as ours:
                shut_down(ours)
        else:
            os.close(copy)

    def cut_new(self) -> None:
        with socket.socket(fileno=os.dup(self.fileno())) as copy:
            shut_down(copy)
