"""Behind pgbouncer, in session and in transaction mode, all is as it is on a direct connection."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncTable
from tests.bank import Bank
from tests.servers.conftest import SOON, watched_over
from tests.servers.pgbouncer import Bouncer, Pooled, bouncing
from tests.servers.tls import NAME, Certificates
from tests.support import Models, Server, in_thread, on_each_library, wait_until

pytestmark = [pytest.mark.servers, on_each_library]

ROWS = 3000


@pytest.fixture
async def db(pooled: Pooled) -> AsyncIterator[Any]:
    """Return a database behind pgbouncer with default settings, for `models`."""
    async with pooled() as database:
        yield database


async def rows_in(models: Models) -> None:
    names = f"SELECT 'u' || n, n FROM generate_series(1, {ROWS}) n"
    await models.database.execute_sql(f"INSERT INTO users (name, age) {names}")


def committed(pooled: Pooled, sql: str) -> Any:
    """Return what another connection, which goes past pgbouncer, sees now."""
    return pooled.server.query(sql)[0][0]


@contextlib.asynccontextmanager
async def others_at_work(database: Any) -> Any:
    """Have other tasks use and give back connections all the time, so that pgbouncer changes them about."""

    async def work() -> None:
        while True:
            async with database.atomic():
                await database.execute_sql("SELECT pg_sleep(0.002)")

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(work)
        yield
        group.cancel_scope.cancel()


async def test_calls_and_blocks(models: Models, pooled: Pooled) -> None:
    """Forty tasks on ten workers and six connections; what is rolled back is gone, the rest is there."""
    User, database = models.User, models.database
    committed_names: list[str] = []

    async def client(number: int) -> None:
        async with database.atomic() as transaction:
            user = await User.create(name=f"n{number}")
            with contextlib.suppress(ValueError):
                async with database.atomic():
                    await User.create(name=f"gone{number}")
                    raise ValueError
            database.after_commit(partial(committed_names.append, user.name))
            if number % 4 == 0:
                await transaction.rollback()
        assert await User.select().where(User.name == f"n{number}").count() == (number % 4 != 0)

    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(client, number)
    expected = sorted(f"n{number}" for number in range(40) if number % 4)
    assert sorted(user.name for user in await User.select()) == sorted(committed_names) == expected
    assert await database.run(lambda: User.select().count()) == 30


@pytest.mark.parametrize("block", [False, True], ids=["outside", "inside"])
async def test_a_cancelled_statement_stops_and_its_connection_is_kept(
    models: Models, pooled: Pooled, block: bool
) -> None:
    database = models.database
    clients = {row["port"] for row in pooled.bouncer.clients()}
    for _ in range(3):
        with anyio.move_on_after(30) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(_sleep, database, block)
                await wait_until(pooled.server.sleeping)
                began = time.monotonic()
                group.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert time.monotonic() - began < SOON
        await wait_until(lambda: not pooled.server.sleeping())
    assert await models.User.select().count() == 0
    assert {row["port"] for row in pooled.bouncer.clients()} == clients


async def _sleep(database: Any, block: bool) -> None:
    async with database.atomic() if block else contextlib.nullcontext():
        await database.execute_sql("SELECT pg_sleep(60)")


async def test_a_cancellation_hits_nobody_else(models: Models) -> None:
    """Sixty statements are cancelled at any moment, others run beside them on the same connections."""
    database = models.database

    async def victim(number: int) -> None:
        with anyio.move_on_after(0.001 * (number % 7)):
            await database.execute_sql("SELECT pg_sleep(0.004)")

    async def other(number: int) -> None:
        row = (await database.execute_sql(f"SELECT {number}, pg_sleep(0.002)")).fetchone()
        assert row[0] == number

    async with anyio.create_task_group() as group:
        for number in range(60):
            group.start_soon(victim, number)
            group.start_soon(other, number)


async def test_a_stream_outside_a_block(models: Models, pooled: Pooled) -> None:
    """It reads every row once, while pgbouncer gives connections to others and back."""
    await rows_in(models)
    async with others_at_work(models.database):
        ages = [user.age async for user in models.User.select().order_by(models.User.age).iterator()]
    assert ages == list(range(1, ROWS + 1))


async def test_a_stream_that_ends_early_leaves_no_transaction(models: Models, pooled: Pooled) -> None:
    """By `break`, an error, a cancellation, and with an error of the database after some rows."""
    await rows_in(models)
    User = models.User

    async def read(stop: Callable[[], Any], query: Any = None) -> None:
        async with (User.select() if query is None else query).iterator() as users:
            async for _ in users:
                stop()

    def fail() -> None:
        raise ValueError("the user's own")

    async for _ in User.select().iterator():
        break
    with pytest.raises(ValueError, match="own"):
        await read(fail)
    with anyio.CancelScope() as scope:
        await read(scope.cancel)
    with pytest.raises(peewee.DataError):
        await read(lambda: None, User.select(User.name, peewee.SQL("1 / (age - 2000)")))
    await wait_until(lambda: pooled.server.backends("state LIKE 'idle in%%'") == [])
    assert models.database.stats().leased == 0
    assert await User.select().count() == ROWS


async def test_what_a_stream_has_written_stays(models: Models, pooled: Pooled) -> None:
    """A function that it selects may write; outside a block that is committed, as on a direct connection."""
    await rows_in(models)
    await models.database.execute_sql(
        "CREATE FUNCTION note(integer) RETURNS integer LANGUAGE sql VOLATILE AS $$ "
        "INSERT INTO tweets (user_id, text) SELECT id, 'seen' FROM users WHERE age = $1 RETURNING user_id $$"
    )
    query = models.User.select(peewee.fn.note(models.User.age)).where(models.User.age <= 200)
    assert len([row async for row in query.tuples().iterator()]) == 200
    assert committed(pooled, "SELECT count(*) FROM tweets") == 200


async def test_a_stream_inside_a_block(models: Models) -> None:
    """Other statements of the block run between its rows; a second stream and locked rows too."""
    await rows_in(models)
    User = models.User
    async with others_at_work(models.database), models.database.atomic():
        count = 0
        async for user in User.select().order_by(User.age).for_update().iterator():
            count += 1
            if user.age % 500 == 0:
                await User.update(age=-user.age).where(User.id == user.id)
                inner = User.select().where(User.age < 0)
                assert len([row async for row in inner.iterator()]) == user.age // 500
    assert count == ROWS
    assert await User.select().where(User.age < 0).count() == ROWS // 500


@pytest.mark.parametrize("pool_size", [1, 10])
async def test_what_is_written_between_the_rows_of_a_stream_is_committed(
    pooled: Pooled, pool_size: int
) -> None:
    """On one worker alone, and in a `connection_context()`: it is in no transaction of the stream's."""
    models = Models(pooled(pool_size=pool_size))
    User, database = models.User, models.database
    async with database:
        await database.create_tables(models.all)
        await rows_in(models)
        async with contextlib.nullcontext() if pool_size == 1 else database.connection_context():
            count = 0
            async for user in User.select().order_by(User.age).iterator():
                count += 1
                if user.age % 1000 == 0:
                    await User.update(age=-user.age).where(User.id == user.id)
                    assert committed(pooled, "SELECT min(age) FROM users") == -user.age
            assert count == ROWS


