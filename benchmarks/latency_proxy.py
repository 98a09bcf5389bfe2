"""A network that takes time: a TCP proxy that forwards requests at once and replies a while later.

It runs in a process of its own, so that it takes no interpreter's time from those who are measured:

    python -m benchmarks.latency_proxy HOST PORT SECONDS

It prints the port on which it listens, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import selectors
import sys


class Side(asyncio.Protocol):
    """One of the two connections; what it receives is written to the other after its delay."""

    def __init__(self, delay: float, other: Side | None = None) -> None:
        self._delay = delay
        self.other = other
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        for data in self._early:
            transport.write(data)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self.other.write, data)
        else:
            self.other.write(data)

    def write(self, data: bytes) -> None:
        if self.transport is None:
            self._early.append(data)
        else:
            self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            asyncio.get_running_loop().call_later(self._delay, self.other.close)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


async def start(host: str, port: int, delay: float) -> asyncio.Server:
    """Listen on a free port of this machine, in front of the server at host and port."""
    loop = asyncio.get_running_loop()
    connecting: set[asyncio.Task[object]] = set()

    def accept() -> Side:
        client, upstream = Side(0.0), Side(delay)
        client.other, upstream.other = upstream, client
        task = loop.create_task(loop.create_connection(lambda: upstream, host, port))
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return client

    return await loop.create_server(accept, "127.0.0.1", 0)


async def main(host: str, port: int, delay: float) -> None:
    server = await start(host, port, delay)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    # epoll rounds timeouts up to whole milliseconds; select() does not.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
