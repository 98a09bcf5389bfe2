"""A server that says nothing any more, and refuses nothing: every way out of whatever is open ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncPostgresqlDatabase
from async_peewee._drivers import base, connecting
from async_peewee._pool import deadlines
from tests.kinds import ALL, class_of
from tests.proxy import Proxy, proxied
from tests.support import Maker, base_of, on_asyncio, on_databases, wait_until

on_servers = on_databases("psycopg2", "psycopg3", "pymysql")
on_postgresql = on_databases("psycopg2", "psycopg3")

# What is promised with the grace period that users have, in seconds.
LONGEST = 12.0

# How long the tests let something be without an answer, in seconds. An interrupt's own
# connection may last for two more.
SHORT_GRACE = 0.5


@pytest.fixture
def proxy(make_database: Maker) -> Iterator[Proxy]:
    """Return a proxy in front of the server."""
    assert make_database.server is not None
    with proxied(make_database.server) as proxy:
        # What would wait for ever is answered in the end, and fails the test by its bound.
        answer = threading.Timer(30, proxy.speak)
        answer.start()
        yield proxy
        answer.cancel()


class Darkness:
    """What several tasks do, each on a database of its own, before and after the server falls silent."""

    def __init__(self, make: Maker, proxy: Proxy, ways: dict[str, Way]) -> None:
        self.make = make
        self.proxy = proxy
        self._ways = ways
        self._inside = 0
        self._is_dark = anyio.Event()
        # How long each has been in the dark, in seconds, and how it came out.
        self.seconds: dict[str, float] = {}
        self.outcomes: dict[str, str] = {}
        self.databases: list[Any] = []
        self._since = 0.0

    def database(self, **settings: Any) -> Any:
        """Return a database that connects through the proxy."""
        options = {**ALL[self.make.kind].options, "pool_size": 2, "connect_timeout": 2, "acquire_timeout": 3}
        where = self.proxy.connect_params(self.make.server)  # type: ignore[arg-type]
        database = class_of(self.make.kind)(self.proxy.database, **{**options, **where, **settings})
        self.databases.append(database)
        return database

    async def falls(self) -> None:
        """Wait until all are where they want to be, and it is dark."""
        self._inside += 1
        if self._inside == len(self._ways):
            self.proxy.fall_silent()
            self._since = time.monotonic()
            self._is_dark.set()
        with anyio.fail_after(20):  # else one that fails before would keep all others
            await self._is_dark.wait()

    async def go(self) -> None:
        """Take all ways, and let there be light."""
        async with anyio.create_task_group() as group:
            for name, way in self._ways.items():
                group.start_soon(self._take, name, way)
        self.proxy.speak()

    async def _take(self, name: str, way: Way) -> None:
        database = self.database()
        rows = base_of(database)
        try:
            await way(self, database, type("Row", (rows,), {"__module__": __name__}))
            self.outcomes[name] = "left"
        except Exception as error:
            self.outcomes[name] = f"{type(error).__name__}: {error}"
        self.seconds[name] = time.monotonic() - self._since


Way = Callable[[Darkness, Any, Any], Awaitable[None]]


async def error_in_a_block(dark: Darkness, db: Any, Row: Any) -> None:
    async with db.atomic():
        await db.execute_sql("SELECT 1")
        await dark.falls()
        raise KeyError("the user's own")


async def cancelled_block(dark: Darkness, db: Any, Row: Any) -> None:
    with anyio.CancelScope() as scope:
        async with db.atomic():
            await db.execute_sql("SELECT 1")
            await dark.falls()
            scope.cancel()
            await anyio.sleep(60)


async def error_in_a_savepoint(dark: Darkness, db: Any, Row: Any) -> None:
    async with db.atomic(), db.atomic():
        await db.execute_sql("SELECT 1")
        await dark.falls()
        raise KeyError("the user's own")


async def end_of_a_savepoint(dark: Darkness, db: Any, Row: Any) -> None:
    async with db.atomic(), db.atomic():
        await db.execute_sql("SELECT 1")
        await dark.falls()


async def explicit_rollback(dark: Darkness, db: Any, Row: Any) -> None:
    async with db.atomic() as transaction:
        await db.execute_sql("SELECT 1")
        await dark.falls()
        await transaction.rollback()


async def function_with_a_block(dark: Darkness, db: Any, Row: Any) -> None:
    inside, is_dark = threading.Event(), threading.Event()

    def function() -> None:
        with db.atomic():
            db.execute_sql("SELECT 1")
            inside.set()
            is_dark.wait()
            raise KeyError("the user's own")

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, inside.wait)
        group.start_soon(_tell, dark, inside, is_dark)
        try:
            await db.run(function)
        except KeyError as error:
            own = error
    raise own


async def _tell(dark: Darkness, inside: threading.Event, is_dark: threading.Event) -> None:
    await wait_until(inside.is_set)
    await dark.falls()
    is_dark.set()


async def changed_session(dark: Darkness, db: Any, Row: Any) -> None:
    async with db.connection_context():
        await db.execute_sql(
            "SET @kit = 1" if dark.make.family == "mysql" else "SET application_name = 'kit'"
        )
        await dark.falls()


async def stream(dark: Darkness, db: Any, Row: Any) -> None:
    async with _many(dark, Row).iterator() as rows:
        await rows.__anext__()
        await dark.falls()


async def stream_in_a_block(dark: Darkness, db: Any, Row: Any) -> None:
    async with db.atomic():
        async with _many(dark, Row).iterator() as rows:
            await rows.__anext__()
            await dark.falls()
        raise KeyError("the user's own")


async def dropped_stream(dark: Darkness, db: Any, Row: Any) -> None:
    async for _ in _many(dark, Row).iterator():
        await dark.falls()
        break
    await wait_until(lambda: db.stats().leased == 0, LONGEST)


def _many(dark: Darkness, Row: Any) -> Any:
    sequence = "seq_1_to_20000" if dark.make.family == "mysql" else "generate_series(1, 20000)"
    return Row.raw(f"SELECT * FROM {sequence} AS numbers").tuples()


async def close(dark: Darkness, db: Any, Row: Any) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_hold, dark, db)
        await dark._is_dark.wait()
        await db.close(0.1)
        group.cancel_scope.cancel()


async def _hold(dark: Darkness, db: Any) -> None:
    async with db.atomic():
        await db.execute_sql("SELECT 1")
        await dark.falls()
        await anyio.sleep(60)


async def idle_connection(dark: Darkness, db: Any, Row: Any) -> None:
    await db.execute_sql("SELECT 1")
    db.connections.pools.get()._scheduler.idle[0].connection._used_at = -base.ASK_AFTER
    await dark.falls()
    await db.execute_sql("SELECT 1")


async def old_connection(dark: Darkness, db: Any, Row: Any) -> None:
    await db.execute_sql("SELECT 1")
    db.connections.pools.get()._scheduler.idle[0].connection._replace_at = 0.0
    await dark.falls()
    with anyio.move_on_after(0.1):
        await db.execute_sql("SELECT 1")


async def cancelled_statement(dark: Darkness, db: Any, Row: Any) -> None:
    await db.execute_sql("SELECT 1")
    await dark.falls()
    with anyio.move_on_after(0.1):
        await db.execute_sql("SELECT 1")


OWN_ERROR = 'KeyError: "the user\'s own"'
WAYS: dict[Way, str] = {
    error_in_a_block: OWN_ERROR,
    cancelled_block: "left",
    error_in_a_savepoint: OWN_ERROR,
    end_of_a_savepoint: "rolls the transaction back, and nothing of it is committed",
    explicit_rollback: "Error: ",  # the BEGIN that follows it, in the driver's own words
    function_with_a_block: OWN_ERROR,
    changed_session: "left",
    stream: "left",
    stream_in_a_block: OWN_ERROR,
    dropped_stream: "left",
    close: "left",
    idle_connection: "OperationalError",
    old_connection: "left",
    cancelled_statement: "left",
}


async def take_all_ways(make: Maker, proxy: Proxy, longest: float) -> Darkness:
    """Take every way out in one dark period, and use each database afterwards."""
    dark = Darkness(make, proxy, {way.__name__: way for way in WAYS})
    await dark.go()
    assert {name: s for name, s in dark.seconds.items() if s > longest} == {}
    for way, outcome in WAYS.items():
        assert outcome in dark.outcomes[way.__name__], way.__name__
    for database in dark.databases:
        if database.is_closed():
            await database.connect()
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
        stats = database.stats()
        assert (stats.busy, stats.leased, stats.waiting) == (0, 0, 0)
    for database in dark.databases:
        # Not by its close(): the tests' own look at the server knows of one database only.
        await database.connections.pools.get().close(1)
    return dark


# The soak has the grace period that users have.
@pytest.mark.parametrize("grace", [SHORT_GRACE, pytest.param(deadlines.GRACE, marks=pytest.mark.soak)])
@on_servers
async def test_every_way_out_ends(
    make_database: Maker,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    grace: float,
) -> None:
    """Blocks, savepoints, streams, resets, pings, `close()`; with the user's own error, and a log line."""
    monkeypatch.setattr(deadlines, "GRACE", grace)
    with caplog.at_level(logging.WARNING, "async_peewee"):
        dark = await take_all_ways(make_database, proxy, LONGEST)
    assert f"ROLLBACK had no answer for {grace:g} s" in caplog.text
    print({name: round(seconds, 1) for name, seconds in dark.seconds.items()})


