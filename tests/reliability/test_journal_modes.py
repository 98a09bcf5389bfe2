"""WAL is a default: a file that cannot be switched to it opens as Peewee opens it, and the log says so."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import peewee
import pytest

from async_peewee import AsyncSqliteDatabase
from tests.kinds import IMPORTABLE
from tests.support import Maker

FORGONE = "could not be switched to WAL"
FULL, NORMAL = 2, 1
FILES = [kind for kind in ("sqlite", "apsw", "cysqlite", "sqlcipher") if kind in IMPORTABLE]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file in rollback-journal mode with 500 rows."""
    path = tmp_path / "test.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (n)")
        connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(500)])
        connection.commit()
    return path


async def value_of(database: Any, sql: str) -> Any:
    return (await database.execute_sql(sql)).fetchone()[0]


async def modes_of(database: Any) -> tuple[str, int]:
    return await value_of(database, "PRAGMA journal_mode"), await value_of(database, "PRAGMA synchronous")


@pytest.mark.parametrize("make_any", FILES, indirect=True)
async def test_a_file_that_is_read_elsewhere_opens_at_once(make_any: Maker, caplog: Any) -> None:
    """Not after the busy timeout; one line for all connections; switched when the reader has gone."""
    async with make_any(pragmas={"journal_mode": "delete"}) as other:
        await other.execute_sql("CREATE TABLE t (n)")
        await other.execute_sql("INSERT INTO t VALUES (1), (2)")
        reading = []

        def read() -> None:
            reading.append(other.cursor())
            next(iter(reading[0].execute("SELECT n FROM t")))

        async with other.connection_context():
            await other.run(read)
            async with make_any(timeout=60, pool_min_size=3) as database:
                began = time.monotonic()
                assert await value_of(database, "SELECT count(*) FROM t") == 2
                assert await modes_of(database) == ("delete", FULL)
                assert await value_of(database, "PRAGMA busy_timeout") >= 5_000, "as before the attempt"
                assert time.monotonic() - began < 30
            assert caplog.text.count(FORGONE) == 1
            assert "pragmas={'journal_mode': 'delete'}" in caplog.text
            await other.run(reading.clear)
        async with database:
            assert await modes_of(database) == ("wal", NORMAL)
        assert caplog.text.count(FORGONE) == 1


async def test_a_file_that_is_being_written_elsewhere_can_be_read(path: Path, caplog: Any) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("INSERT INTO t VALUES (500)")  # and no COMMIT yet
        async with AsyncSqliteDatabase(path, timeout=60) as database:
            assert await value_of(database, "SELECT count(*) FROM t") == 500
            assert await modes_of(database) == ("delete", FULL)
    assert caplog.text.count(FORGONE) == 1


async def test_a_file_where_there_is_no_shared_memory(path: Path, caplog: Any) -> None:
    """There SQLite refuses without an error; reading and writing work."""
    async with AsyncSqliteDatabase(f"file:{path}?vfs=unix-dotfile", uri=True) as database:
        await database.execute_sql("INSERT INTO t VALUES (500)")
        async with database.atomic():
            assert await value_of(database, "SELECT count(*) FROM t") == 501
        assert await modes_of(database) == ("delete", FULL)
    assert "no shared memory" in caplog.text


READ_ONLY = """
import asyncio, os, sys
from async_peewee import AsyncSqliteDatabase

async def count(path):
    async with AsyncSqliteDatabase(path) as db, db.atomic():
        return (await db.execute_sql("SELECT count(*) FROM sqlite_master")).fetchone()[0]

asyncio.run(count(":memory:"))  # imports what there is to import
path = sys.argv[1]
os.chmod(path, 0o444)
os.chmod(os.path.dirname(path), 0o555)
if os.getuid() == 0:  # who may write anything
    os.setgid(65534)
    os.setuid(65534)
print(asyncio.run(count(path)))
"""


