"""libpq's cancel request, for psycopg2, whose own cancel() holds the GIL until the server has answered.

The request carries the secret key of one session: at any other server, or when that session is no more,
it stops nothing. It needs no role, password or connection slot.
"""

from __future__ import annotations

import ctypes
import select
import sys
import threading
import time
from functools import cache
from typing import Any

# What PQcancelPoll() returns, and what it then waits for.
FAILED, OK = 0, 3
EVENTS = {1: select.POLLIN, 2: select.POLLOUT}
WRITING = 2

# What each function returns, and its arguments. Pointers are wider than ctypes would take them for.
BEFORE_17: dict[str, tuple[Any, ...]] = {
    "PQgetCancel": (ctypes.c_void_p, ctypes.c_void_p),
    "PQcancel": (ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int),
    "PQfreeCancel": (None, ctypes.c_void_p),
}
FROM_17: dict[str, tuple[Any, ...]] = {
    "PQcancelCreate": (ctypes.c_void_p, ctypes.c_void_p),
    "PQcancelStart": (ctypes.c_int, ctypes.c_void_p),
    "PQcancelPoll": (ctypes.c_int, ctypes.c_void_p),
    "PQcancelSocket": (ctypes.c_int, ctypes.c_void_p),
    "PQcancelReset": (None, ctypes.c_void_p),
    "PQcancelFinish": (None, ctypes.c_void_p),
}


@cache
def load_libpq() -> Any:
    """Return the libpq of psycopg2, whose names are looked up through psycopg2's own extension module.

    In no other way: a second libpq in the process would misread the first one's connections.
    CDLL lets go of the GIL during each call.
    """
    library = ctypes.CDLL(sys.modules["psycopg2._psycopg"].__file__)
    signatures = FROM_17 if is_17(library) else BEFORE_17
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def is_17(library: Any) -> bool:
    """Return True for libpq 17 and later, whose cancel requests can be encrypted and bounded."""
    return hasattr(library, "PQcancelCreate")


class CancelRequest:
    """The cancel request of one connection, as libpq 17 and later make it: encrypted where that is.

    Made on the connection's own thread, from a copy of what libpq knows of it, and sent from any
    other. Who sends it keeps the object alive until it has been sent, so it is freed only then.
    """

    def __init__(self, library: Any, connection: int) -> None:
        self._library = library
        self._request = library.PQcancelCreate(connection)

    def send(self, seconds: float) -> None:
        """Have the server stop the statement; return when it has been told.

        Raises OSError when the server could not be reached, and TimeoutError when it has said
        nothing: it may still stop whatever that connection runs by then.
        """
        try:
            self._send(time.monotonic() + seconds)
        finally:
            self._library.PQcancelReset(self._request)  # closes its socket

    def _send(self, deadline: float) -> None:
        state = WRITING if self._library.PQcancelStart(self._request) else FAILED
        while state in EVENTS:
            poll = select.poll()
            poll.register(self._library.PQcancelSocket(self._request), EVENTS[state])
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError("the server does not answer a cancel request")
            state = self._library.PQcancelPoll(self._request)
        if state != OK:
            raise OSError("the cancel request failed")

    def __del__(self) -> None:
        self._library.PQcancelFinish(self._request)


class BlockingCancelRequest:
    """The same before libpq 17: sent in the clear, by a call that nothing can bound."""

    def __init__(self, library: Any, connection: int) -> None:
        self._library = library
        self._request = library.PQgetCancel(connection)
        self._sender: threading.Thread | None = None
        self._is_sent = False

    def send(self, seconds: float) -> None:
        """Do as CancelRequest does; what the time did not suffice for goes on, on a thread of its own."""
        # Never a second one beside it: where nobody answers, there would soon be hundreds.
        if self._sender is None:
            self._sender = threading.Thread(target=self._send, name="cancel request", daemon=True)
            self._sender.start()
        self._sender.join(seconds)
        if self._sender.is_alive():
            raise TimeoutError("the server does not answer a cancel request")
        self._sender = None
        if not self._is_sent:
            raise OSError("the cancel request failed")

    def _send(self) -> None:
        self._is_sent = bool(self._library.PQcancel(self._request, ctypes.create_string_buffer(256), 256))

    def __del__(self) -> None:
        self._library.PQfreeCancel(self._request)


def cancel_request_of(connection: Any) -> CancelRequest | BlockingCancelRequest:
    """Return the cancel request of a connection of psycopg2."""
    library = load_libpq()
    request = CancelRequest if is_17(library) else BlockingCancelRequest
    return request(library, connection.pgconn_ptr)
