"""connect(url): which class, which arguments, and no password in any message."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import peewee
import pytest

import async_peewee
from async_peewee import AsyncMySQLDatabase, AsyncPostgresqlDatabase, ConfigurationError, connect
from async_peewee._drivers.tls import explain_missing_file
from async_peewee._orm.urls import SCHEMES
from tests.kinds import ALL, IMPORTABLE
from tests.support import MySQLServer, Server


async def test_settings_of_the_pool_stand_in_the_query_string(tmp_path: Path) -> None:
    """Beside arguments of the driver; keyword arguments go before both."""
    url = f"sqlite:///{tmp_path}/app.db?pool_size=4&acquire_timeout=2.5&timeout=7"
    database: Any = connect(url, pool_size=3)
    assert type(database) is async_peewee.AsyncSqliteDatabase
    assert database.database == f"{tmp_path}/app.db"
    assert database.connections.pools.settings.pool_size == 3
    assert database.connections.pools.settings.acquire_timeout == 2.5
    assert database._timeout == 7
    async with database:
        assert (await database.execute_sql("SELECT 1")).fetchone() == (1,)
    assert connect("sqlite:///:memory:").backend.is_memory


@pytest.mark.parametrize(
    "scheme", [s for s in SCHEMES if s not in ("sqlite", "apsw", "cysqlite", "sqlcipher")]
)
def test_a_server_is_named_with_user_password_host_and_port(scheme: str) -> None:
    """User and password are percent-decoded."""
    database: Any = connect(f"{scheme}://us%40er:p%2Fw%3A@example.org:1234/shop?pool_size=2")
    given = database.connect_params
    assert database.database == "shop"
    assert (given["user"], given["host"], given["port"]) == ("us@er", "example.org", 1234)
    assert given.get("password", given.get("passwd")) == "p/w:"
    assert database.connections.pools.settings.pool_size == 2
    assert "p/w:" not in repr(database)


@pytest.mark.parametrize("kind", [k for k in ("apsw", "cysqlite", "sqlcipher") if k in IMPORTABLE])
async def test_a_file_of_another_driver(kind: str, tmp_path: Path) -> None:
    """The passphrase stays the text that it is in the URL."""
    secret = "?passphrase=0123" if kind == "sqlcipher" else ""
    async with connect(f"{kind}:///{tmp_path}/app.db{secret}") as database:
        assert type(database).__name__ == ALL[kind].database
        await database.execute_sql("CREATE TABLE t (x)")
        assert await database.get_tables() == ["t"]
    if kind == "sqlcipher":
        assert database.connect_params["passphrase"] == "0123"


async def test_a_real_server_is_reached(server: Server) -> None:
    """Through psycopg2 and psycopg, by the parts of a URL."""
    info = server.info()
    for scheme in ("postgresql", "psycopg3"):
        url = f"{scheme}://{info.user}@/{info.dbname}?pool_size=1"
        async with connect(url, host=info.host, **server.connect_params()) as database:
            assert (await database.execute_sql("SELECT current_database()")).fetchone() == (info.dbname,)


HOSTS = {
    "postgresql://u:p@a:6001,b:6002/shop?target_session_attrs=read-write": ("a,b", "6001,6002"),
    "psycopg3://a,b:6002,[::1]/shop": ("a,b,::1", ",6002,"),
    "postgres://a,b/shop": ("a,b", None),
    "postgresql://u@[::1]:6001/shop": ("::1", 6001),
    "postgresql://u@[fe80::1%25eth0]/shop": ("fe80::1%eth0", None),
    "postgresql://u@%2FVar%2Frun:6001/shop": ("/Var/run", 6001),
    "cockroachdb://u@a:26257,b:26257/shop": ("a,b", "26257,26257"),
}


@pytest.mark.parametrize("url", HOSTS)
def test_hosts_are_read_as_libpq_reads_them(url: str) -> None:
    """Several of them, sockets, IPv6; names keep their case, the query string what libpq adds."""
    database: Any = connect(url)
    given = database.connect_params
    assert (given["host"], given.get("port")) == HOSTS[url]
    assert (database.database, given.get("user"), given.get("password")) == (
        "shop",
        "u" if "u@" in url or "u:" in url else None,
        "p" if ":p@" in url else None,
    )
    if "?" in url:
        assert given["target_session_attrs"] == "read-write"


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysqlconnector", "mariadbconnector"])
def test_a_socket_of_mysql(scheme: str) -> None:
    """Its drivers take the file under a name of its own."""
    given: Any = connect(f"{scheme}://u@%2Frun%2Fmysqld.sock/shop").connect_params
    assert given["unix_socket"] == "/run/mysqld.sock"
    assert "host" not in given


async def test_names_are_percent_decoded(tmp_path: Path) -> None:
    """Of files and of a server's databases; a % that encodes nothing stays."""
    async with connect(f"sqlite:///{tmp_path}/my%20app%23.db") as database:
        await database.execute_sql("CREATE TABLE t (x)")
    assert (tmp_path / "my app#.db").exists()
    assert connect("sqlite:///50%off.db").database == "50%off.db"
    assert connect("postgresql://host/my%20shop").database == "my shop"


