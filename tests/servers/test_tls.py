"""Over TLS all is as it is in the clear, and what cannot be verified is refused at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import connect
from tests.servers.conftest import SOON
from tests.servers.tls import OTHER_NAME, Encrypted
from tests.support import Models, on_each_library, slow_sql, wait_until

pytestmark = [pytest.mark.servers, on_each_library]

ROWS = 3000

# How long a refusal may take, where connecting would be tried again for 30 seconds.
AT_ONCE = 10.0


@pytest.fixture
async def db(encrypted: Encrypted) -> AsyncIterator[Any]:
    """Return a database over TLS with default settings, for `models`."""
    async with encrypted() as database:
        yield database


async def test_calls_and_blocks(models: Models, encrypted: Encrypted) -> None:
    """Each connection is encrypted; what is rolled back is gone, the rest is there."""
    Tweet, database = models.Tweet, models.database
    user = await models.User.create(name="huey")
    cipher = "SELECT cipher, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    if encrypted.driver == "pymysql":
        cipher = "SHOW STATUS LIKE 'Ssl_cipher'"

    async def client(number: int) -> None:
        with contextlib.suppress(ValueError):
            async with database.atomic():
                await Tweet.create(user=user, text=f"n{number}")
                assert all((await database.execute_sql(cipher)).fetchone())
                if number % 4 == 0:
                    raise ValueError

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(client, number)
    texts = {tweet.text for tweet in await Tweet.select()}
    assert texts == {f"n{number}" for number in range(20) if number % 4}


@pytest.mark.parametrize("block", [False, True], ids=["outside", "inside"])
async def test_a_cancelled_statement_stops_and_its_connection_is_kept(
    models: Models, encrypted: Encrypted, block: bool
) -> None:
    database, server = models.database, encrypted.server
    before = set(server.backends())

    async def sleep() -> None:
        async with database.atomic() if block else contextlib.nullcontext():
            await database.execute_sql(slow_sql(encrypted.driver, 60))

    for _ in range(3):
        async with anyio.create_task_group() as group:
            group.start_soon(sleep)
            await wait_until(server.sleeping)
            began = time.monotonic()
            group.cancel_scope.cancel()
        assert time.monotonic() - began < SOON
        # MariaDB lists a statement for a moment longer.
        await wait_until(lambda: not server.sleeping())
        assert await models.User.select().count() == 0
    assert set(server.backends()) == before


async def test_a_cancellation_hits_nobody_else(models: Models, encrypted: Encrypted) -> None:
    """Forty statements are cancelled at any moment, others run beside them on the same connections."""
    database = models.database
    sql = slow_sql(encrypted.driver, 0.004)

    async def victim(number: int) -> None:
        with anyio.move_on_after(0.001 * (number % 7)):
            await database.execute_sql(sql)

    async def other(number: int) -> None:
        row = (await database.execute_sql(f"SELECT {number}, ({sql})")).fetchone()
        assert row[0] == number

    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(victim, number)
            group.start_soon(other, number)


async def test_streams(models: Models) -> None:
    """Whole outside and inside a block, and left early."""
    User = models.User
    await User.insert_many([{"name": f"u{number}", "age": number} for number in range(ROWS)])
    query = User.select().order_by(User.age)
    assert [user.age async for user in query.iterator()] == list(range(ROWS))
    async with models.database.atomic():
        assert [user.age async for user in query.iterator()] == list(range(ROWS))
    async for _ in query.iterator():
        break
    assert await User.select().count() == ROWS


async def test_an_idle_connection_over_tls_costs_no_round_trip(models: Models, encrypted: Encrypted) -> None:
    """The tickets that a server sends on its own make a socket readable, and say nothing."""
    connection_class = type(models.database.backend.make_connection())
    asked = 0

    def answers(connection: Any) -> bool:
        nonlocal asked
        asked += 1
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection_class, "answers", answers)
        for _ in range(50):
            await models.User.select().count()
    assert asked <= 1


async def test_a_url_says_the_same(encrypted: Encrypted) -> None:
    async with connect(encrypted.url()) as database:
        assert (await database.execute_sql("SELECT 1")).fetchone() == (1,)


WRONG = {
    "authority": {"ca": "other"},
    "name": {"host": OTHER_NAME},
    "no certificate": {"with_certificate": False},
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_cannot_be_verified_is_refused_at_once(encrypted: Encrypted, wrong: str) -> None:
    """Trying again would not help; the error says what is wrong, and the next database connects."""
    settings: dict[str, Any] = dict(WRONG[wrong])
    if "ca" in settings:
        settings["ca"] = encrypted.certificates.other_ca
    database = encrypted(**settings)
    began = time.monotonic()
    with pytest.raises(peewee.OperationalError) as caught:
        await database.execute_sql("SELECT 1")
    assert time.monotonic() - began < AT_ONCE
    words = {
        "authority": ("certificate verify failed", "CERTIFICATE_VERIFY_FAILED"),
        "name": ("does not match host name", "Hostname mismatch", "IP address mismatch"),
        "no certificate": ("certificate", "Access denied"),
    }
    assert any(part in str(caught.value) for part in words[wrong]), str(caught.value)
    await database.close()
    async with encrypted() as good:
        assert (await good.execute_sql("SELECT 1")).fetchone() == (1,)