async def test_a_statement_run_often_is_not_prepared_twice(pooled: Pooled) -> None:
    """psycopg prepares what it has run five times; here on connections that many clients share."""
    models = Models(pooled(pool_size=8))
    User = models.User
    async with models.database:
        await models.database.create_tables(models.all)

        async def client(number: int) -> None:
            for turn in range(15):
                assert await User.select().where(User.age == number).count() == turn
                await User.create(name=f"{number} {turn}", age=number)

        async with others_at_work(models.database), anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(client, number)


async def test_a_threshold_that_was_asked_for_is_kept(pooled: Pooled) -> None:
    """Newer poolers know of prepared statements."""
    if pooled.driver == "psycopg3":
        async with pooled(prepare_threshold=7) as database:
            assert await database.run(lambda: database.connection().prepare_threshold) == 7


async def test_a_reset_brings_back_what_was_asked_for_at_connect(pooled: Pooled) -> None:
    """DISCARD ALL by itself brings back what pgbouncer had asked for when it connected."""
    database = pooled(pool_size=1, encoding="latin1")
    show = "SELECT current_setting('application_name'), current_setting('client_encoding'), 'é'"
    expected = (pooled.server.name, "LATIN1", "é")
    async with database:
        before = pooled.bouncer.clients()
        for _ in range(3):
            assert (await database.execute_sql(show)).fetchone() == expected
            await database.execute_sql("SET TIME ZONE 'Asia/Kolkata'")
            assert (await database.execute_sql("SHOW TIME ZONE")).fetchone() != ("Asia/Kolkata",)
        assert [row["port"] for row in pooled.bouncer.clients()] == [row["port"] for row in before]