@pytest.mark.parametrize("scheme", ["postgresql", "psycopg3"])
@pytest.mark.parametrize("is_name", [False, True])
async def test_the_first_server_that_answers_is_taken(server: Server, scheme: str, is_name: bool) -> None:
    """Nothing listens at the first of two; as a URL for connect() and as the name of a database."""
    unused = socket.create_server(("127.0.0.1", 0))
    hosts = f"127.0.0.1:{unused.getsockname()[1]},{located(server)}"
    unused.close()
    url = f"{scheme}://{server.info().user}@{hosts}/{server.info().dbname}?target_session_attrs=read-write"
    if is_name:
        options = {"prefer_psycopg3": scheme == "psycopg3", **server.connect_params()}
        database: Any = AsyncPostgresqlDatabase(url.replace(scheme, "postgresql"), **options)
    else:
        database = connect(url, **server.connect_params())
    async with database:
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)


def located(server: Server) -> str:
    """Return host and port of a server as a URL has them; a wheel's has only a socket."""
    return f"{quote(server.info().host, safe='')}:{server.info().port}"


TLS = {
    "postgresql://h/shop?ssl=true": r"ssl=True is not valid for AsyncPostgresqlDatabase: .*sslmode=require",
    "psycopg3://h/shop?ssl_ca=/ca.pem": "sslmode=verify-full and sslrootcert=",
    "mysql://h/shop?ssl=true": "ssl=True is not valid for AsyncMySQLDatabase: .*ssl_ca=",
    "mysql://h/shop?ssl=required": "ssl='required' is not valid",
    "mariadb://h/shop?sslmode=require": "sslmode='require' is not valid for AsyncMySQLDatabase: .*ssl_ca=",
    "mysqlconnector://h/shop?ssl=true": "MySQL Connector uses TLS where the server has it; write ssl_ca=",
    "mariadbconnector://h/shop?sslmode=require": "MariaDB Connector takes ssl=true",
}


@pytest.mark.parametrize("url", TLS)
def test_an_option_of_tls_that_another_driver_has_is_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(ConfigurationError, match=TLS[url]):
        connect(url)


def test_options_of_tls_that_a_driver_has_are_taken() -> None:
    """A dict is what PyMySQL wants as ssl, and MariaDB Connector a truth."""
    assert connect("mysql://h/shop", ssl={"ca": "/ca.pem"}).connect_params["ssl"] == {"ca": "/ca.pem"}
    assert connect("mysql://h/shop?ssl=false").connect_params["ssl"] is False
    assert connect("postgresql://h/shop", ssl=None).connect_params["ssl"] is None
    assert connect("mariadbconnector://h/shop?ssl=true").connect_params["ssl"] is True
    assert connect("postgresql://h/shop?sslmode=require").connect_params["sslmode"] == "require"


MISSING: dict[str, dict[str, Any]] = {
    "argument": {"ssl_ca": "/nowhere/ca.pem"},
    "dict": {"ssl": {"ca": "/nowhere/ca.pem"}},
}


@pytest.mark.parametrize("how", MISSING)
async def test_a_missing_ca_file_is_named(mysql_server: MySQLServer, how: str) -> None:
    """At once, where Python says "No such file or directory" of nothing."""
    pytest.importorskip("pymysql")
    options = {**mysql_server.connect_params(), **MISSING[how]}
    database = AsyncMySQLDatabase(mysql_server.name, **options)
    name = "ssl ca" if how == "dict" else "ssl_ca"
    with pytest.raises(ConfigurationError, match=f"^{name}=/nowhere/ca.pem is not valid: there is no such"):
        await database.connect()


@pytest.mark.parametrize("is_name", [False, True])
def test_a_missing_file_is_named_if_the_error_is_about_it(tmp_path: Path, is_name: bool) -> None:
    """libpq quotes its path; of a file that is not needed it says nothing, and something else has failed."""
    here, away = tmp_path / "ca.pem", tmp_path / "away.pem"
    here.touch()
    if is_name:
        database: Any = AsyncPostgresqlDatabase(f"postgresql://h/shop?sslrootcert={away}&sslcert={here}")
    else:
        database = AsyncPostgresqlDatabase("shop", sslrootcert=str(away), sslcert=str(here))
    for text in ("connection refused", f'certificate file "{here}" is wrong'):
        explain_missing_file(database, peewee.OperationalError(text))
    with pytest.raises(ConfigurationError, match=f"^sslrootcert={away} is not valid"):
        explain_missing_file(database, peewee.OperationalError(f'root certificate file "{away}" does not'))


BAD = {
    "oracle://u:tiger@host/db": "the scheme oracle",
    "tiger": "is not known",
    "postgresql+pool://u:tiger@host/db": "write postgresql://",
    "postgresql://u:ti#tiger@host/db": "special character",
    "postgresql://u:tiger@host:port-tiger/db": "port is not a number",
    "mysql://u:tiger@host": "has no name in it",
    "postgresql://u:tiger@[host/db": "is not valid",
    "postgresql://u:tiger@a:1,b:tiger/db": "port is not a number",
    "postgresql://u:tiger@::1:5432/db": "not in brackets",
    "mysql://u:tiger@a,b/db": "has several hosts in it; mysql:// takes one",
    "sqlite://tiger.db": "three or four slashes",
    "sqlite:///app.db?pool_size=0": "pool_size=0 is not valid",
    "sqlite:///app.db?max_waiting=": "max_waiting='' is set but empty",
}


@pytest.mark.parametrize("url", BAD)
def test_a_bad_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match=BAD[url].replace("(", r"\(")) as caught:
        connect(url)
    assert "tiger" not in str(caught.value)
    assert caught.value.__cause__ is None
