"""pgbouncer, and servers that speak TLS, each started once for all tests that want it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kinds import ALL
from tests.servers.pgbouncer import Bouncer, Pooled, bouncing
from tests.servers.tls import (
    Certificates,
    Encrypted,
    encrypted_mysql,
    encrypted_postgresql,
    make_certificates,
)
from tests.support import MySQLServer, Server

DRIVERS = ["psycopg2", "psycopg3"]

# Far less than the grace period after which a connection would be cut, in seconds. An idle machine
# needs some milliseconds.
SOON = 4.0


@pytest.fixture(scope="session")
def pooled_server(postgresql_server: Server) -> Iterator[Server]:
    """Return a database of these tests' own on the server: a pooler does not pass a search path on."""
    import psycopg2

    name = f"{postgresql_server.name}_pooled"
    postgresql_server.query(f"CREATE DATABASE {name}")
    dsn = psycopg2.extensions.make_dsn(postgresql_server.url, dbname=name)
    with contextlib.closing(Server(dsn)) as server:
        yield server
    postgresql_server.query(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def session_bouncer(pooled_server: Server) -> Iterator[Bouncer]:
    with bouncing(pooled_server, "session") as bouncer:
        yield bouncer


@pytest.fixture(scope="session")
def transaction_bouncer(pooled_server: Server) -> Iterator[Bouncer]:
    with bouncing(pooled_server, "transaction") as bouncer:
        yield bouncer


@pytest.fixture(params=["session", "transaction"])
def bouncer(request: pytest.FixtureRequest) -> Bouncer:
    """Return a pgbouncer in each mode."""
    found: Bouncer = request.getfixturevalue(f"{request.param}_bouncer")
    return found


@pytest.fixture(params=DRIVERS)
def pooled_driver(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("psycopg" if request.param == "psycopg3" else "psycopg2")
    return str(request.param)


@pytest.fixture
def pooled(bouncer: Bouncer, pooled_driver: str) -> Iterator[Pooled]:
    """Return what makes databases behind it; after the test nothing of theirs may be left there."""
    yield from watched_over(Pooled(bouncer, pooled_driver))


def watched_over(pooled: Pooled) -> Iterator[Pooled]:
    """Give what makes databases, and see that no connection is left, and none in a transaction."""
    yield pooled
    try:
        eventually("clients left behind", pooled.bouncer.clients)
        eventually("servers at work", pooled.bouncer.servers_at_work)
        eventually("transactions left open", lambda: pooled.server.backends("state <> 'idle'"))
    finally:
        pooled.empty()


def eventually(complaint: str, left: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while remains := left():
        if time.monotonic() > end:
            pytest.fail(f"{complaint}: {remains}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def encrypted_postgresql_server(certificates: Certificates) -> Iterator[Server]:
    with encrypted_postgresql(Path(certificates.ca).parent) as server:
        yield server


@pytest.fixture(scope="session")
def encrypted_mysql_server(certificates: Certificates) -> Iterator[MySQLServer]:
    with encrypted_mysql(Path(certificates.ca).parent) as server:
        yield server


@pytest.fixture(params=[*DRIVERS, "pymysql"])
def encrypted(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Encrypted]:
    """Return what makes databases that connect by TLS, with each driver."""
    pytest.importorskip(ALL[request.param].module)
    family = ALL[request.param].family
    server = request.getfixturevalue(f"encrypted_{family}_server")
    yield Encrypted(request.param, server, certificates)
    eventually("connections left behind", server.backends)
    server.empty()