async def test_nothing_of_ours_is_set_on_a_shared_connection(pooled: Pooled) -> None:
    """The server's connection goes on to serve others, which did not ask for it."""
    interval = "SELECT current_setting('client_connection_check_interval')"
    async with pooled(pool_size=1) as database:
        assert await database.run(lambda: database.execute_sql(interval).fetchone()) == ("0",)


# -- under load ---------------------------------------------------------------------------


class Load:
    """Tasks that write rows, and what became of each: acknowledged, failed, or unknown."""

    def __init__(self, database: Any) -> None:
        self.bank = Bank(database)
        self.acknowledged: list[str] = []
        self.failed: dict[str, str] = {}
        self.is_over = False

    async def client(self, number: int) -> None:
        count = 0
        while not self.is_over:
            count += 1
            key = f"{number} {count}"
            try:
                if count % 2:
                    await self.bank.Transfer.create(key=key, amount=1)
                else:
                    async with self.bank.database.atomic():
                        await self.bank.Transfer.create(key=key, amount=1)
                self.acknowledged.append(key)
            except peewee.PeeweeException as error:
                self.failed[key] = str(error)
                await anyio.sleep(0.01)

    async def more(self, number: int = 200) -> None:
        enough = len(self.acknowledged) + number
        await wait_until(lambda: len(self.acknowledged) > enough, seconds=20)

    async def check(self) -> None:
        """What was acknowledged is there; what is there was acknowledged, or its error calls it unknown."""
        keys = {row.key for row in await self.bank.Transfer.select()}
        assert set(self.acknowledged) <= keys
        for key in keys - set(self.acknowledged):
            assert "unknown" in self.failed[key]


async def under_load(pooled: Pooled, disturb: Callable[[Load], Any]) -> Load:
    """Have sixteen tasks write, on a pool of six, while something is done to pgbouncer."""
    load = Load(pooled(pool_size=6))
    async with load.bank.database:
        await load.bank.open()
        async with anyio.create_task_group() as group:
            for number in range(16):
                group.start_soon(load.client, number)
            await load.more()
            await disturb(load)
            await load.more()
            load.is_over = True
        await load.check()
    return load


async def test_a_restart_under_load(pooled: Pooled) -> None:
    """Nothing is lost or doubled, and no more calls fail than were under way."""

    async def restart(load: Load) -> None:
        await in_thread(pooled.bouncer.restart)

    load = await under_load(pooled, restart)
    assert len(load.failed) <= 6


async def test_a_pause_under_load(pooled: Pooled) -> None:
    """While the administrator has pgbouncer paused, calls wait; none fails."""

    async def pause(load: Load) -> None:
        if pooled.bouncer.mode == "session":
            # PAUSE waits there until every client has left.
            await in_thread(pooled.bouncer.admin, "RECONNECT")
            return
        await in_thread(pooled.bouncer.admin, "PAUSE")
        before = len(load.acknowledged)
        await anyio.sleep(0.3)
        assert len(load.acknowledged) <= before + 6
        await in_thread(pooled.bouncer.admin, "RESUME")

    load = await under_load(pooled, pause)
    assert load.failed == {}


