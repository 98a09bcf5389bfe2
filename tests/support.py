"""What several test modules share: a server seen from outside, databases, models, waiting."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncDatabase, AsyncModel
from tests.kinds import ALL, class_of
from tests.watchdog import watched

# Nothing that tests write has to survive a loss of power. It does survive that the server is killed,
# so each COMMIT still waits until it is written.
RELAXED = "".join(f"ALTER SYSTEM SET {name} = off;\n" for name in ("fsync", "full_page_writes"))


@contextlib.contextmanager
def run_wheel(module: str) -> Iterator[Any]:
    """Run the PostgreSQL server of an installed wheel; it ends with this process, however that ends."""
    with warnings.catch_warnings():  # one of them would like to have XDG_RUNTIME_DIR set
        warnings.simplefilter("ignore")
        wheel = pytest.importorskip(module, reason=f"no PostgreSQL is given, and no {module} is installed")
    # Not in pytest's own folder: another run of pytest takes the server's user the right to
    # enter that, or clears it, while this one goes on.
    folder = Path(tempfile.mkdtemp(prefix="async_peewee-"))
    with watched(folder):
        server = wheel.get_server(folder)
        try:
            server.psql(RELAXED + "SELECT pg_reload_conf();")
            yield server
        finally:
            server.cleanup()


@contextlib.contextmanager
def server_of_wheel(module: str) -> Iterator[str]:
    """Run such a server and give its URL."""
    with run_wheel(module) as server:
        yield server.get_uri()


# Whatever is in a schema depends on it: tables, types, functions, extensions.
HAS_POSTGRESQL = """
    SELECT 1 FROM pg_depend
    WHERE refclassid = 'pg_namespace'::regclass AND refobjid = %s::regnamespace LIMIT 1
"""


class Server:
    """A PostgreSQL server seen from outside: a schema of the tests' own, and who is connected."""

    def __init__(self, url: str) -> None:
        import psycopg2

        self.url = url
        self.name = f"t{uuid.uuid4().hex[:12]}"
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True
        self.query("SET lock_timeout = '20s'")  # to fail is better than to hang
        self.query(f"CREATE SCHEMA {self.name}")

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def info(self) -> Any:
        """Return libpq's own account of how it is connected: host, port, user, dbname."""
        return self._connection.info

    def kill(self, pid: int) -> None:
        self.query("SELECT pg_terminate_backend(%s)", pid)

    def backends(self, extra: str = "true") -> list[int]:
        """Return the process ids of the connections of this test's database objects."""
        sql = f"SELECT pid FROM pg_stat_activity WHERE application_name = %s AND ({extra})"
        return [pid for (pid,) in self.query(sql, self.name)]

    def sleeping(self) -> list[int]:
        """Return those of them that run a sleep now."""
        return self.backends("state = 'active' AND query LIKE '%%pg_sleep%%'")

    def connect_params(self) -> dict[str, Any]:
        return {"application_name": self.name, "options": f"-c search_path={self.name}"}

    def empty(self) -> None:
        """End the connections that a test has left, and leave nothing of it in the schema."""
        end_all(self)
        if self.query(HAS_POSTGRESQL, self.name):
            self.query(f"DROP SCHEMA {self.name} CASCADE; CREATE SCHEMA {self.name}")

    def close(self) -> None:
        end_all(self)
        self.query(f"DROP SCHEMA {self.name} CASCADE")
        self._connection.close()


# What MySQL says to a KILL of a connection that has ended by itself.
NO_SUCH_THREAD = 1094


class MySQLServer:
    """A MySQL or MariaDB server seen from outside: a database of the tests' own, and who is connected."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        import pymysql

        self.name = f"t{uuid.uuid4().hex[:12]}"
        self.url = "mysql://{user}:{password}@{host}:{port}".format(**parameters)
        self._parameters = parameters
        self._error = pymysql.err.OperationalError
        self._connection = pymysql.connect(**parameters, autocommit=True)
        self.query("SET lock_wait_timeout = 20")
        self.query(f"CREATE DATABASE {self.name}")

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall())

    def backends(self, extra: str = "true") -> list[int]:
        """Return the ids of the connections of this test's database objects."""
        sql = f"SELECT id FROM information_schema.processlist WHERE db = %s AND ({extra})"
        return [number for (number,) in self.query(sql, self.name)]

    def sleeping(self) -> list[int]:
        """Return those of them that run a sleep now."""
        return self.backends("command = 'Query' AND info LIKE '%%sleep(%%'")

    def info(self) -> Any:
        """Return what libpq calls host, port, user and dbname."""
        where = {name: self._parameters[name] for name in ("host", "port", "user")}
        return SimpleNamespace(**where, dbname=self.name)

    def connect_params(self) -> dict[str, Any]:
        return dict(self._parameters)

    def kill(self, number: int) -> None:
        try:
            self.query(f"KILL {number}")
        except self._error as error:
            if error.args[0] != NO_SUCH_THREAD:
                raise

    def empty(self) -> None:
        """End the connections that a test has left, and leave nothing of it in the database."""
        end_all(self)
        if self.query(HAS_MYSQL, self.name, self.name, self.name):
            self.query(f"DROP DATABASE {self.name}")
            self.query(f"CREATE DATABASE {self.name}")

    def close(self) -> None:
        end_all(self)
        self.query(f"DROP DATABASE {self.name}")
        self._connection.close()


# Run a command until its own standard input is closed, by the kernel if nobody else did it.
UNTIL_CLOSED = '"$@" & read -r _; kill $!; wait'


