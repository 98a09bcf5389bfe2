"""A TCP proxy in front of PostgreSQL that can delay replies, count statements and swallow connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from tests.support import Server


class Proxy:
    """Forward bytes both ways, and do mischief on demand."""

    def __init__(self, server: Server) -> None:
        info = server.info()
        self._target = info
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.sent: list[bytes] = []
        # Seen on its way to the server; set when this text has passed.
        self.watched = b""
        self.seen = threading.Event()
        # While it is cleared, no reply passes.
        self.replies = threading.Event()
        self.replies.set()
        # New connections are accepted and never answered.
        self.is_deaf = False
        # New connections are let in, and then no reply passes until `replies` is set again.
        self.is_mute = False
        threading.Thread(target=self._accept, daemon=True).start()

    def connect_params(self, server: Server) -> dict[str, Any]:
        """Return what makes a database connect through the proxy, to the test's own schema."""
        own = {"host": "127.0.0.1", "port": self._listener.getsockname()[1], "user": self._target.user}
        return {**server.connect_params(), **own, "sslmode": "disable", "gssencmode": "disable"}

    @property
    def database(self) -> str:
        return str(self._target.dbname)

    def watch(self, text: bytes) -> None:
        """Have `seen` set, and replies held, when this text passes to the server."""
        self.seen.clear()
        self.watched = text

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                if not self.is_deaf:
                    self._join(client, self._connect(), self.is_mute)

    def _connect(self) -> socket.socket:
        host, port = self._target.host, self._target.port
        if host.startswith("/"):
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(f"{host}/.s.PGSQL.{port}")
        else:
            upstream = socket.create_connection((host, port))
        self._sockets.append(upstream)
        return upstream

    def _join(self, client: socket.socket, upstream: socket.socket, is_mute: bool) -> None:
        pump_down = self._pump_login if is_mute else self._pump_down
        for pump, *pair in ((self._pump_up, client, upstream), (pump_down, upstream, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()

    def _pump_up(self, client: socket.socket, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self.sent.append(data)
                if self.watched and self.watched in data:
                    self.replies.clear()
                    self.watched = b""
                    upstream.sendall(data)
                    self.seen.set()
                else:
                    upstream.sendall(data)
        self._end(upstream)

    def _pump_down(self, upstream: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(65536):
                self.replies.wait()
                client.sendall(data)
        self._end(client)

    def _pump_login(self, upstream: socket.socket, client: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            while b"Z\0\0\0\5I" not in data and (data := upstream.recv(65536)):
                client.sendall(data)
        self._pump_down(upstream, client)

    def _end(self, side: socket.socket) -> None:
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End every connection, without a word."""
        for side in self._sockets[1:]:
            self._end(side)
        self.replies.set()

    def close(self) -> None:
        self.replies.set()
        for side in self._sockets:
            self._end(side)
            side.close()


@contextlib.contextmanager
def proxied(server: Server) -> Iterator[Proxy]:
    """Run a proxy in front of a server."""
    proxy = Proxy(server)
    try:
        yield proxy
    finally:
        proxy.close()