async def test_killed_by_the_administrator_under_load(pooled: Pooled) -> None:
    """KILL drops every client and server connection at once; RESUME lets them in again."""

    async def kill(load: Load) -> None:
        await in_thread(pooled.bouncer.admin, f"KILL {pooled.bouncer.dbname}")
        await in_thread(pooled.bouncer.admin, f"RESUME {pooled.bouncer.dbname}")

    load = await under_load(pooled, kill)
    assert len(load.failed) <= 6


@pytest.fixture(scope="module")
def narrow_bouncer(pooled_server: Server) -> Iterator[Bouncer]:
    """Return a pgbouncer that lets three clients in, its own console aside."""
    with bouncing(pooled_server, "transaction", max_client_conn="3") as bouncer:
        yield bouncer


@pytest.fixture
def narrow(narrow_bouncer: Bouncer, pooled_driver: str) -> Iterator[Pooled]:
    yield from watched_over(Pooled(narrow_bouncer, pooled_driver))


async def test_more_workers_than_clients_are_let_in(narrow: Pooled) -> None:
    """`no more connections allowed` costs no call, for workers that have connected serve all."""
    done = 0
    database = narrow(pool_size=10)

    async def client() -> None:
        nonlocal done
        await database.execute_sql("SELECT pg_sleep(0.02)")
        done += 1

    async with database, anyio.create_task_group() as group:
        for _ in range(60):
            group.start_soon(client)
    assert done == 60


@pytest.fixture(scope="module")
def encrypted_bouncer(pooled_server: Server, certificates: Certificates) -> Iterator[Bouncer]:
    """Return a pgbouncer that speaks TLS, and lets in who shows a certificate."""
    files = {"ca_file": "ca.crt", "cert_file": "server.crt", "key_file": "server.key"}
    texts = {name: (Path(certificates.ca).parent / name).read_text() for name in files.values()}
    given = {f"client_tls_{name}": value for name, value in files.items()}
    with bouncing(pooled_server, "transaction", texts, client_tls_sslmode="verify-full", **given) as bouncer:
        yield bouncer


@pytest.fixture
def encrypted_pooled(encrypted_bouncer: Bouncer, pooled_driver: str) -> Iterator[Pooled]:
    yield from watched_over(Pooled(encrypted_bouncer, pooled_driver))


async def test_over_tls_to_the_pooler(encrypted_pooled: Pooled, certificates: Certificates) -> None:
    """A cancel request finds its way there too, whether libpq encrypts it (17 and later) or not."""
    files = {"sslrootcert": certificates.ca, "sslcert": certificates.cert, "sslkey": certificates.key}
    async with encrypted_pooled(host=NAME, sslmode="verify-full", **files) as database:
        assert await database.run(lambda: database.execute_sql("SELECT 1").fetchone()) == (1,)
        assert {row["tls"] for row in encrypted_pooled.bouncer.clients()} != {""}
        async with anyio.create_task_group() as group:
            group.start_soon(_sleep, database, False)
            await wait_until(encrypted_pooled.server.sleeping)
            began = time.monotonic()
            group.cancel_scope.cancel()
        assert time.monotonic() - began < SOON
        await wait_until(lambda: not encrypted_pooled.server.sleeping())


async def test_a_table_without_a_model(pooled: Pooled) -> None:
    """Streams and prepared statements do not depend on models."""
    async with pooled() as database:
        await database.execute_sql(f"CREATE TABLE n AS SELECT generate_series(1, {ROWS}) AS i")
        table = AsyncTable("n", ("i",)).bind(database)
        rows = [row["i"] async for row in table.select(table.i).order_by(table.i).iterator()]
    assert rows == list(range(1, ROWS + 1))