@contextlib.contextmanager
def run_mariadb() -> Iterator[dict[str, Any]]:
    """Run a server from the system's packages that keeps nothing; give how to reach it as anybody."""
    if shutil.which("mariadbd") is None:
        pytest.skip("no mariadbd is installed; its package is mariadb-server")
    with tempfile.TemporaryDirectory(prefix="async_peewee-") as folder, contextlib.ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = (
            "mariadbd --no-defaults --skip-grant-tables --skip-networking=0 --bind-address=127.0.0.1 "
            f"--port={port} --socket={folder}/socket --datadir={folder} --user={getpass.getuser()} "
            "--skip-innodb --default-storage-engine=MyISAM"
        )
        process = subprocess.Popen(
            ["sh", "-c", UNTIL_CLOSED, "sh", *command.split()],
            stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        stack.callback(process.communicate)
        end = time.monotonic() + 20
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            assert time.monotonic() < end, "mariadbd does not start"
            time.sleep(0.02)
        yield {"host": "127.0.0.1", "port": port, "user": "root", "password": ""}


# What may be in a database, besides what belongs to a table.
HAS_MYSQL = """
    SELECT 1 FROM information_schema.tables WHERE table_schema = %s
    UNION ALL SELECT 1 FROM information_schema.routines WHERE routine_schema = %s
    UNION ALL SELECT 1 FROM information_schema.events WHERE event_schema = %s
    LIMIT 1
"""


def end_all(server: Server | MySQLServer, seconds: float = 10.0) -> None:
    """End the connections of a test's database objects: the next test must not count them."""
    end = time.monotonic() + seconds
    while left := server.backends():
        for number in left:
            server.kill(number)
        if time.monotonic() > end:
            pytest.fail(f"connections that do not end: {left}")
        time.sleep(0.01)


class Maker:
    """Make database objects on one database of the kind that the test is run for."""

    def __init__(self, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.kind = kind
        self.path = tmp_path / "test.db"
        self.server: Server | MySQLServer | None = None
        self.family = ALL[kind].family
        pytest.importorskip(ALL[kind].module)
        if self.family == "mysql":
            self.server = request.getfixturevalue("mysql_server")
        elif self.family == "postgresql":
            self.server = request.getfixturevalue("server")

    def __call__(self, own: Any = None, /, **settings: Any) -> Any:
        """Return an asynchronous database, of a class of the test's own if it gives one."""
        database_class, options = own or class_of(self.kind), {**ALL[self.kind].options, **settings}
        if self.server is None:
            return database_class(self.path if self.kind == "sqlite" else str(self.path), **options)
        target = self.server.name if isinstance(self.server, MySQLServer) else self.server.url
        return database_class(target, **{**self.server.connect_params(), **options})

    def plain(self) -> Any:
        """Return Peewee's own synchronous database on the same data."""
        if self.server is None:
            return peewee.SqliteDatabase(self.path)
        if isinstance(self.server, MySQLServer):
            return peewee.MySQLDatabase(self.server.name, **self.server.connect_params())
        return peewee.PostgresqlDatabase(self.server.url, **self.server.connect_params())


def base_of(database: Any) -> Any:
    """Return a base class of models on a database."""

    class Base(AsyncModel):
        class Meta:
            pass

    Base._meta.database = database
    return Base


class Models:
    """Two related models on one database, with their tables."""

    def __init__(self, database: AsyncDatabase) -> None:
        Base = base_of(database)

        class User(Base):
            name = peewee.TextField(unique=True)
            age = peewee.IntegerField(default=0)

            class Meta:
                table_name = "users"

        class Tweet(Base):
            user = peewee.ForeignKeyField(User, backref="tweets")
            text = peewee.TextField()

            class Meta:
                table_name = "tweets"

        self.database = database
        self.User: Any = User
        self.Tweet: Any = Tweet
        self.all = [User, Tweet]


def worker_threads() -> list[str]:
    """Return the names of the threads that serve a database now."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if re.search(r" worker \d+$", name)]


# Set to run the soaks at full length: minutes instead of seconds.
SOAK = bool(os.environ.get("ASYNC_PEEWEE_TEST_SOAK"))

# A query that SQLite needs seconds for: it counts as far as it is told to.
COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT count(*) FROM n"


def slow_sql(kind: str, seconds: float) -> str:
    """Return a statement that runs for about so many seconds on a database of that kind."""
    family = ALL[kind].family
    if family == "sqlite":
        return COUNT.format(int(seconds * 4_000_000))
    return f"SELECT sleep({seconds})" if family == "mysql" else f"SELECT pg_sleep({seconds})"


async def wait_until(condition: Any, seconds: float = 5.0) -> None:
    """Wait for something that another thread or the server does."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.005)


# For tests of what one library alone has: on both of asyncio's loops, or on trio only.
on_asyncio = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
    indirect=True,
)
on_trio = pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True)


async def in_thread(function: Any, *args: Any) -> Any:
    """Call a function on a thread that has neither an event loop nor a worker; it is none of ours."""
    return await anyio.to_thread.run_sync(function, *args)


def queries_of(database: Any) -> list[str]:
    """Return the list into which the SQL of each statement of a database will be put."""
    statements: list[str] = []
    database.query_hooks.append(lambda event: statements.append(event.sql))
    return statements


# For tests of what is the same on every loop, and worth seeing on both libraries: SQL, mostly.
on_each_library = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("trio", {})],
    ids=["asyncio", "trio"],
    indirect=True,
)


def on_databases(*kinds: str) -> pytest.MarkDecorator:
    """Run a test on databases of these kinds only, for what the others do not have."""
    return pytest.mark.parametrize("make_database", kinds, indirect=True)
