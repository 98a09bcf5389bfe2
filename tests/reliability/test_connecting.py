"""Connecting: to servers that say nothing, with wrong passwords, and what is set at once."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import statistics
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncMySQLDatabase, AsyncPostgresqlDatabase, aio
from async_peewee._drivers import connecting
from async_peewee._pool import deadlines
from tests.support import Maker, Models, MySQLServer, Server, wait_until

on_postgresql = pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3"], indirect=True)
on_servers = pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3", "pymysql"], indirect=True)


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """Return a port where connections are accepted and nothing is ever said."""
    kept: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                kept.append(listener.accept()[0])

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    for side in [listener, *kept]:
        side.close()


def database_at(kind: str, port: int, **options: Any) -> Any:
    options = {"host": "127.0.0.1", "port": port, "user": "somebody", **options}
    if kind == "pymysql":
        pytest.importorskip("pymysql")
        return AsyncMySQLDatabase("name", **options)
    pytest.importorskip("psycopg" if kind == "psycopg3" else "psycopg2")
    return AsyncPostgresqlDatabase("name", prefer_psycopg3=kind == "psycopg3", **options)


@pytest.mark.parametrize("kind", ["psycopg2", "psycopg3", "pymysql"])
async def test_calls_cancelled_while_a_server_says_nothing_end(
    kind: str, deaf_port: int, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three at once, each within one attempt: they do not wait for each other, and the pool closes."""
    monkeypatch.setattr(connecting, "ATTEMPT", 2)  # the shortest that libpq takes
    database = database_at(kind, deaf_port, pool_size=3)
    with anyio.fail_after(5), anyio.move_on_after(0.2) as scope:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(aio, database.run(lambda: None))
    assert scope.cancelled_caught
    await database.close()


