"""connect(url): which class, which arguments, and no password in any message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import async_peewee
from async_peewee import ConfigurationError, connect
from async_peewee._orm.urls import SCHEMES
from tests.kinds import ALL, IMPORTABLE
from tests.support import Server


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


BAD = {
    "oracle://u:tiger@host/db": "the scheme oracle",
    "tiger": "is not known",
    "postgresql+pool://u:tiger@host/db": "write postgresql://",
    "postgresql://u:ti#tiger@host/db": "special character",
    "postgresql://u:tiger@host:port-tiger/db": "port is not a number",
    "mysql://u:tiger@host": "has no name in it",
    "postgresql://u:tiger@[host/db": "is not valid",
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
