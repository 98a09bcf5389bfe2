"""Workers that connect: they take no job before, and what becomes of calls when they cannot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from async_peewee import PoolTimeout
from async_peewee._pool import scheduler
from async_peewee._pool.jobs import State
from async_peewee._pool.worker import Worker
from tests.fakes import FakeConnection, FakePool, all_running, nothing, worker_here
from tests.support import wait_until


class Server:
    """Where connections come from; it can be slow, or have no more of them."""

    def __init__(self, opens_slowly: bool = False) -> None:
        self.opens_slowly = opens_slowly
        self.error: Exception | None = None
        # Whether a connection makes another attempt while anybody wants it.
        self.tries_again = False
        self.attempts = 0
        self.answers = threading.Event()
        self.answers.set()

    def connection(self) -> Remote:
        return Remote(self)


class Remote(FakeConnection):
    """A connection to that server."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self.opens_slowly = server.opens_slowly

    def ensure_connected(self, check: Callable[[], None]) -> None:
        if self.state["closed"]:
            self._server.attempts += 1
            while not self._server.answers.wait(0.01):
                check()
            while self._server.error is not None:
                worker_here().attempt_failed(self._server.error)
                if not self._server.tries_again:
                    raise self._server.error
                check()
                time.sleep(0.01)
        super().ensure_connected(check)


async def error_of(fake: FakePool, errors: list[Any], number: int) -> None:
    """Make a call, and note what becomes of it."""
    try:
        errors.append((number, await fake.run(lambda: number)))
    except Exception as error:
        errors.append((number, error))


async def test_a_worker_takes_no_job_before_it_has_connected() -> None:
    """The call waits, and goes to whoever is free first."""
    server = Server()
    async with FakePool(server.connection, pool_size=2) as fake:
        server.answers.clear()
        job = fake.submit(nothing)
        await wait_until(lambda: server.attempts == 1)
        assert (job.state, fake.pool.stats().busy, fake.pool.stats().waiting) == (State.QUEUED, 0, 1)
        server.answers.set()
        await wait_until(lambda: job.state is State.DONE)
        assert fake.connections[0].calls[:2] == ["ensure_connected"] * 2


@pytest.mark.parametrize("opens_slowly", [True, False])
async def test_as_many_connect_at_once_as_calls_wait_where_that_is_waiting(opens_slowly: bool) -> None:
    """And one by one where it is computing; never more than the pool may have."""
    server = Server(opens_slowly)
    async with FakePool(server.connection, pool_size=3) as fake:
        server.answers.clear()
        for _ in range(5):
            fake.submit(nothing)
        await wait_until(lambda: server.attempts == (3 if opens_slowly else 1))
        assert fake.pool.stats().workers == server.attempts
        server.answers.set()
        await wait_until(lambda: fake.pool.stats().calls == 5)


async def test_a_worker_that_nobody_wants_any_more_stops_connecting() -> None:
    """Those who waited have been cancelled; the next call gets a worker of its own."""
    server = Server()
    async with FakePool(server.connection, pool_size=1) as fake:
        server.answers.clear()
        with anyio.move_on_after(0.01):
            await fake.run(nothing)
        await wait_until(lambda: fake.pool.stats().workers == 0)
        server.answers.set()
        assert await fake.run(lambda: 42) == 42
        assert fake.connections[0].calls == ["close"]


async def test_where_growing_fails_calls_wait_for_the_workers_there_are() -> None:
    """A server that takes no more connections is full, not gone; and it is not asked for each call."""
    server = Server()
    async with FakePool(server.connection, pool_size=4) as fake:
        blocker = (await all_running(fake, 1))[0]
        server.error = ConnectionError("too many")
        jobs = [fake.submit(lambda: 42) for _ in range(3)]
        await wait_until(lambda: server.attempts == 2 and fake.pool.stats().workers == 1)
        assert [job.state for job in jobs] == [State.QUEUED] * 3
        blocker.end.set()
        await wait_until(lambda: all(job.state is State.DONE for job in jobs))
        assert [job.outcome() for job in jobs] == [42] * 3
        assert server.attempts == 2


async def test_it_tries_to_grow_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """While calls wait; when the server has room again, they get it."""
    monkeypatch.setattr(scheduler, "GROWTH_PAUSE", 0.05)
    server = Server()
    async with FakePool(server.connection, pool_size=2) as fake:
        blocker = (await all_running(fake, 1))[0]
        server.error = ConnectionError("too many")
        job = fake.submit(nothing)
        await wait_until(lambda: server.attempts >= 3)
        server.error = None
        await wait_until(lambda: job.state is State.DONE)
        blocker.end.set()


