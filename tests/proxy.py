"""A TCP proxy in front of a server: it can delay replies, count statements, refuse to talk, fall silent."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tests.support import MySQLServer, Server


class Proxy:
    """Forward bytes both ways, and do mischief on demand."""

    def __init__(self, server: Server | MySQLServer) -> None:
        self._is_mysql = isinstance(server, MySQLServer)
        self._target = server.info()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.sent: list[bytes] = []
        # Seen on its way to the server; set when this text has passed.
        self.watched = b""
        self.seen = threading.Event()
        # While it is cleared, no reply passes.
        self.replies = threading.Event()
        self.replies.set()
        # While it is cleared, nothing passes to the server either.
        self.requests = threading.Event()
        self.requests.set()
        # New connections are accepted and never answered.
        self.is_deaf = False
        # So many new connections are let in, where it is set; the others are refused in these words.
        self.room: int | None = None
        self.refusal = "no more connections allowed (max_client_conn)"
        # New connections are let in, and then no reply passes until `replies` is set again.
        self.is_mute = False
        threading.Thread(target=self._accept, daemon=True).start()

    def connect_params(self, server: Server | MySQLServer) -> dict[str, Any]:
        """Return what makes a database connect through the proxy, to the test's own schema."""
        own = {"host": "127.0.0.1", "port": self._listener.getsockname()[1], "user": self._target.user}
        if self._is_mysql:
            return {**server.connect_params(), **own}
        return {**server.connect_params(), **own, "sslmode": "disable", "gssencmode": "disable"}

    @property
    def database(self) -> str:
        return str(self._target.dbname)

    def watch(self, text: bytes) -> None:
        """Have `seen` set, and replies held, when this text passes to the server."""
        self.seen.clear()
        self.watched = text

    def fall_silent(self) -> None:
        """Let nothing pass, nor refuse anything, as a network does that is gone."""
        self.requests.clear()
        self.replies.clear()

    def speak(self) -> None:
        """Let all pass that was held up."""
        self.requests.set()
        self.replies.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                if self.room == 0:
                    self._refuse(client)
                elif not self.is_deaf:
                    self.room = None if self.room is None else self.room - 1
                    self._join(client, self._connect(), self.is_mute)

    def _refuse(self, client: socket.socket) -> None:
        """Answer the client's first message as pgbouncer does when it is full."""
        client.recv(65536)
        fields = (b"SFATAL", b"VFATAL", b"C08P01", b"M" + self.refusal.encode())
        body = b"\0".join(fields) + b"\0\0"
        client.sendall(b"E" + (len(body) + 4).to_bytes(4, "big") + body)
        self._end(client)

    def _connect(self) -> socket.socket:
        upstream = connect_to_postgresql(self._target)
        self._sockets.append(upstream)
        return upstream

    def _join(self, client: socket.socket, upstream: socket.socket, is_mute: bool) -> None:
        pump_down = self._pump_login if is_mute else self._pump_down
        for pump, *pair in ((self._pump_up, client, upstream), (pump_down, upstream, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()

    def _pump_up(self, client: socket.socket, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self.requests.wait()
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
        self.speak()

    def close(self) -> None:
        self.speak()
        for side in self._sockets:
            self._end(side)
            side.close()


@contextlib.contextmanager
def proxied(server: Server | MySQLServer) -> Iterator[Proxy]:
    """Run a proxy in front of a server."""
    proxy = Proxy(server)
    try:
        yield proxy
    finally:
        proxy.close()


Connect = Callable[[], socket.socket]


class Balancer:
    """Forward one connection after the other to the next of several servers, whoever makes it."""

    def __init__(self, *servers: Connect) -> None:
        self._servers = itertools.cycle(enumerate(servers))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        # What was sent over each connection, and to which of the servers.
        self.sent: list[tuple[int, bytearray]] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                number, connect = next(self._servers)
                sent = bytearray()
                self.sent.append((number, sent))
                self._threads.append(threading.Thread(target=forward, args=(client, connect(), sent)))
                self._threads[-1].start()

    def close(self) -> None:
        """Take no more connections, and wait until those that there are have ended."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()


def forward(client: socket.socket, server: socket.socket, sent: bytearray) -> None:
    """Forward both ways until both have ended; note what the client sends."""
    down = threading.Thread(target=pump, args=(server, client, bytearray()))
    with client, server:
        down.start()
        pump(client, server, sent)
        down.join()


def pump(source: socket.socket, target: socket.socket, seen: bytearray) -> None:
    """Forward what one side sends, and note it, until it ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            seen += data
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def connect_to_postgresql(info: Any) -> socket.socket:
    """Return a connection to a PostgreSQL server, of which libpq has given an account."""
    if info.host.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"{info.host}/.s.PGSQL.{info.port}")
        return connection
    return socket.create_connection((info.host, info.port))
