"""Connections that die: idle, in a statement, in a transaction, before COMMIT, and servers that hang."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

import anyio
import peewee
import pytest

from async_peewee._drivers import base
from async_peewee._pool import deadlines
from tests.support import Maker, Models, slow_sql, wait_until

on_servers = pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3", "pymysql"], indirect=True)


def kill_all(make_database: Maker) -> None:
    """End every connection of the test's database objects on the server, and wait until they are gone."""
    server = make_database.server
    assert server is not None
    for backend in server.backends():
        server.kill(backend)
    end = time.monotonic() + 5
    while server.backends():
        assert time.monotonic() < end
        time.sleep(0.005)


@on_servers
async def test_killed_while_idle_the_next_call_works(models: Models, make_database: Maker) -> None:
    """The broken connection is noticed before the job and replaced, without an error."""
    before = make_database.server.backends()  # type: ignore[union-attr]
    kill_all(make_database)
    await models.User.create(name="after")
    assert make_database.server.backends() not in ([], before)  # type: ignore[union-attr]
    kill_all(make_database)
    async with models.database.atomic():
        assert await models.User.select().count() == 1


@on_servers
async def test_killed_during_a_statement_the_outcome_is_said_to_be_unknown(
    models: Models, make_database: Maker
) -> None:
    """Outside a transaction the statement is not sent again, and the next call works."""
    errors: list[str] = []

    async def call() -> None:
        with pytest.raises(peewee.OperationalError) as caught:
            await models.database.execute_sql(slow_sql(make_database.kind, 30))
        errors.append(str(caught.value))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await wait_until(make_database.server.sleeping)  # type: ignore[union-attr]
        kill_all(make_database)
    assert "the connection was lost during a statement" in errors[0]
    assert "unknown" in errors[0]
    assert await models.User.select().count() == 0


@on_servers
async def test_killed_in_a_block_the_users_error_arrives(models: Models, make_database: Maker) -> None:
    """The rollback that fails does not take its place, and nothing of the block stays."""
    with pytest.raises(ValueError, match="the user's own"):
        async with models.database.atomic():
            await models.User.create(name="lost")
            kill_all(make_database)
            raise ValueError("the user's own")
    assert await models.User.select().count() == 0


@on_servers
async def test_killed_in_a_block_further_statements_are_refused(models: Models, make_database: Maker) -> None:
    """They would be committed one by one on a new connection."""
    with pytest.raises(peewee.OperationalError):
        async with models.database.atomic():
            await models.User.create(name="lost")
            kill_all(make_database)
            with pytest.raises(peewee.OperationalError, match="nothing of it is committed"):
                await models.User.create(name="fails")
            with pytest.raises(peewee.OperationalError, match="already rolled back"):
                await models.User.create(name="refused")
            async with models.database.atomic():
                pass
    assert await models.User.select().count() == 0
    assert models.database.stats().leased == 0


@on_servers
async def test_killed_before_commit_the_error_says_so(models: Models, make_database: Maker) -> None:
    """The server has said it, and no COMMIT is sent: its outcome is not unknown."""
    with pytest.raises(peewee.OperationalError, match="before COMMIT was sent.*nothing of it is") as caught:
        async with models.database.atomic():
            await models.User.create(name="lost")
            kill_all(make_database)
    assert "unknown" not in str(caught.value)
    assert await models.User.select().count() == 0
    assert models.database.stats().leased == 0


@on_servers
async def test_a_function_that_ignores_the_loss_hears_of_it_at_commit(
    models: Models, make_database: Maker
) -> None:
    """The driver knows already: nothing is sent, and nothing is unknown."""

    def work() -> None:
        with models.database.atomic():
            models.User.create(name="lost")
            kill_all(make_database)
            with contextlib.suppress(peewee.PeeweeException):
                models.User.select().count()

    with pytest.raises(peewee.OperationalError, match="already rolled back|before COMMIT was sent"):
        await models.database.run(work)
    assert await models.User.select().count() == 0


# The session's own bounds: PostgreSQL's on a block that does nothing, MySQL's on any connection.
IDLE = {
    "mysql": "SET SESSION wait_timeout = 1",
    "postgresql": "SET idle_in_transaction_session_timeout = 100",
}


@on_servers
async def test_a_session_that_idled_for_too_long_is_not_committed(make_database: Maker) -> None:
    """Nobody has killed it; the server ends it by itself, in the middle of a block."""
    server: Any = make_database.server
    async with make_database(pool_size=1) as database:
        models = Models(database)
        await database.create_tables(models.all)
        with pytest.raises(peewee.OperationalError, match="before COMMIT was sent"):
            async with database.atomic():
                await database.execute_sql(IDLE[make_database.family])
                await models.User.create(name="lost")
                await wait_until(lambda: not server.backends())
        assert await models.User.select().count() == 0


class Readable:
    """A poll that always finds something to read, as when the server has sent a notice."""

    def poll(self, timeout: float) -> list[int]:
        return [1]