@on_postgresql
async def test_a_block_on_a_stopped_server_is_left(
    make_database: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel goes on to take what is sent: no timeout of the network ends the wait."""
    monkeypatch.setattr(deadlines, "GRACE", SHORT_GRACE)
    server: Any = make_database.server
    async with make_database(pool_size=1) as database:
        start = time.monotonic()
        with pytest.raises(KeyError):
            async with database.atomic():
                await database.execute_sql("SELECT 1")
                (pid,) = server.backends()
                go_on = threading.Timer(20, os.kill, (pid, signal.SIGCONT))
                go_on.start()
                os.kill(pid, signal.SIGSTOP)
                raise KeyError("the user's own")
        assert time.monotonic() - start < LONGEST
        os.kill(pid, signal.SIGCONT)
        go_on.cancel()
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)


@on_postgresql
async def test_a_connection_whose_set_up_has_no_answer_is_given_up(
    make_database: Maker, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler, which lets clients in while the server is away. close() ends as well."""
    monkeypatch.setattr(deadlines, "GRACE", SHORT_GRACE)
    proxy.is_mute = True
    proxy.replies.clear()
    dark = Darkness(make_database, proxy, {})
    users = dark.database(acquire_timeout=1)

    def initialize(connection: Any) -> None:
        connection.cursor().execute("SELECT 1")

    monkeypatch.setattr(users, "_initialize_connection", initialize)
    for database in (users, dark.database(acquire_timeout=1)):
        start = time.monotonic()
        await _ignored(database)
        async with anyio.create_task_group() as group:
            group.start_soon(_ignored, database)
            await wait_until(lambda: database.stats().workers == 1)  # noqa: B023
            pool = database.connections.pools.get()
            await pool.close(0)  # nor is it asked before whether it is well
        assert time.monotonic() - start < LONGEST
    proxy.is_mute = False
    proxy.speak()


async def _ignored(database: Any) -> None:
    with pytest.raises(peewee.PeeweeException):
        await database.execute_sql("SELECT 1")


# -- COMMIT ---------------------------------------------------------------------------------


async def commit_in_the_dark(dark: Darkness, database: Any) -> None:
    """Enter a block and leave it by a COMMIT that the server never sees."""
    async with database.atomic():
        await database.execute_sql("SELECT 1")
        dark.proxy.fall_silent()


@on_servers
async def test_close_cuts_a_commit_after_its_timeout(
    make_database: Maker, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before: the block's task hears that the outcome is unknown, and close() returns."""
    monkeypatch.setattr(deadlines, "GRACE", SHORT_GRACE)
    dark = Darkness(make_database, proxy, {})
    database = dark.database()

    async def block() -> None:
        with pytest.raises(peewee.OperationalError, match="COMMIT.*committed is unknown"):
            await commit_in_the_dark(dark, database)

    async with anyio.create_task_group() as group:
        group.start_soon(block)
        await wait_until(lambda: not proxy.replies.is_set())
        await anyio.sleep(2 * SHORT_GRACE)
        assert database.stats().busy == 1
        start = time.monotonic()
        await database.close(0.1)
    assert time.monotonic() - start < LONGEST
    proxy.speak()


@on_asyncio
@on_servers
def test_the_end_of_the_loop_cuts_a_commit(
    make_database: Maker, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, anyio_backend: Any
) -> None:
    """The task is cancelled by asyncio.run(), and hears that the outcome is unknown all the same."""
    monkeypatch.setattr(deadlines, "GRACE", SHORT_GRACE)
    heard: list[BaseException] = []

    async def main() -> None:
        dark = Darkness(make_database, proxy, {})

        async def block() -> None:
            try:
                await commit_in_the_dark(dark, dark.database())
            except BaseException as error:
                heard.append(error)

        main.task = asyncio.create_task(block())  # type: ignore[attr-defined]
        await wait_until(lambda: not proxy.replies.is_set())

    start = time.monotonic()
    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    assert time.monotonic() - start < LONGEST
    proxy.speak()
    (error,) = heard
    assert isinstance(error, peewee.OperationalError)
    assert "committed is unknown" in str(error)


CTRL_C = """
import signal, sys, anyio, async_peewee
from async_peewee._pool import deadlines
from tests.kinds import ALL, class_of
kind, backend, where, grace, name = sys.argv[1:6]
options = dict(pair.split("=", 1) for pair in sys.argv[6:])
options["port"] = int(options["port"])
deadlines.GRACE = float(grace)
db = class_of(kind)(name, **ALL[kind].options, **options)

async def block():
    try:
        async with db.atomic():
            await db.execute_sql("SELECT 1")
            print("ready", flush=True)
            sys.stdin.readline()
    except BaseException as error:
        print(error, error.__cause__, flush=True)
        raise

async def main():
    if where == "main task":
        await block()
    async with anyio.create_task_group() as group:
        group.start_soon(block)

try:
    options = {} if backend == "trio" else {"use_uvloop": backend == "uvloop"}
    anyio.run(main, backend=backend.replace("uvloop", "asyncio"), backend_options=options)
except BaseException as error:
    print("ended by", type(error).__name__)
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


@pytest.mark.parametrize(
    ("where", "grace"),
    [
        ("main task", SHORT_GRACE),
        ("child task", SHORT_GRACE),
        pytest.param("child task", deadlines.GRACE, marks=pytest.mark.soak),
    ],
)
@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
@on_servers
def test_the_second_ctrl_c_ends_a_program_in_commit(
    make_database: Maker, proxy: Proxy, backend: str, where: str, grace: float
) -> None:
    """Within 15 seconds; it says that the outcome is unknown, and puts the handler of the signal back."""
    pytest.importorskip(backend)
    seconds = end_by_ctrl_c(make_database, proxy, backend, where, grace)
    print(f"{seconds:.1f} s after the second Ctrl-C")
    assert seconds < 15


def end_by_ctrl_c(make: Maker, proxy: Proxy, backend: str, where: str, grace: float) -> float:
    """Run the program into the dark and press Ctrl-C twice; return how long it then goes on, in seconds."""
    options = [f"{name}={value}" for name, value in proxy.connect_params(make.server).items()]  # type: ignore[arg-type]
    arguments = [make.kind, backend, where, str(grace), proxy.database, *options]
    command = [sys.executable, "-c", textwrap.dedent(CTRL_C), *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "ready\n"
            proxy.fall_silent()
            process.stdin.write("\n")
            process.stdin.flush()
            time.sleep(1)  # COMMIT is under way, and known to be slow
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert process.poll() is None or sys.version_info < (3, 11), "the first one has ended it"
            process.send_signal(signal.SIGINT)
            start = time.monotonic()
            output, _ = process.communicate(timeout=30)
        except BaseException:
            process.kill()
            raise
    proxy.speak()
    assert process.returncode == 0, output
    assert "committed is unknown" in output
    assert "ended by" in output
    return time.monotonic() - start


# -- a peer that vanishes -------------------------------------------------------------------


def options_of(descriptor: int) -> list[int]:
    """Return how a socket looks after its peer: idle, interval, count, and how long unanswered."""
    names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        assert copy.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        return [copy.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]


@pytest.mark.skipif(sys.platform != "linux", reason="the options differ from system to system")
@on_servers
async def test_a_vanished_peer_is_noticed_by_default(make_database: Maker, proxy: Proxy) -> None:
    """By the kernel, which asks the peer's: a statement may take as long as it takes."""
    async with Darkness(make_database, proxy, {}).database() as database:
        await database.execute_sql("SELECT 1")
        (worker,) = database.connections.pools.get()._scheduler.workers
        assert options_of(worker.connection.fileno()) == [30, 10, 3, 60_000]


def test_what_the_user_has_set_about_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an argument, in the URL or the DSN, in a service file."""

    def given(target: str, **arguments: Any) -> dict[str, Any]:
        return AsyncPostgresqlDatabase(target, connect_timeout=2, **arguments).connect_params

    ours = {
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
    }
    assert given("name") == {"connect_timeout": 2, **ours}
    assert given("name", keepalives_idle=7)["keepalives_idle"] == 7
    assert "tcp_user_timeout" not in given("postgresql://h/name?tcp_user_timeout=0")
    assert "keepalives_count" not in given("name", dsn="host=h keepalives_count=9")
    assert given("name", service="own") == {"connect_timeout": 2, "service": "own"}
    monkeypatch.setenv("PGSERVICE", "own")
    assert given("name") == {"connect_timeout": 2}


@pytest.mark.skipif(sys.platform != "linux", reason="the options differ from system to system")
def test_an_open_socket_keeps_what_is_shorter_already() -> None:
    """MySQL's drivers have no parameters for it: the user sets it on the socket, or for the whole system."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as own:
        own.connect(listener.getsockname())
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7)
        connecting.keep_alive(own.fileno())
        assert options_of(own.fileno()) == [7, 10, 3, 60_000]
    one, other = socket.socketpair()
    with one, other:
        connecting.keep_alive(one.fileno())  # a Unix socket has nothing of the kind