@pytest.mark.parametrize("kind", ["psycopg2", "psycopg3", "pymysql"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # all happens on the worker's thread
async def test_a_server_that_says_nothing_is_given_up_after_acquire_timeout(
    kind: str, deaf_port: int, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is Peewee's."""
    monkeypatch.setattr(connecting, "ATTEMPT", 2)
    database = database_at(kind, deaf_port, acquire_timeout=0.1)
    with anyio.fail_after(15), pytest.raises(peewee.OperationalError, match="time"):
        await database.connect()
    assert database.is_closed()


@pytest.mark.parametrize("make_database", ["psycopg2"], indirect=True)
async def test_a_connection_that_is_lost_as_soon_as_it_is_open_is_replaced(
    make_database: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent over it yet: the call does not hear of it."""
    server: Any = make_database.server
    database = make_database(pool_size=1)
    driver_class = type(database.backend.make_connection())
    connected, killed = driver_class.connected, []

    def kill_the_first(driver: Any) -> None:
        if not killed:
            killed.extend(server.backends())
            server.kill(*killed)
        connected(driver)

    monkeypatch.setattr(driver_class, "connected", kill_the_first)
    async with database:
        assert (await database.execute_sql("SELECT 1")).fetchone() == (1,)
        assert len(killed) == 1
        assert server.backends() != killed


@on_servers
async def test_a_connection_that_is_lost_while_it_is_set_up_is_not_used(
    make_database: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peewee sets each up by itself, and keeps it when that fails: the next attempt makes another."""
    database = make_database(pool_size=1)
    seen: list[Any] = []

    def initialize(connection: Any) -> None:
        seen.append(connection)
        if len(seen) == 1:
            raise peewee.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(database, "_initialize_connection", initialize)
    async with database:
        used = await database.run(lambda: database.connection())
        first, second = seen
    assert used is second
    assert first is not second


def test_a_bound_of_the_users_own_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an argument, in the URL, or in libpq's variable."""

    def bound(target: str = "name", **options: Any) -> Any:
        return AsyncPostgresqlDatabase(target, **options).connect_params.get("connect_timeout")

    assert bound(connect_timeout=60) == 60
    assert bound("postgresql://h/name?connect_timeout=60") is None
    assert bound() == connecting.ATTEMPT
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "60")
    assert bound() is None


@pytest.mark.parametrize("make_database", ["pymysql"], indirect=True)
async def test_the_bound_on_connecting_is_none_on_statements(
    make_database: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement may take longer than an attempt to connect."""
    monkeypatch.setattr(connecting, "ATTEMPT", 1)
    async with make_database() as database:
        assert (await database.execute_sql("SELECT sleep(1.5)")).fetchone() == (0,)


@on_postgresql
async def test_a_statement_whose_connection_was_cut_ends_on_the_server(
    models: Models, make_database: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a cut nobody is left to say stop, and what it would have written is not there."""
    server: Any = make_database.server
    if int(server.query("SHOW server_version_num")[0][0]) < 140000:
        return  # it cannot notice
    monkeypatch.setattr(deadlines, "GRACE", 0.1)
    driver_class = type(models.database.backend.make_connection())
    monkeypatch.setattr(driver_class, "stop_statement", lambda driver: None)
    await models.database.execute_sql("SET a.b = '1'")  # so that the session has been reset once
    sql = "INSERT INTO users (name, age) SELECT 'late', 0 FROM pg_sleep(30)"

    async def call(scope: anyio.CancelScope) -> None:
        with scope:
            await models.database.execute_sql(sql)

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(call, scope)
        await wait_until(server.sleeping)
        (pid,) = server.sleeping()
        scope.cancel()
    await wait_until(lambda: pid not in server.backends(), seconds=15)
    assert await models.User.select().count() == 0


@on_postgresql
async def test_what_the_user_has_set_about_it_stays(make_database: Maker) -> None:
    server: Any = make_database.server
    options = f"-c search_path={server.name} -c client_connection_check_interval=7s"
    async with make_database(options=options) as database:
        for _ in range(2):  # the second time after a reset
            row = (await database.execute_sql("SHOW client_connection_check_interval")).fetchone()
            assert row == ("7s",)


@on_servers
async def test_connections_of_one_burst_do_not_end_in_one_burst(make_database: Maker) -> None:
    """Each lives nine tenths of max_lifetime at least, and how much more is chance."""
    lifetime = 1000.0
    async with make_database(pool_size=8, pool_min_size=8, max_lifetime=lifetime) as database:
        drivers = [worker.connection for worker in database.connections.pools.get()._scheduler.workers]
        lives = [driver._replace_at - driver._used_at for driver in drivers]
        assert len(lives) == 8
        assert all(0.9 * lifetime - 60 <= life <= lifetime for life in lives)
        assert statistics.pstdev(lives) > 1


@pytest.fixture
def guarded_by_password(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Return how to reach a real server, of the kind asked for, that a wrong password cannot enter."""
    if request.param == "pymysql":
        mysql: MySQLServer = request.getfixturevalue("mysql_server")
        mysql.query(f"CREATE USER '{mysql.name}'@'%%' IDENTIFIED BY 'right'")
        where = {key: mysql.connect_params()[key] for key in ("host", "port")}
        yield {"name": mysql.name, "user": mysql.name, **where}
        mysql.query(f"DROP USER '{mysql.name}'@'%%'")
        return
    server: Server = request.getfixturevalue("server")
    ((path, rules),) = server.query(
        "SELECT setting, pg_read_file(setting) FROM pg_settings WHERE name = 'hba_file'"
    )
    server.query(f"CREATE ROLE {server.name} LOGIN PASSWORD 'right'")
    write_file(
        server,
        path,
        f"local all {server.name} scram-sha-256\nhost all {server.name} all scram-sha-256\n" + rules,
    )
    info = server.info()
    yield {"name": info.dbname, "user": server.name, "host": info.host, "port": info.port}
    write_file(server, path, rules)
    server.query(f"DROP ROLE {server.name}")


def libpq_says(failed: str) -> peewee.OperationalError:
    return peewee.OperationalError(
        f'connection to server at "refused" (1.2.3.4), port 5432 failed: {failed}\n'
    )


def caused_by(error: peewee.PeeweeException, cause: BaseException) -> peewee.PeeweeException:
    error.__cause__ = cause
    return error


class DriverError(Exception):
    """An error of a driver that has an SQLSTATE."""

    def __init__(self, sqlstate: str, text: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


PASSING = {
    "starting": libpq_says("FATAL:  the database system is starting up"),
    "full": libpq_says("FATAL:  sorry, too many clients already"),
    "full pooler": libpq_says("FATAL:  no more connections allowed (max_client_conn)"),
    "one of two hosts": peewee.OperationalError(
        f"{libpq_says('SSL error: certificate verify failed')}{libpq_says('Connection refused')}"
    ),
    "no primary": libpq_says("session is read-only"),
    "no standby": libpq_says("server is not in hot standby mode"),
    "no socket": peewee.OperationalError(
        'connection to server on socket "/run/.s.PGSQL.5432" failed: No such file or directory'
    ),
    "name server away": peewee.OperationalError(
        'could not translate host name "db" to address: Temporary failure in name resolution'
    ),
    "by SQLSTATE": peewee.OperationalError(DriverError("57P03", "Das Datenbanksystem startet")),
    "MySQL full": peewee.OperationalError(1203, "translated"),
    "MySQL without its cluster": peewee.OperationalError(1047, "translated"),
    "MySQL away": caused_by(peewee.OperationalError(2003, "translated"), ConnectionRefusedError(111, "x")),
    "MySQL's name server away": caused_by(
        peewee.OperationalError(2003, "translated"), socket.gaierror(socket.EAI_AGAIN, "x")
    ),
}

STAYING = {
    "password": libpq_says('FATAL:  password authentication failed for user "timed out"'),
    "database": libpq_says('FATAL:  database "too many" does not exist'),
    "certificate": libpq_says("SSL error: certificate verify failed"),
    "host name": libpq_says('server certificate for "refused" does not match host name "starting up"'),
    "no certificate": libpq_says('could not open certificate file "/client.crt": No such file or directory'),
    "name": peewee.OperationalError(
        'could not translate host name "unreachable" to address: Name or service not known'
    ),
    "name, to psycopg": peewee.OperationalError(
        "failed to resolve host 'refused.example': [Errno -2] Name or service not known"
    ),
    "by SQLSTATE": peewee.OperationalError(DriverError("28P01", "connection refused")),
    "MySQL's password": peewee.OperationalError(1045, "Access denied for user 'timed out'@'localhost'"),
    "MySQL's certificate": caused_by(
        peewee.OperationalError(2003, "Can't connect"), ssl.SSLCertVerificationError(1, "x")
    ),
    "MySQL's host name": caused_by(
        peewee.OperationalError(2003, "Can't connect"), socket.gaierror(socket.EAI_NONAME, "x")
    ),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_tried_again(name: str) -> None:
    """A code decides where there is one; words only where there is none."""
    assert connecting.is_transient(PASSING[name])


@pytest.mark.parametrize("name", STAYING)
def test_what_stays_is_said_at_once(name: str) -> None:
    """Whatever the names of users, databases and hosts in it sound like."""
    assert not connecting.is_transient(STAYING[name])


def test_the_systems_words_are_known_in_its_own_language(monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq quotes them as the C library has them, which is in the language of the locale."""
    monkeypatch.setattr(os, "strerror", lambda number: f"Fehler {number}")
    assert connecting.is_transient(libpq_says(f"Fehler {errno.ECONNREFUSED}"))
    assert not connecting.is_transient(libpq_says(f"Fehler {errno.EACCES}"))


def write_file(server: Server, path: str, text: str) -> None:
    """Write a file on the server's machine, and have the server read its settings again."""
    ((large_object,),) = server.query("SELECT lo_from_bytea(0, convert_to(%s, 'UTF8'))", text)
    server.query("SELECT lo_export(%s, %s), lo_unlink(%s)", large_object, path, large_object)
    server.query("SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    ("guarded_by_password", "kind"),
    [("postgresql", "psycopg2"), ("postgresql", "psycopg3"), ("pymysql", "pymysql")],
    indirect=["guarded_by_password"],
)
async def test_a_wrong_password_is_refused_at_once_and_not_quoted(
    guarded_by_password: dict[str, Any], kind: str, anyio_backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Trying again cannot help; neither the error nor its causes, the repr or the log has it."""
    options = {**guarded_by_password, "password": "s3cr3t"}
    name = options.pop("name")
    caplog.set_level("DEBUG")
    if kind == "pymysql":
        database: Any = AsyncMySQLDatabase(name, **options)
    else:
        database = AsyncPostgresqlDatabase(name, prefer_psycopg3=kind == "psycopg3", **options)
    with anyio.fail_after(10), pytest.raises(peewee.OperationalError, match="password|denied") as caught:
        await database.connect()
    seen = (
        f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r} {database!r} {caplog.text}"
    )
    assert "s3cr3t" not in seen
