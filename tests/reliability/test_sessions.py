"""A session that was reset is like that of a fresh connection; `session_reset` says when it is reset."""

from __future__ import annotations

import datetime
from typing import Any

import peewee
import pytest

from async_peewee._drivers.functions import may_call_unknown
from tests.kinds import class_of
from tests.support import Maker, Models, on_databases

TENANT = "SELECT coalesce(current_setting('app.tenant', true), '')"

# What setting a connection up may do, what shows it, what a task does to it, and what shows when new.
SET_UP = {
    "search_path": ("SET search_path = pg_catalog", "SHOW search_path", "SET search_path = public"),
    "time zone": ("SET TIME ZONE 'Asia/Tokyo'", "SHOW TimeZone", "SET TIME ZONE 'UTC'"),
    "a setting of one's own": ("SET app.tenant = 'blue'", TENANT, "SET app.tenant = 'red'"),
    "a role": ("SET ROLE pg_monitor", "SELECT current_user", "RESET ROLE"),
    "a temporary table": (
        "CREATE TEMP TABLE own AS SELECT 7 AS x",
        "SELECT to_regclass('own')::text",
        "DROP TABLE own",
    ),
    "notifications": ("LISTEN own", "SELECT pg_listening_channels()", "UNLISTEN own"),
    "an advisory lock": (
        "SELECT pg_advisory_lock(4711)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND granted",
        "SELECT pg_advisory_unlock(4711)",
    ),
}
SET_UP_MYSQL = {
    "a variable": ("SET @tenant = 'blue'", "SELECT @tenant", "SET @tenant = 'red'"),
    "time zone": ("SET time_zone = '+09:00'", "SELECT @@time_zone", "SET time_zone = '+00:00'"),
}
SET_UPS = [(kind, *SET_UP[name]) for kind in ("psycopg2", "psycopg3") for name in SET_UP] + [
    ("pymysql", *set_up) for set_up in SET_UP_MYSQL.values()
]


