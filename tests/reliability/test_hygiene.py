"""What one task does to its session does not reach the next one, and ORM statements pay nothing for it."""

from __future__ import annotations

from typing import Any

import peewee
import pytest

from tests.support import Maker, Models

POSTGRESQL = [
    ("SET app.tenant = 'a'", "SELECT coalesce(current_setting('app.tenant', true), '')", ""),
    ("SET search_path = pg_catalog", "SELECT current_setting('search_path') = 'pg_catalog'", False),
    ("SET statement_timeout = 12345", "SELECT current_setting('statement_timeout')", "0"),
    (
        "SELECT pg_advisory_lock(77)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77",
        0,
    ),
    ("CREATE TEMP TABLE leak (x int)", "SELECT to_regclass('leak') IS NULL", True),
    ("LISTEN leak", "SELECT count(*) FROM pg_listening_channels()", 0),
    ("PREPARE leak AS SELECT 1", "SELECT count(*) FROM pg_prepared_statements WHERE name = 'leak'", 0),
    ("SET ROLE pg_monitor", "SELECT current_user = 'pg_monitor'", False),
]
MYSQL = [
    ("SET @tenant = 'a'", "SELECT @tenant", None),
    ("SET SESSION sort_buffer_size = 123456", "SELECT @@sort_buffer_size = 123456", 0),
    ("SELECT get_lock('leak', 0)", "SELECT is_free_lock('leak')", 1),
    ("SELECT 'a' INTO @tenant", "SELECT @tenant", None),
]
SQLITE = [
    ("PRAGMA foreign_keys = 1", "PRAGMA foreign_keys", 0),
    ("/* own */ PRAGMA main.cache_size(77)", "PRAGMA cache_size", -2000),
    ("CREATE TEMP TABLE leak (x int)", "SELECT count(*) FROM sqlite_temp_master", 0),
    ("ATTACH ':memory:' AS leak", "SELECT count(*) FROM pragma_database_list WHERE name = 'leak'", 0),
]
LEAKS = (
    [("psycopg2", *leak) for leak in POSTGRESQL]
    + [("psycopg3", *leak) for leak in POSTGRESQL]
    + [("pymysql", *leak) for leak in MYSQL]
    + [("sqlite", *leak) for leak in SQLITE]
)


async def value_of(database: Any, sql: str) -> Any:
    return (await database.execute_sql(sql)).fetchone()[0]


@pytest.mark.parametrize(("make_database", "leak", "look", "clean"), LEAKS, indirect=["make_database"])
async def test_session_state_ends_with_the_block(
    make_database: Maker, leak: str, look: str, clean: Any
) -> None:
    """Inside the block it holds, after the block and after a call outside any block it is gone."""
    async with make_database(pool_size=1) as database:
        async with database.connection_context():
            await database.execute_sql(leak)
            assert await value_of(database, look) != clean
        assert await value_of(database, look) == clean
        await database.execute_sql(leak)
        assert await value_of(database, look) == clean

        def user_code() -> None:
            database.connection().cursor().execute(leak)

        await database.run(user_code)
        assert await value_of(database, look) == clean


@pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3"], indirect=True)
async def test_functions_that_peewee_writes_are_seen_too(models: Models) -> None:
    """fn.set_config() and advisory locks in an ORM query are reset like raw SQL."""
    database, fn = models.database, peewee.fn
    await models.User.create(name="a")
    await models.User.select(fn.set_config("app.tenant", "a", False)).scalar()
    await models.User.select(fn.PG_ADVISORY_LOCK(77)).scalar()
    assert await value_of(database, "SELECT coalesce(current_setting('app.tenant', true), '')") == ""
    assert await value_of(database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


@pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3", "pymysql"], indirect=True)
async def test_orm_statements_pay_nothing(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """No reset is sent after statements that Peewee wrote, blocks included; after raw SQL there is one."""
    driver_class = type(models.database.backend.make_connection())
    resets: list[str] = []
    real = driver_class.reset_session
    monkeypatch.setattr(driver_class, "reset_session", lambda driver: (resets.append("reset"), real(driver)))
    user = await models.User.create(name="a")
    async with models.database.atomic(), models.database.atomic():
        user.age = 2
        await user.save()
        assert await models.User.select().where(models.User.age > 1).count() == 1
    async for _ in models.User.select().iterator():
        pass
    await models.database.run(lambda: list(models.User.select()))
    assert resets == []
    await models.database.execute_sql(
        "SET @x = 1" if "mysql" in str(models.database).lower() else "SET a.b = '1'"
    )
    assert resets == ["reset"]


@pytest.mark.parametrize("make_database", ["psycopg3"], indirect=True)
async def test_statements_prepared_by_the_driver_survive_a_reset(models: Models) -> None:
    """psycopg prepares what it has sent five times; after a reset it does not use what is gone."""
    await models.User.create(name="a")
    for _ in range(3):
        for _ in range(8):
            assert (await models.User.get(name="a")).name == "a"
        await models.database.execute_sql("SELECT 1")


@pytest.mark.parametrize("make_database", ["pymysql"], indirect=True)
async def test_a_temporary_table_of_mysql_ends_with_the_block(make_database: Maker) -> None:
    async with make_database(pool_size=1) as database:
        async with database.connection_context():
            await database.execute_sql("CREATE TEMPORARY TABLE leak (x int)")
            assert await value_of(database, "SELECT count(*) FROM leak") == 0
        with pytest.raises(peewee.ProgrammingError, match="doesn't exist"):
            await database.execute_sql("SELECT count(*) FROM leak")
