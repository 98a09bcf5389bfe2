"""Servers that take no writes any more, or are no primary: a connection to one is not kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncPostgresqlDatabase, aio
from tests.support import Maker, Models, Server, base_of, on_databases, wait_until

on_postgresql = on_databases("psycopg2", "psycopg3")


@contextlib.contextmanager
def role_of(server: Server) -> Iterator[str]:
    """Make a role of the test's own, whose sessions can begin in another way than others."""
    server.query(f"CREATE ROLE {server.name} LOGIN SUPERUSER PASSWORD 'right'")
    try:
        yield server.name
    finally:
        server.query(f"DROP OWNED BY {server.name} CASCADE; DROP ROLE {server.name}")


def session_ids(make_database: Maker) -> set[int]:
    assert make_database.server is not None
    return set(make_database.server.backends())


def database_of(make_database: Maker, role: str, **options: Any) -> Any:
    """Return a database that connects as the role."""
    server: Any = make_database.server
    info = server.info()
    where = {"host": info.host, "port": info.port, "user": role, "password": "right"}
    is_psycopg3 = make_database.kind == "psycopg3"
    parameters = {**server.connect_params(), **where, **options}
    return AsyncPostgresqlDatabase(info.dbname, prefer_psycopg3=is_psycopg3, **parameters)


@on_postgresql
async def test_each_connection_to_a_server_that_became_read_only_fails_one_write_at_most(
    make_database: Maker,
) -> None:
    """Statements and blocks; new connections reach a server that takes writes."""
    server: Any = make_database.server
    with role_of(server) as role:
        async with database_of(make_database, role, pool_size=2, pool_min_size=2) as database:
            models = Models(database)
            await database.create_tables(models.all)
            await database.close()
            server.query(f"ALTER ROLE {role} SET default_transaction_read_only = on")
            await database.connect()
            before = session_ids(make_database)
            assert await models.User.select().count() == 0
            assert session_ids(make_database) == before, "reading costs no connection"
            server.query(f"ALTER ROLE {role} RESET default_transaction_read_only")
            failed = 0
            for number in range(6):
                try:
                    if number % 2:
                        await models.User.create(name=str(number))
                    else:
                        async with database.atomic():
                            await models.User.create(name=str(number))
                except peewee.PeeweeException as error:
                    assert "read-only" in str(error)
                    failed += 1
            assert 1 <= failed <= 2
            assert await models.User.select().count() == 6 - failed
            await wait_until(lambda: len(session_ids(make_database)) == 2)


@on_postgresql
async def test_a_block_that_is_read_only_by_the_users_will_costs_no_connection(
    make_database: Maker,
) -> None:
    """The server says that it takes writes: a new connection would do no better."""
    server: Any = make_database.server
    if int(server.query("SHOW server_version_num")[0][0]) < 140000:
        return  # it does not say
    async with make_database(pool_size=1) as database:
        models = Models(database)
        await database.create_tables(models.all)
        before = session_ids(make_database)
        with pytest.raises(peewee.PeeweeException, match="read-only"):
            async with database.atomic("SERIALIZABLE READ ONLY"):
                await models.User.create(name="refused")
        await models.User.create(name="taken")
        assert session_ids(make_database) == before


# What PostgreSQL says when it, or a pooler in front of it, sends its clients away.
RAISE = "DO $$ BEGIN RAISE EXCEPTION 'translated words' USING ERRCODE = '{}'; END $$"


@on_postgresql
@pytest.mark.parametrize("code", ["57P01", "57P03"])
async def test_a_connection_that_stays_open_when_its_server_goes_is_replaced(
    make_database: Maker, code: str
) -> None:
    """After the block, if it is in one; the code decides, not the words."""
    async with make_database(pool_size=1) as database:
        for block in (contextlib.AsyncExitStack, database.atomic):
            before = session_ids(make_database)
            with pytest.raises(peewee.PeeweeException, match="translated"):
                async with block():
                    await database.execute_sql(RAISE.format(code))
            await database.execute_sql("SELECT 1")
            await wait_until(lambda before=before: not before & session_ids(make_database))  # type: ignore[misc]


@on_databases("pymysql")
@pytest.mark.parametrize("number", [1047, 1290, 1836])
async def test_mysql_that_takes_no_writes_is_known_by_its_number(make_database: Maker, number: int) -> None:
    """--read-only, --innodb-read-only, a node that has lost its cluster; in a block, after the block."""
    async with make_database(pool_size=1) as database:

        class Row(base_of(database)):  # type: ignore[misc]
            name = peewee.TextField()

        await database.create_tables([Row])
        await database.execute_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON row FOR EACH ROW "
            f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'translated words'"
        )
        for block in (contextlib.AsyncExitStack, database.atomic):
            await Row.select().count()
            before = session_ids(make_database)
            with pytest.raises(peewee.PeeweeException, match="translated"):
                async with block():
                    await Row.create(name="refused")
            assert await Row.select().count() == 0
            await wait_until(lambda before=before: not before & session_ids(make_database))  # type: ignore[misc]


@on_databases("pymysql")
async def test_a_begin_that_a_node_without_its_cluster_refuses(
    make_database: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the first statement of a block that a node of Galera refuses."""

    def refuse(*_: object) -> None:
        raise peewee.OperationalError(1047, "WSREP has not yet prepared node for application use")

    async with make_database(pool_size=1) as database:
        await database.execute_sql("SELECT 1")
        before = session_ids(make_database)
        with monkeypatch.context() as patch:
            patch.setattr(peewee.MySQLDatabase, "begin", refuse, raising=False)
            with pytest.raises(peewee.OperationalError, match="WSREP"):
                async with database.atomic():
                    pass
        await database.execute_sql("SELECT 1")
        await wait_until(lambda: not before & session_ids(make_database))


@on_databases("pymysql")
async def test_a_session_that_began_read_only_is_replaced(make_database: Maker) -> None:
    """As the server's default was at the time: whoever connects later may write."""
    async with make_database(pool_size=1, init_command="SET SESSION TRANSACTION READ ONLY") as database:
        models = Models(database)
        with pytest.raises(peewee.PeeweeException, match="READ ONLY"):
            await database.create_tables(models.all)
        del database.connect_params["init_command"]
        await database.create_tables(models.all)
        await models.User.create(name="taken")


@on_postgresql
async def test_while_there_is_no_primary_connecting_is_tried_again(make_database: Maker) -> None:
    """With target_session_attrs libpq refuses a server that is read-only: one is being promoted."""
    server: Any = make_database.server
    with role_of(server) as role:
        server.query(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        database = database_of(make_database, role, target_session_attrs="read-write", acquire_timeout=20)
        async with anyio.create_task_group() as group:
            group.start_soon(aio, database.connect())
            await anyio.sleep(0.3)  # time for an attempt that is refused
            assert database.stats().workers == 1
            server.query(f"ALTER ROLE {role} RESET default_transaction_read_only")
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
        await database.close()
