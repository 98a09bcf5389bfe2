"""Loops that come and go, and programs that end without a word."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support import Maker, Models, Server, on_asyncio, slow_sql, wait_until, worker_threads

PROGRAM = """
import asyncio, sys, anyio, peewee
from urllib.parse import urlsplit
from async_peewee import AsyncModel, AsyncMySQLDatabase, AsyncPostgresqlDatabase, AsyncSqliteDatabase
target, name = sys.argv[1:3]
if target.startswith("mysql"):
    url = urlsplit(target)
    options = {"host": url.hostname, "port": url.port, "user": url.username, "password": url.password or ""}
    db = AsyncMySQLDatabase(name, **options)
elif target.startswith("postgresql"):
    db = AsyncPostgresqlDatabase(target, application_name=name, options="-c search_path=" + name)
else:
    db = AsyncSqliteDatabase(target)

class Row(AsyncModel):
    text = peewee.TextField()
    class Meta:
        database = db
"""


# Far less than what has to be ended would take, and more than a busy machine needs, in seconds.
SOON = 10.0


def run_program(body: str, *arguments: str) -> tuple[float, str]:
    """Run a program to its end; return the seconds that it took after it printed `ready`, and its output."""
    source = textwrap.dedent(PROGRAM) + textwrap.dedent(body)
    command = [sys.executable, "-u", "-W", "error", "-c", source, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = []
        ready = time.monotonic()
        for line in process.stdout:
            lines.append(line)
            if line == "ready\n":
                ready = time.monotonic()
        code = process.wait(20)
    seconds, output = time.monotonic() - ready, "".join(lines)
    assert code == 0, output
    return seconds, output


def test_twenty_runs_in_a_row_on_one_database_object(make_database: Maker) -> None:
    """asyncio.run() twenty times, then trio.run(), none of them closing: every run works, no thread stays."""
    trio = pytest.importorskip("trio")
    database = make_database(pool_size=2)
    models = Models(database)

    async def once() -> None:
        await models.User.create(name=str(await models.User.select().count()))
        async with database.atomic():
            await models.User.select()

    asyncio.run(_create_tables(database, models))
    for _ in range(20):
        asyncio.run(once())
    trio.run(once)
    assert worker_threads() == []
    assert asyncio.run(_count(models)) == 21


async def _create_tables(database: Any, models: Models) -> None:
    await database.create_tables(models.all)


async def _count(models: Models) -> int:
    return await models.User.select().count()  # type: ignore[no-any-return]


@pytest.fixture
def runner(anyio_backend: tuple[str, dict[str, Any]]) -> str:
    """Return the line that runs a program on the loop of the test."""
    name, options = anyio_backend
    return f"anyio.run(main, backend={name!r}, backend_options={options!r})"


def target_of(make_database: Maker) -> tuple[str, str]:
    server = make_database.server
    return (str(make_database.path), "x") if server is None else (server.url, server.name)


def test_a_program_that_never_closes_ends_promptly(make_database: Maker, runner: str) -> None:
    """It exits promptly, with nothing on standard error and what it committed in place."""
    body = f"""
    async def main():
        await Row.create_table()
        await Row.create(text="kept")
        print(await Row.select().count())
        print("ready")
    {runner}
    """
    seconds, output = run_program(textwrap.dedent(body), *target_of(make_database))
    assert output == "1\nready\n"
    assert seconds < SOON


def test_a_program_that_ends_in_a_transaction_commits_nothing(make_database: Maker, runner: str) -> None:
    """A task in the middle of a block and a slow statement is rolled back, and the program ends in time."""
    slow = slow_sql(make_database.kind, 30)
    body = f"""
    async def in_a_block(inside):
        async with db.atomic():
            await Row.create(text="lost")
            inside.set()
            await db.execute_sql({slow!r})

    async def main():
        await Row.create_table()
        inside = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(in_a_block, inside)
            await inside.wait()
            await anyio.sleep(0.1)
            print("ready")
            group.cancel_scope.cancel()
    {runner}
    """
    seconds, output = run_program(textwrap.dedent(body), *target_of(make_database))
    assert output == "ready\n"
    assert seconds < SOON
    with make_database.plain() as plain:
        assert plain.execute_sql("SELECT count(*) FROM row").fetchone() == (0,)


@on_asyncio
def test_a_task_still_in_a_transaction_when_main_returns_commits_nothing(
    make_database: Maker, runner: str
) -> None:
    """Nobody has cancelled it: run() itself does, and the program ends in time."""
    slow = slow_sql(make_database.kind, 30)
    body = f"""
    async def in_a_block(inside):
        async with db.atomic():
            await Row.create(text="lost")
            inside.set()
            await db.execute_sql({slow!r})

    async def main():
        global task
        await Row.create_table()
        inside = anyio.Event()
        task = asyncio.create_task(in_a_block(inside))
        await inside.wait()
        await anyio.sleep(0.1)
        print("ready")
    {runner}
    """
    seconds, output = run_program(textwrap.dedent(body), *target_of(make_database))
    assert output == "ready\n"
    assert seconds < SOON
    with make_database.plain() as plain:
        assert plain.execute_sql("SELECT count(*) FROM row").fetchone() == (0,)


def test_a_loop_closed_without_cancelling_anything_ends_its_threads(make_database: Maker) -> None:
    """run_until_complete() and close(), no more: the workers notice within a second and roll back."""
    database = make_database()
    models = Models(database)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_create_tables(database, models))
    loop.run_until_complete(_leave_open(database, models))
    loop.close()
    anyio.run(wait_until, lambda: worker_threads() == [])
    if make_database.server is not None:
        backends = make_database.server.backends
        anyio.run(wait_until, lambda: backends() == [])
    assert asyncio.run(_count(models)) == 0


async def _leave_open(database: Any, models: Models) -> None:
    block = database.atomic()
    await block.__aenter__()
    await models.User.create(name="lost")


async def test_close_interrupts_what_does_not_end(make_database: Maker) -> None:
    """Running calls have the timeout, waiting ones fail at once, and no connection stays."""
    database = make_database(pool_size=2)
    slow = slow_sql(make_database.kind, 30)
    errors: list[str] = []

    async def call() -> None:
        try:
            await database.execute_sql(slow)
        except Exception as error:
            errors.append(type(error).__name__)

    await database.connect()
    async with anyio.create_task_group() as group:
        for _ in range(7):
            group.start_soon(call)
        await wait_until(lambda: database.stats().waiting == 5 and database.stats().busy == 2)
        with anyio.fail_after(SOON):
            await database.close(timeout=0.2)
        assert worker_threads() == []
    assert (errors.count("PoolClosed"), len(errors)) == (5, 7)
    server = make_database.server
    if server is not None:
        await wait_until(lambda: server.backends() == [])


async def test_the_servers_side_is_clean_after_close(server: Server) -> None:
    """After closing with a block open in another task, no backend of ours is left in a transaction."""
    from async_peewee import AsyncPostgresqlDatabase

    database = AsyncPostgresqlDatabase(server.url, **server.connect_params())
    inside = anyio.Event()

    async def holder() -> None:
        async with database.atomic():
            inside.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(holder)
        await inside.wait()
        assert await database.close(timeout=0.1)
        await wait_until(lambda: server.backends() == [])
        group.cancel_scope.cancel()


async def test_many_paths_of_one_file_are_one_gate(tmp_path: Path) -> None:
    """Two database objects on one file queue their writers at the same gate."""
    from async_peewee import AsyncSqliteDatabase

    (tmp_path / "link.db").symlink_to(tmp_path / "test.db")
    first, second = AsyncSqliteDatabase(tmp_path / "test.db"), AsyncSqliteDatabase(tmp_path / "link.db")
    assert first.connections.write_lock is not None
    assert first.connections.write_lock is second.connections.write_lock
