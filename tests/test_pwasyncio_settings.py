"""Programs written for playhouse.pwasyncio: what a database takes, and functions that wait for the loop."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import anyio
import peewee
import pytest

from tests.flavours import OUR_CELLS, Maker, anyio_backend, cell, cells, db, make_db, pw

__all__ = ["anyio_backend", "cell", "db", "make_db", "pw"]  # fixtures

# -- what a database takes --------------------------------------------------------------


async def test_an_sqlite_database_takes_peewees_arguments(make_db: Maker) -> None:
    """pragmas=, timeout=, and functions registered before it connects."""
    db = make_db(pragmas={"user_version": 99, "cache_size": -2000}, timeout=3)

    @db.func("shout")
    def shout(text: str) -> str:
        return text.upper()

    async with db:
        assert tuple((await db.aexecute_sql("PRAGMA user_version")).fetchone()) == (99,)
        assert tuple((await db.aexecute_sql("PRAGMA cache_size")).fetchone()) == (-2000,)
        assert tuple((await db.aexecute_sql("SELECT shout(?)", ("hey",))).fetchone()) == ("HEY",)
    assert db.timeout == 3
    await db.close_pool()


@cells("psycopg2", "psycopg", "asyncpg")
async def test_a_postgresql_database_takes_an_isolation_level(make_db: Maker) -> None:
    """By name, for its transactions; the address is a URL."""
    db = make_db(isolation_level="SERIALIZABLE")
    async with db.atomic():
        found = await db.aexecute_sql("SHOW transaction_isolation")
        assert found.fetchone()[0] == "serializable"
    await db.close_pool()


@cells("psycopg2", "psycopg", "asyncpg")
async def test_a_block_on_postgresql_takes_asyncpgs_isolation(db: Any) -> None:
    async with db.atomic(isolation="repeatable_read"):
        found = await db.aexecute_sql("SHOW transaction_isolation")
        assert found.fetchone()[0] == "repeatable read"
    found = await db.aexecute_sql("SHOW transaction_isolation")
    assert found.fetchone()[0] == "read committed"


@cells("pymysql", "aiomysql")
async def test_a_mysql_database_may_be_mariadb(db: Any) -> None:
    """With mariadb=True a JSON field speaks MariaDB's dialect."""

    class Setting(db.Model):  # type: ignore[misc, name-defined]
        value = peewee.JSONField()

    await db.acreate_tables([Setting])
    await Setting.acreate(value={"k": "v", "n": 5})
    assert (await db.get(Setting.select())).value == {"k": "v", "n": 5}
    assert await db.count(Setting.select().where(Setting.value["k"] == "v")) == 1


# -- the bridge -------------------------------------------------------------------------


async def test_a_function_waits_for_the_loop(pw: Any, db: Any) -> None:
    """await_() inside greenlet_spawn() and inside db.run(): results, errors, context variables."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")

    async def add(x: int, y: int) -> int:
        await anyio.sleep(0)
        return x + y

    async def fail() -> None:
        raise RuntimeError(variable.get())

    def total(*numbers: int) -> int:
        return sum(pw.await_(add(number, 1)) for number in numbers)

    await db.aexecute_sql("SELECT 1")  # the database is open, and the only one here
    assert await pw.greenlet_spawn(total, 1, 2) == 5
    assert await db.run(total, 3, 4) == 9
    variable.set("set")
    with pytest.raises(RuntimeError, match="^set$"):
        await db.run(lambda: pw.await_(fail()))
    assert await db.run(variable.get) == "set"


async def test_await_outside_of_a_function_on_a_worker(pw: Any) -> None:
    """MissingGreenletBridge, which names the ways; the coroutine is closed."""

    async def never() -> None: ...

    coroutine = never()
    with pytest.raises(pw.MissingGreenletBridge, match=r"db\.run.*afetch"):
        pw.await_(coroutine)
    assert coroutine.cr_frame is None


async def test_cancelling_a_function_cancels_what_it_waits_for(pw: Any, db: Any) -> None:
    """Control comes back when both have ended."""
    ended: list[str] = []
    waiting = anyio.Event()

    async def wait() -> None:
        try:
            waiting.set()
            await anyio.sleep_forever()
        finally:
            ended.append("awaitable")

    def work() -> None:
        try:
            pw.await_(wait())
        finally:
            ended.append("function")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(db.run, work)
            await waiting.wait()
            tasks.cancel_scope.cancel()
    assert ended == ["awaitable", "function"]
    assert tuple((await db.aexecute_sql("SELECT 1")).fetchone()) == (1,)


def test_every_cell_of_ours_is_tested() -> None:
    """On each loop over SQLite, and over each driver on trio."""
    assert {c.loop for c in OUR_CELLS if c.driver == "sqlite3"} == {"asyncio", "uvloop", "trio"}
    assert {c.driver for c in OUR_CELLS if c.loop == "trio"} == {"sqlite3", "psycopg2", "psycopg", "pymysql"}