async def test_beside_others_that_live_a_worker_makes_one_attempt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And after it one worker at a time tries; all of it is counted, and one line says why."""
    monkeypatch.setattr(scheduler, "GROWTH_PAUSE", 0.05)
    server = Server(opens_slowly=True)
    async with FakePool(server.connection, pool_size=5) as fake:
        blocker = (await all_running(fake, 1))[0]
        server.error, server.tries_again = ConnectionError("too many"), True
        jobs = [fake.submit(nothing) for _ in range(4)]
        seen: list[int] = []

        def has_tried_again() -> bool:
            seen.append(fake.pool._scheduler._coming)
            return server.attempts >= 8

        try:
            await wait_until(lambda: fake.pool.stats().failed_connects >= 4)
            await wait_until(lambda: fake.pool.stats().failed_connects == server.attempts - 1)
            await wait_until(has_tried_again)
        finally:
            server.error = None
            blocker.end.set()
        assert max(seen) <= 1
        await wait_until(lambda: all(job.state is State.DONE for job in jobs))
    assert caplog.messages == ["fake grows no further for now: too many"]


async def test_where_all_connect_at_once_each_tries_again_until_one_lives() -> None:
    """So a call is not lost because the first attempts of all of them have failed."""
    server = Server(opens_slowly=True)
    async with FakePool(server.connection, pool_size=3) as fake:
        server.error, server.tries_again = ConnectionError("starting up"), True
        jobs = [fake.submit(nothing) for _ in range(3)]
        await wait_until(lambda: fake.pool.stats().failed_connects > 6)
        assert fake.pool.stats().workers == 3
        server.error = None
        await wait_until(lambda: all(job.state is State.DONE for job in jobs))


async def test_a_call_that_waits_for_those_there_are_is_told_that_the_server_takes_no_more() -> None:
    """A larger pool would not help."""
    server = Server()
    async with FakePool(server.connection, pool_size=2, acquire_timeout=0.3) as fake:
        lease = await fake.lease("the block")
        server.error = ConnectionError("too many\nconnections")
        with pytest.raises(
            PoolTimeout, match=r"held by: the block .*no further connection \(too many conn"
        ) as caught:
            await fake.run(nothing)
        assert "larger" not in str(caught.value)
        await fake.end(lease)


@pytest.mark.parametrize("opens_slowly", [True, False])
async def test_where_nobody_lives_each_call_gets_the_error_of_an_attempt(opens_slowly: bool) -> None:
    """At once, the oldest first: no other worker could serve it."""
    server, errors = Server(opens_slowly), list[Any]()
    async with FakePool(server.connection, pool_size=3) as fake:
        server.error = ConnectionError("refused")
        server.answers.clear()
        with anyio.fail_after(0.9):
            async with anyio.create_task_group() as group:
                for number in range(6):
                    group.start_soon(error_of, fake, errors, number)
                    await wait_until(lambda number=number: fake.pool.stats().waiting > number)
                await wait_until(lambda: server.attempts == (3 if opens_slowly else 1))
                server.answers.set()
        assert errors == [(number, server.error) for number in range(6)]
        await wait_until(lambda: fake.pool.stats().workers == 0)
        server.error = None
        assert await fake.run(lambda: 42) == 42


async def test_where_nobody_lives_the_oldest_call_gets_the_error() -> None:
    """The others wait for the next attempt, which may do."""
    server = Server()
    async with FakePool(server.connection, pool_size=3) as fake:
        server.answers.clear()
        server.error = ConnectionError("refused")
        first, second = fake.submit(nothing), fake.submit(lambda: 42)
        await wait_until(lambda: server.attempts == 1)
        is_second_try = threading.Event()
        make, fake._make = (
            fake._make,
            lambda: (is_second_try.set(), setattr(server, "error", None), make())[2],
        )
        server.answers.set()
        await wait_until(lambda: second.state is State.DONE)
        assert is_second_try.is_set()
        assert first.state is State.DROPPED
        with pytest.raises(ConnectionError):
            first.outcome()
        assert second.outcome() == 42


async def test_a_call_that_is_overdue_gets_the_error_of_the_connection_that_failed() -> None:
    """Where nobody works for others: that the pool is small was not what it waited for."""
    server = Server()
    async with FakePool(server.connection, pool_size=2, acquire_timeout=0.3) as fake:
        server.error = ConnectionError("refused")
        with pytest.raises(ConnectionError):
            await fake.run(nothing)
        server.answers.clear()
        with pytest.raises(ConnectionError, match="refused") as caught:
            await fake.run(nothing)
        assert caught.value is not server.error
        assert fake.pool.stats().timed_out == 1


async def test_a_call_that_is_overdue_before_anybody_could_connect_is_told_so() -> None:
    """No pool size and no holder in it: the server has not answered."""
    server = Server()
    async with FakePool(server.connection, pool_size=2, acquire_timeout=0.1) as fake:
        server.answers.clear()
        with pytest.raises(PoolTimeout, match="no connection of fake was open within 0.1 s"):
            await fake.run(nothing)
        server.answers.set()


async def test_a_worker_that_is_stopped_while_it_connects_takes_no_job() -> None:
    """Its thread may have been on its way to the server when the pool closed."""
    server = Server()
    fake = FakePool(server.connection, pool_size=1)
    server.answers.clear()
    job = fake.submit(nothing)
    await wait_until(lambda: server.attempts == 1)
    held: list[Worker] = list(fake.pool._scheduler.workers)
    async with anyio.create_task_group() as group:
        group.start_soon(fake.pool.close, 5)
        await wait_until(lambda: job.state is State.DROPPED)
        server.answers.set()
    assert [worker.job for worker in held] == [None]
    assert fake.pool.stats().workers == 0
