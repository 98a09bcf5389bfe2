"""What holds after every reliability test: the five invariants.

1. No more connections than the pool may have, and none after close().
2. None of them is at work, or in a transaction, when nothing of ours is.
3. No thread of ours stays.
4. The next call on the same database, in the same pool, works.
5. What it returns is its own result.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from async_peewee import AsyncDatabase
from tests.support import Maker, Server, wait_until, worker_threads

# How long the server and the threads have to come to rest, in seconds: a ceiling, not a measure.
AT_REST = 5.0

numbers = itertools.count(1_000_000)


@pytest.fixture(autouse=True)
def invariants(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look at each pool before it is closed, and at the server and the threads after the test."""
    server = server_of(request)
    close = AsyncDatabase._close_pool

    async def close_checked(database: Any, timeout: float) -> bool:
        stats = database.stats()
        if not database.is_closed() and not (stats.busy or stats.leased or stats.waiting):
            await check_pool(database, server)
        return await close(database, timeout)

    if "deaf_port" not in request.fixturenames:  # no call works there
        monkeypatch.setattr(AsyncDatabase, "_close_pool", close_checked)
    yield
    eventually("connections left behind", lambda: server.backends() if server is not None else [])
    eventually("threads left behind", left_threads)


def server_of(request: pytest.FixtureRequest) -> Any:
    """Return the server that a test talks to, None if it is SQLite alone."""
    if "make_database" in request.fixturenames:
        maker = request.getfixturevalue("make_database")
        return maker.server if isinstance(maker, Maker) else None
    names = [name for name in ("server", "mysql_server") if name in request.fixturenames]
    return request.getfixturevalue(names[0]) if names else None


async def check_pool(database: Any, server: Any) -> None:
    """Fail unless an idle pool is as good as new."""
    number = next(numbers)
    with anyio.CancelScope(shield=True), anyio.fail_after(AT_REST):
        row = (await database.execute_sql(f"SELECT {number}")).fetchone()
    assert row == (number,), "the result of another call"
    # One that was hired for a call which was cancelled meanwhile may still be connecting.
    await wait_until(lambda: (now := database.stats()).idle == now.workers, AT_REST)
    stats = database.stats()
    assert (stats.busy, stats.leased, stats.waiting) == (0, 0, 0)
    assert stats.workers <= stats.pool_size
    if server is not None:
        eventually("connections at work", lambda: server.backends(at_work(server)))
        eventually("more connections than the pool may have", lambda: server.backends()[stats.pool_size :])


def at_work(server: Any) -> str:
    """Return the condition for a connection that runs something or is in a transaction."""
    if isinstance(server, Server):
        return "state <> 'idle'"
    return "id IN (SELECT trx_mysql_thread_id FROM information_schema.innodb_trx) OR command = 'Query'"


def left_threads() -> list[str]:
    interrupts = [thread.name for thread in threading.enumerate() if thread.name.endswith(" interrupt")]
    return worker_threads() + interrupts


def eventually(complaint: str, left: Callable[[], list[Any]]) -> None:
    """Fail when something is left for too long."""
    end, pause = time.monotonic() + AT_REST, 0.01
    while remains := left():
        if time.monotonic() > end:
            pytest.fail(f"{complaint}: {remains}")
        time.sleep(pause)
        # InnoDB shows its transactions as they were, to whoever asks again within 0.1 seconds.
        pause = min(2 * pause, 0.2)