def execute(connection: Any, sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def set_up_by_hook(maker: Maker, sql: str) -> Any:
    class Database(class_of(maker.kind)):  # type: ignore[misc]
        def _initialize_connection(self, connection: Any) -> None:
            super()._initialize_connection(connection)
            execute(connection, sql)

    return Database


def set_up_by_connect(maker: Maker, sql: str) -> Any:
    class Database(class_of(maker.kind)):  # type: ignore[misc]
        def _connect(self) -> Any:
            connection = super()._connect()
            execute(connection, sql)
            return connection

    return Database


async def value_of(database: Any, sql: str) -> Any:
    row = (await database.execute_sql(sql)).fetchone()
    return row and row[0]


async def by_orm(database: Any, expression: Any) -> Any:
    """Return an expression's value by a query that Peewee writes: it changes no session."""
    return await database.run(peewee.Select(columns=[expression]).bind(database).scalar)


# -- what a reset brings back --------------------------------------------------------------


@pytest.mark.parametrize("set_up_by", [set_up_by_hook, set_up_by_connect])
@pytest.mark.parametrize(("make_database", "set_up", "look", "change"), SET_UPS, indirect=["make_database"])
async def test_a_reset_brings_back_what_set_the_connection_up(
    make_database: Maker, set_up_by: Any, set_up: str, look: str, change: str
) -> None:
    """Whatever a task did to it; by the hook for new connections, or by a `_connect()` of one's own."""
    async with make_database(set_up_by(make_database, set_up), pool_size=1) as database:
        async with database.connection_context():
            fresh = await value_of(database, look)
            await database.execute_sql(change)
            assert await value_of(database, look) != fresh
        for _ in range(2):  # the second is after a reset of a session that was reset
            assert await value_of(database, look) == fresh


@pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3"], indirect=True)
async def test_the_hook_is_called_in_the_session_that_goes_on(make_database: Maker) -> None:
    """A reset costs no connection: the hook runs again, with database methods too."""
    calls: list[int] = []

    class Database(class_of(make_database.kind)):  # type: ignore[misc]
        def _initialize_connection(self, connection: Any) -> None:
            calls.append(self.execute_sql("SELECT pg_backend_pid()").fetchone()[0])

    async with make_database(Database, pool_size=1) as database:
        await database.execute_sql("SELECT 1")
        await by_orm(database, peewee.fn.LOWER("A"))
        assert calls == [calls[0]] * 2, "after connecting, and after the raw SQL; not after the query"


@pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3"], indirect=True)
async def test_a_hook_that_fails_at_a_reset_costs_the_connection(make_database: Maker, caplog: Any) -> None:
    """Half set up it is nobody's: the next call has a new one."""
    calls: list[str] = []

    class Database(class_of(make_database.kind)):  # type: ignore[misc]
        def _initialize_connection(self, connection: Any) -> None:
            calls.append("set up")
            execute(connection, "SELECT 1 / 0" if len(calls) == 2 else "SET app.tenant = 'blue'")

    async with make_database(Database, pool_size=1) as database:
        await database.execute_sql("SELECT 1")
        assert await by_orm(database, peewee.fn.current_setting("app.tenant")) == "blue"
    assert "the session reset failed, the connection is dropped" in caplog.text


@pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3"], indirect=True)
async def test_the_encoding_is_back_after_a_reset(make_database: Maker) -> None:
    async with make_database(pool_size=1, encoding="LATIN1") as database:
        for _ in range(3):
            assert await value_of(database, "SHOW client_encoding") == "LATIN1"
            assert await value_of(database, "SELECT 'H\N{LATIN SMALL LETTER U WITH DIAERESIS}y'") == "Hüy"


@pytest.mark.parametrize("make_database", ["psycopg2"], indirect=True)
async def test_what_the_driver_sets_is_back_after_a_reset(make_database: Maker) -> None:
    """psycopg2 reads dates in one style only, and sets that where the server or role has another."""
    async with make_database(pool_size=1, options="-c datestyle=German") as database:
        for _ in range(3):
            assert await value_of(database, "SELECT '2026-11-28'::date") == datetime.date(2026, 11, 28)


@pytest.mark.parametrize("make_database", ["psycopg2"], indirect=True)
async def test_what_the_driver_was_told_to_set_is_back_after_a_reset(make_database: Maker) -> None:
    """By a method of its connection, and not by SQL."""

    class Database(class_of(make_database.kind)):  # type: ignore[misc]
        def _initialize_connection(self, connection: Any) -> None:
            connection.set_session(readonly=True)

    async with make_database(Database, pool_size=1) as database:
        for _ in range(3):
            assert await value_of(database, "SHOW default_transaction_read_only") == "on"


# -- a connection that user code has had ----------------------------------------------------


@pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3", "pymysql", "sqlite"], indirect=True)
async def test_a_connection_that_a_function_has_kept_is_closed(make_database: Maker) -> None:
    """So nothing that is done to it later reaches the next task, nor the other way round."""
    async with make_database(pool_size=1) as database:
        kept = await database.run(lambda: [database.connection()])
        async with database.connection_context():
            with pytest.raises(Exception, match=r"closed|\(0, ''\)"):
                await database.run(lambda: kept[0].cursor().execute("SELECT 1"))
            assert await value_of(database, "SELECT 1") == 1


@pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3"], indirect=True)
async def test_what_a_function_tells_the_driver_ends_with_the_call(make_database: Maker) -> None:
    """No statement undoes it: the next task would get its rows as something else."""

    def change() -> None:
        connection = database.connection()
        if make_database.kind == "psycopg2":
            from psycopg2.extras import RealDictCursor

            connection.cursor_factory = RealDictCursor
        else:
            from psycopg.rows import dict_row

            connection.row_factory = dict_row

    async with make_database(pool_size=1) as database:
        await database.run(change)
        assert (await database.execute_sql("SELECT 7 AS x")).fetchone() == (7,)


# -- what the default notices ---------------------------------------------------------------

OWN_FUNCTION = {
    "postgresql": (
        (
            "CREATE FUNCTION set_tenant(name text) RETURNS text LANGUAGE sql "
            "AS $$ SELECT set_config('app.tenant', name, false) $$"
        ),
        "DROP FUNCTION set_tenant(text)",
        peewee.fn.coalesce(peewee.fn.current_setting("app.tenant", True), ""),
        "",
    ),
    "mysql": (
        (
            "CREATE FUNCTION set_tenant(name TEXT) RETURNS TEXT DETERMINISTIC "
            "BEGIN SET @tenant = name; RETURN name; END"
        ),
        "DROP FUNCTION set_tenant",
        peewee.SQL("@tenant"),
        None,
    ),
}


@pytest.mark.parametrize("way", ["query", "block", "stream", "SQL()", "raw SQL"])
@pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3", "pymysql"], indirect=True)
async def test_a_function_of_ones_own_leaves_nothing(make_database: Maker, way: str) -> None:
    """In a query that Peewee writes, wherever it stands."""
    create, drop, tenant, nothing = OWN_FUNCTION[make_database.family]
    async with make_database(pool_size=1) as database:
        models = Models(database)
        await database.create_tables(models.all)
        await models.User.create(name="a")
        await database.execute_sql(create)
        query = models.User.select(peewee.fn.set_tenant("blue"))
        if way == "query":
            assert await query.scalar() == "blue"
        elif way == "block":
            async with database.atomic():
                assert await query.scalar() == "blue"
                assert await by_orm(database, tenant) == "blue", "in the block it holds"
        elif way == "stream":
            assert [row async for row in query.tuples().iterator()] == [("blue",)]
        elif way == "SQL()":
            assert await by_orm(database, peewee.SQL("coalesce(set_tenant('blue'), '')")) == "blue"
        else:
            assert await value_of(database, "SELECT set_tenant('blue')") == "blue"
        assert await by_orm(database, tenant) == nothing
        await database.execute_sql(drop)


CALLS = [
    ("SELECT set_tenant(%s)", True),
    ('SELECT "t1"."id" FROM "item" AS "t1" WHERE ("t1"."x" = app.tenant ())', True),
    ('SELECT app.lower(%s), "app"."lower"(%s)', True),
    ("SELECT SET_CONFIG(%s, %s, %s)", True),
    ("SELECT pg_try_advisory_xact_lock(%s)", True),
    ("SELECT get_lock(%s, 1)", True),
    ("SELECT `lower`(%s)", True),
    ("SELECT LOWER(%s), pg_catalog.upper(%s), count(*)", False),
    ('INSERT INTO "users" ("name", "age") VALUES (%s, %s) RETURNING "users"."id"', False),
    ("INSERT INTO users(name) VALUES (%s)", False),
    ("INSERT INTO `users` (`name`) VALUES (%s) ON DUPLICATE KEY UPDATE `name` = VALUES(`name`)", False),
    ('SELECT CAST("t1"."x" AS DECIMAL(10, 5)) FROM "t" AS "t1" WHERE ("t1"."id" IN (%s, %s))', False),
    ('SELECT SUM("x") OVER (PARTITION BY "y" ORDER BY "z") FROM "t"', False),
    ('WITH "c" AS (SELECT 1) SELECT DISTINCT ON ("a") "a" FROM "c" WHERE EXISTS(SELECT 1)', False),
]


@pytest.mark.parametrize(("sql", "may_call"), CALLS)
def test_functions_that_are_not_known_are_found(sql: str, may_call: bool) -> None:
    assert may_call_unknown(sql) is may_call


# -- the setting ----------------------------------------------------------------------------

TRIGGER = (
    (
        "CREATE FUNCTION note_tenant() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN PERFORM set_config('app.tenant', NEW.name, false); RETURN NEW; END $$"
    ),
    "CREATE TRIGGER note_tenant BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION note_tenant()",
)
TRIGGER_MYSQL = ("CREATE TRIGGER note_tenant BEFORE INSERT ON users FOR EACH ROW SET @tenant = NEW.name",)


@pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3", "pymysql"], indirect=True)
@pytest.mark.parametrize("inside", [False, True])
async def test_always_undoes_what_a_trigger_has_done(make_database: Maker, inside: bool) -> None:
    """No text of a statement says so; after each call outside a block, and after each block."""
    _, _, tenant, nothing = OWN_FUNCTION[make_database.family]
    async with make_database(pool_size=1, session_reset="always") as database:
        models = Models(database)
        await database.create_tables(models.all)
        for sql in TRIGGER if make_database.family == "postgresql" else TRIGGER_MYSQL:
            await database.execute_sql(sql)
        if inside:
            async with database.atomic():
                await models.User.create(name="blue")
                assert await by_orm(database, tenant) == "blue", "in the block it holds"
        else:
            await models.User.create(name="blue")
        assert await by_orm(database, tenant) == nothing


@pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3", "pymysql", "sqlite"], indirect=True)
async def test_never_leaves_a_session_as_it_is(make_database: Maker) -> None:
    """What SET has set meets the next call on that connection; transactions are rolled back all the same."""
    change, look = {
        "postgresql": ("SET app.tenant = 'blue'", TENANT),
        "mysql": ("SET @tenant = 'blue'", "SELECT @tenant"),
        "sqlite": ("PRAGMA cache_size = 77", "PRAGMA cache_size"),
    }[make_database.family]
    async with make_database(pool_size=1, session_reset="never") as database:
        await database.execute_sql(change)
        await database.run(lambda: [database.connection()])
        assert await value_of(database, look) in ("blue", 77)


async def test_memory_outlives_every_reset() -> None:
    """A database that goes with its connection keeps it."""
    async with class_of("sqlite")(":memory:", session_reset="always") as database:
        models = Models(database)
        await database.create_tables(models.all)
        await models.User.create(name="a")
        assert await models.User.select().count() == 1


# -- a tenant for row-level security, as README has it -----------------------------------------


@on_databases("psycopg2", "psycopg3")
async def test_a_tenant_of_a_block_ends_with_it(make_database: Maker) -> None:
    """set_config(..., true) in a block holds to its end, without any reset."""
    set_tenant = peewee.fn.set_config("app.tenant", "blue", True)
    async with make_database(pool_size=1, session_reset="never") as database:
        for _ in range(2):
            async with database.atomic():
                assert await by_orm(database, peewee.fn.current_setting("app.tenant", True)) in (None, "")
                await by_orm(database, set_tenant)
                assert await by_orm(database, peewee.fn.current_setting("app.tenant", True)) == "blue"