@on_servers
@pytest.mark.parametrize("fails", [False, True])
async def test_something_to_read_before_commit_is_no_farewell(
    models: Models, make_database: Maker, fails: bool
) -> None:
    """The block is committed; one whose transaction has failed is rolled back by PostgreSQL, as in Peewee."""
    database = models.database
    async with database.atomic():
        await models.User.create(name="kept")
        if fails:
            with pytest.raises(peewee.IntegrityError):
                await models.User.create(name="kept")
        (holder,) = [worker for worker in database.connections.pools.get()._scheduler.workers if worker.lease]
        poll, holder.connection._poll = holder.connection._poll, Readable()
    holder.connection._poll = poll
    is_undone = fails and make_database.family == "postgresql"
    assert await models.User.select().count() == (0 if is_undone else 1)


@on_servers
async def test_a_function_on_a_worker_keeps_its_error_too(models: Models, make_database: Maker) -> None:
    """Nested blocks of plain Peewee in db.run() do not mask the user's error with a failing rollback."""

    def work() -> None:
        with models.database.atomic(), models.database.atomic():
            models.User.create(name="lost")
            kill_all(make_database)
            raise ValueError("the user's own")

    with pytest.raises(ValueError, match="the user's own"):
        await models.database.run(work)
    assert await models.User.select().count() == 0


@pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3"], indirect=True)
async def test_a_hung_server_is_cut_after_the_grace_period(
    make_database: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP on the backend: the task is back soon after the grace, and the loop ticks all along."""
    monkeypatch.setattr(deadlines, "GRACE", 0.5)
    database = make_database(pool_size=1)
    gaps: list[float] = []

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await anyio.sleep(0.01)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    async def hang(scope: anyio.CancelScope) -> None:
        with scope:
            await database.execute_sql("SELECT pg_sleep(30)")

    async with database, anyio.create_task_group() as group:
        group.start_soon(tick)
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as calls:
            calls.start_soon(hang, scope)
            await wait_until(make_database.server.sleeping)  # type: ignore[union-attr]
            (pid,) = make_database.server.sleeping()  # type: ignore[union-attr]
            os.kill(pid, signal.SIGSTOP)
            try:
                start = time.monotonic()
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    await wait_until(lambda: database.stats().busy == 0)
                took = time.monotonic() - start
            finally:
                os.kill(pid, signal.SIGCONT)
        assert took < 5
        assert max(gaps) < 1
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
        group.cancel_scope.cancel()


@on_servers
async def test_connecting_waits_for_a_server_that_is_away(make_database: Maker) -> None:
    """A refused connection is tried again until acquire_timeout; a wrong password is not."""
    attempts: list[float] = []

    async with make_database(acquire_timeout=2) as database:
        real = database._connect

        def away() -> Any:
            attempts.append(time.monotonic())
            if len(attempts) < 4:
                raise peewee.OperationalError("connection refused")
            return real()

        database._connect = away
        kill_all(make_database)
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
        assert len(attempts) == 4

        def wrong() -> Any:
            attempts.append(time.monotonic())
            raise peewee.OperationalError('password authentication failed for user "x"')

        database._connect = wrong
        kill_all(make_database)
        with pytest.raises(peewee.OperationalError, match="password authentication"):
            await database.execute_sql("SELECT 42")
        assert len(attempts) == 5
        database._connect = real


@on_servers
async def test_a_call_cancelled_while_connecting_ends(make_database: Maker) -> None:
    """It is not kept until the server is back or the patience at an end."""
    async with make_database(acquire_timeout=30) as database:

        def away() -> Any:
            raise peewee.OperationalError("connection refused")

        kill_all(make_database)
        real, database._connect = database._connect, away
        with anyio.fail_after(10), anyio.move_on_after(0.2) as scope:
            await database.execute_sql("SELECT 1")
        assert scope.cancelled_caught
        database._connect = real
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)


@on_servers
async def test_an_old_connection_is_replaced_between_calls(make_database: Maker) -> None:
    """After max_lifetime the next call meets a new one; inside a block it stays."""
    async with make_database(pool_size=1, max_lifetime=0.2) as database:
        before = make_database.server.backends()  # type: ignore[union-attr]
        async with database.atomic():
            await database.execute_sql("SELECT 1")
            await anyio.sleep(0.3)
            await database.execute_sql("SELECT 1")
            assert make_database.server.backends() == before  # type: ignore[union-attr]
        await database.execute_sql("SELECT 1")
        await wait_until(lambda: before[0] not in make_database.server.backends())  # type: ignore[union-attr]


@on_servers
async def test_a_connection_idle_for_long_is_asked_whether_it_answers(
    make_database: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that has died without a word is found out before a statement is sent, and replaced."""
    async with make_database(pool_size=1) as database:
        driver_class = type(database.backend.make_connection())
        asked: list[str] = []
        before = make_database.server.backends()  # type: ignore[union-attr]
        monkeypatch.setattr(base, "ASK_AFTER", 0.0)
        monkeypatch.setattr(driver_class, "answers", lambda driver: bool(asked.append("asked")))
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
        assert asked == ["asked"]
        await wait_until(lambda: before[0] not in make_database.server.backends())  # type: ignore[union-attr]
