"""Other code in the same process: default threads, callbacks into the loop, contextvars, Ctrl-C."""

from __future__ import annotations

import contextvars
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import peewee
import pytest

from async_peewee import AsyncSqliteDatabase, PoolTimeout
from tests.support import Maker, Models, slow_sql, wait_until

on_two = pytest.mark.parametrize("make_database", ["sqlite", "psycopg2"], indirect=True)

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


@on_two
async def test_a_full_default_limiter_does_not_matter(models: Models) -> None:
    """Other code holds all of anyio's default threads; our calls and theirs do not meet."""
    release = threading.Event()
    total = int(anyio.to_thread.current_default_thread_limiter().total_tokens)
    async with anyio.create_task_group() as group:
        for _ in range(total):
            group.start_soon(anyio.to_thread.run_sync, release.wait, 10)
        limiter = anyio.to_thread.current_default_thread_limiter()
        await wait_until(lambda: limiter.borrowed_tokens == total)
        with anyio.fail_after(5):
            await models.User.create(name="a")
        release.set()


@on_two
async def test_our_pinned_workers_do_not_take_the_default_threads(make_database: Maker) -> None:
    """40 blocks are open, and anyio.to_thread still has all of its threads."""
    async with make_database(pool_size=40) as database:
        ready = []
        release = anyio.Event()

        async def holder() -> None:
            async with database.connection_context():
                ready.append(1)
                await release.wait()

        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(holder)
            await wait_until(lambda: len(ready) == 40)
            assert anyio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            assert await anyio.to_thread.run_sync(lambda: 42) == 42
            release.set()


async def test_a_worker_that_calls_back_for_its_own_worker_gets_an_error(tmp_path: Path) -> None:
    """In acquire_timeout seconds, naming the function that holds the worker; never a hang."""
    async with AsyncSqliteDatabase(tmp_path / "test.db", pool_size=1, acquire_timeout=0.5) as database:

        async def back_on_the_loop() -> None:
            await database.execute_sql("SELECT 1")

        def on_the_worker() -> None:
            anyio.from_thread.run(back_on_the_loop)

        with anyio.fail_after(5), pytest.raises(PoolTimeout, match="on_the_worker"):
            await database.run(on_the_worker)
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)


async def test_the_callers_contextvars_are_seen_on_the_worker(sqlite_models: Models) -> None:
    """Always the current value, inside a block too; what the worker sets does not come back."""
    database = sqlite_models.database

    def look() -> str:
        value = tenant.get()
        tenant.set("set on the worker")
        return value

    tenant.set("a")
    assert await database.run(look) == "a"
    async with database.atomic():
        tenant.set("b")
        assert await database.run(look) == "b"
    assert tenant.get() == "b"


async def test_bind_ctx_on_a_loop_is_refused(tmp_path: Path, sqlite_models: Models) -> None:
    """It binds for the whole process, so that other tasks would write into the wrong database."""
    other = AsyncSqliteDatabase(tmp_path / "other.db")
    for bind in (lambda: other.bind_ctx([sqlite_models.User]), lambda: sqlite_models.User.bind_ctx(other)):
        with pytest.raises(peewee.InterfaceError, match="every task"):
            bind()
    await sqlite_models.User.create(name="a")
    assert await sqlite_models.User.select().count() == 1


@pytest.mark.parametrize("name", [":memory:", "file:shared?mode=memory&cache=shared"])
async def test_memory_is_one_worker_and_one_database(anyio_backend: Any, name: str) -> None:
    """16 tasks see the same tables; a shared cache would lock them whole between connections."""
    database = AsyncSqliteDatabase(name, uri=name.startswith("file:"), pool_size=8)
    async with database:
        models = Models(database)
        await database.create_tables(models.all)

        async def create(number: int) -> None:
            await models.User.create(name=str(number))

        async with anyio.create_task_group() as group:
            for number in range(16):
                group.start_soon(create, number)
        assert await models.User.select().count() == 16
        assert database.stats().workers == 1


# Before Python 3.11 asyncio turns Ctrl-C into CancelledError.
CTRL_C_BACKENDS = ["asyncio", "uvloop", "trio"] if sys.version_info >= (3, 11) else ["trio"]

CTRL_C = """
import signal, sys, anyio
# A shell starts what runs in its background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
from async_peewee import AsyncPostgresqlDatabase, AsyncSqliteDatabase
target, name, backend, slow = sys.argv[1:]
if target.startswith("postgresql"):
    db = AsyncPostgresqlDatabase(target, application_name=name, options="-c search_path=" + name)
else:
    db = AsyncSqliteDatabase(target)

async def main():
    await db.execute_sql("CREATE TABLE row (x int)")
    async with db.atomic():
        await db.execute_sql("INSERT INTO row VALUES (1)")
        print("ready", flush=True)
        await db.execute_sql(slow)

try:
    options = {} if backend == "trio" else {"use_uvloop": backend == "uvloop"}
    anyio.run(main, backend=backend.replace("uvloop", "asyncio"), backend_options=options)
except KeyboardInterrupt:
    print("KeyboardInterrupt", flush=True)
"""


@pytest.mark.parametrize("make_database", ["sqlite", "psycopg2", "psycopg3"], indirect=True)
@pytest.mark.parametrize("backend", CTRL_C_BACKENDS)
def test_ctrl_c_in_a_transaction(make_database: Maker, backend: str) -> None:
    """During a slow statement: KeyboardInterrupt, the process ends promptly, nothing is committed."""
    pytest.importorskip(backend)
    server = make_database.server
    target = (str(make_database.path), "x") if server is None else (server.url, server.name)
    slow = slow_sql(make_database.kind, 30)
    command = [sys.executable, "-c", textwrap.dedent(CTRL_C), *target, backend, slow]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        threading.Event().wait(0.3)  # so that the statement is under way
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "KeyboardInterrupt\n"
        assert process.wait(10) == 0
    assert time.monotonic() - start < 10
    with make_database.plain() as plain:
        assert plain.execute_sql("SELECT count(*) FROM row").fetchone() == (0,)
