"""Servers that take fewer connections than `pool_size`: no call is lost, and the pool says what it met."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from async_peewee import PoolTimeout, aio
from async_peewee._pool import scheduler
from tests.proxy import proxied
from tests.support import Maker, MySQLServer, on_databases, slow_sql, wait_until

LIMIT = 3


@pytest.fixture
def limited_options(make_database: Maker) -> Iterator[dict[str, Any]]:
    """Return the options of a database whose user may have three connections at once."""
    server: Any = make_database.server
    name = f"r{server.name}"
    if isinstance(server, MySQLServer):
        server.query(f"CREATE USER '{name}'@'%' IDENTIFIED BY 'r' WITH MAX_USER_CONNECTIONS {LIMIT}")
        server.query(f"GRANT ALL ON {server.name}.* TO '{name}'@'%'")
    else:
        server.query(f"CREATE ROLE {name} LOGIN PASSWORD 'r' CONNECTION LIMIT {LIMIT}")
    yield {"user": name, "password": "r"}
    server.empty()
    server.query(f"DROP USER '{name}'@'%'" if isinstance(server, MySQLServer) else f"DROP ROLE {name}")


async def make_calls(database: Any, kind: str, number: int) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(number):
            group.start_soon(aio, database.execute_sql(slow_sql(kind, 0.02)))


async def check_growth(database: Any) -> None:
    """Fail unless the pool has met the limit, and no call has; its last workers may still be on their way."""
    await wait_until(lambda: database.stats().failed_connects > 0, 20)
    await wait_until(lambda: database.stats().workers <= LIMIT, 20)
    assert database.stats().timed_out == 0


@on_databases("psycopg2", "psycopg3", "pymysql")
async def test_a_users_limit_costs_no_call(
    make_database: Maker, limited_options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """All are done by the three connections there are; the failed attempts are counted, and logged."""
    async with make_database(pool_size=8, acquire_timeout=30, **limited_options) as database:
        await make_calls(database, make_database.kind, 40)
        await check_growth(database)
    lines = [record.getMessage() for record in caplog.records if record.name == "async_peewee"]
    assert lines != []
    assert all("grows no further for now: " in line and limited_options["user"] in line for line in lines)


@on_databases("psycopg2", "psycopg3")
async def test_a_pooler_that_is_full_costs_no_call(make_database: Maker) -> None:
    """In pgbouncer's words, which no database server has."""
    server: Any = make_database.server
    with proxied(server) as proxy:
        proxy.room = LIMIT
        options = {**proxy.connect_params(server), "pool_size": 8, "acquire_timeout": 30}
        async with make_database(**options) as database:
            await make_calls(database, make_database.kind, 40)
            await check_growth(database)


@on_databases("psycopg2", "pymysql")
async def test_blocks_that_all_wait_for_more_end_with_their_names(
    make_database: Maker, limited_options: dict[str, Any]
) -> None:
    """And with what the server said: a larger pool would not help."""
    inside: list[int] = []
    errors: list[str] = []

    async def holder(number: int) -> None:
        async with database.atomic():
            await database.execute_sql("SELECT 1")
            inside.append(number)
            await wait_until(lambda: len(inside) == LIMIT, 10)
            async with anyio.create_task_group() as group:
                group.start_soon(wants_another)
            await wait_until(lambda: len(errors) == LIMIT, 10)

    async def wants_another() -> None:
        with pytest.raises(PoolTimeout) as caught:
            await database.execute_sql("SELECT 1")
        errors.append(str(caught.value))

    async with make_database(pool_size=8, acquire_timeout=3, **limited_options) as database:
        async with anyio.create_task_group() as group:
            for number in range(LIMIT):
                group.start_soon(holder, number, name=f"task {number}")
        assert all(
            f"atomic() in task 'task {number}'" in error for number in range(LIMIT) for error in errors
        )
        assert all("The server takes no further connection (" in error for error in errors)
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)


@on_databases("psycopg2", "pymysql")
async def test_it_grows_when_the_server_takes_more(
    make_database: Maker, limited_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a call to tell it so: those that wait are reason enough."""
    monkeypatch.setattr(scheduler, "GROWTH_PAUSE", 0.05)
    server: Any = make_database.server
    user = limited_options["user"]
    options = {"pool_size": LIMIT + 2, "acquire_timeout": 30, **limited_options}
    async with make_database(**options) as database, anyio.create_task_group() as group:
        for _ in range(LIMIT + 2):
            group.start_soon(aio, database.execute_sql(slow_sql(make_database.kind, 30)))
        await wait_until(lambda: database.stats().failed_connects > 2, 20)
        if isinstance(server, MySQLServer):
            server.query(f"ALTER USER '{user}'@'%' WITH MAX_USER_CONNECTIONS 20")
        else:
            server.query(f"ALTER ROLE {user} CONNECTION LIMIT 20")
        await wait_until(lambda: database.stats().busy == LIMIT + 2, 20)
        group.cancel_scope.cancel()