def test_a_file_that_may_only_be_read() -> None:
    """In a folder that may only be read; a block in it as well."""
    with tempfile.TemporaryDirectory() as folder:  # not in one that only root may enter
        path = Path(folder, "test.db")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE t (n)")
        code = [sys.executable, "-c", READ_ONLY, str(path)]
        done = subprocess.run(code, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        path.parent.chmod(0o755)
    assert done.stdout == "1\n", done.stderr
    assert done.stderr.count(FORGONE) == 1
    assert "readonly" in done.stderr


def test_what_the_user_asks_for_is_a_condition(path: Path, caplog: Any) -> None:
    """WAL given as a pragma is an error where it cannot be had."""
    with closing(sqlite3.connect(path)) as other:
        reading = other.execute("SELECT n FROM t")
        reading.fetchone()
        database = AsyncSqliteDatabase(path, pragmas={"journal_mode": "wal"}, timeout=0)
        with pytest.raises(peewee.OperationalError, match="database is locked"):
            database.connect()
        assert database.is_closed()
    assert FORGONE not in caplog.text


@pytest.mark.parametrize(
    ("pragmas", "modes"),
    [
        ({}, ("wal", NORMAL)),
        ({"journal_mode": "delete"}, ("delete", FULL)),
        ({"Journal_Mode": "wal"}, ("wal", NORMAL)),
        ({"main.journal_mode": "truncate"}, ("truncate", FULL)),
        ({"synchronous": "off"}, ("wal", 0)),
        ({"journal_mode": "delete", "synchronous": 1}, ("delete", NORMAL)),
    ],
)
async def test_synchronous_is_relaxed_with_wal_alone(path: Path, pragmas: Any, modes: Any) -> None:
    """Without WAL a power cut could damage the file."""
    async with AsyncSqliteDatabase(path, pragmas=pragmas) as database:
        assert await modes_of(database) == modes


async def test_an_attached_file_is_left_as_it_is(path: Path, tmp_path: Path) -> None:
    """It may be another program's. Attached before the database's own file is switched, and after."""
    database = AsyncSqliteDatabase(tmp_path / "first.db")
    for name in ("first.db", "second.db"):
        database.init(tmp_path / name)
        async with database:
            if name == "first.db":
                await database.attach(str(path), "other")
            assert await value_of(database, "PRAGMA main.journal_mode") == "wal"
            assert await value_of(database, "PRAGMA other.journal_mode") == "delete"


async def test_a_permanent_pragma_takes_the_place_of_the_default(path: Path) -> None:
    """On connections to come as well."""
    database = AsyncSqliteDatabase(path)
    async with database:
        await database.pragma("journal_mode", "delete", permanent=True)
    async with database:
        assert await modes_of(database) == ("delete", FULL)


def test_a_plain_thread_opens_such_a_file_too(path: Path, caplog: Any) -> None:
    with closing(sqlite3.connect(path)) as other:
        reading = other.execute("SELECT n FROM t")
        reading.fetchone()
        database, began = AsyncSqliteDatabase(path, timeout=60), time.monotonic()
        with database.connection_context():
            assert database.execute_sql("SELECT count(*) FROM t").fetchone() == (500,)
        assert time.monotonic() - began < 30
    assert caplog.text.count(FORGONE) == 1


@pytest.mark.parametrize("make_any", FILES, indirect=True)
async def test_pragmas_that_must_come_first_do(make_any: Maker) -> None:
    """A page's size is fixed by what is written first, which WAL is: the user's own go before it."""
    is_encrypted = make_any.kind == "sqlcipher"
    name = "cipher_page_size" if is_encrypted else "page_size"
    async with make_any(pragmas={name: 8192}) as database:
        await database.execute_sql("CREATE TABLE t (n)")
        assert int(await value_of(database, f"PRAGMA {name}")) == 8192
        assert await modes_of(database) == ("wal", NORMAL)
