"""run_transaction() and its retries, on PostgreSQL's serialization failures."""

from __future__ import annotations

from typing import Any

import anyio
import peewee
import pytest
from playhouse.cockroachdb import ExceededMaxAttempts

from async_peewee import AsyncCockroachDatabase
from tests.kinds import IMPORTABLE
from tests.support import Maker, Models, Server

RESTART = "ROLLBACK TO SAVEPOINT cockroach_restart"


class Restarting(AsyncCockroachDatabase):  # type: ignore[misc, valid-type, unused-ignore]
    """What CockroachDB does and PostgreSQL does not.

    Its transactions are serializable, and going back to cockroach_restart begins the
    transaction anew. PostgreSQL would keep the snapshot that the retry is to get rid of.
    """

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        if sql == "SAVEPOINT cockroach_restart":
            super().execute_sql("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        elif sql == RESTART:
            super().execute_sql("ROLLBACK")
            super().execute_sql("BEGIN")
            self.execute_sql("SAVEPOINT cockroach_restart")
            return None
        return super().execute_sql(sql, params)


@pytest.fixture(params=[kind for kind in ("cockroach2", "cockroach3") if kind in IMPORTABLE])
async def models(request: pytest.FixtureRequest, server: Server) -> Any:
    database = Restarting(
        server.url, prefer_psycopg3=request.param == "cockroach3", pool_size=3, **server.connect_params()
    )
    made = Models(database)
    await database.create_tables(made.all)
    await made.User.create(name="a", age=0)
    yield made
    await database.close()


def add_ten(models: Models, read: Any, changed: Any, attempts: list[int]) -> Any:
    """Return a transaction that reads, and on its first attempt waits for another to write the row."""
    User = models.User

    def transaction(db: Any) -> int:
        assert db is models.database
        age = User.get(name="a").age
        attempts.append(age)
        if len(attempts) == 1:
            anyio.from_thread.run_sync(read.set)
            anyio.from_thread.run(changed.wait)
        User.update(age=age + 10).where(User.name == "a").execute()
        return int(age + 10)

    return transaction


async def test_a_serialization_failure_is_tried_again(models: Models) -> None:
    """The function runs twice, the second time on what the other transaction has written."""
    read, changed = anyio.Event(), anyio.Event()
    attempts: list[int] = []
    results: list[int] = []
    database, User = models.database, models.User

    async def run() -> None:
        results.append(await database.run_transaction(add_ten(models, read, changed, attempts)))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await read.wait()
        async with database.atomic():
            await User.update(age=User.age + 1).execute()
        changed.set()
    assert attempts == [0, 1]
    assert results == [11]
    assert (await User.get(name="a")).age == 11
    assert database.stats().busy == database.stats().leased == 0


async def test_after_so_many_attempts_it_gives_up(models: Models) -> None:
    """With playhouse's error, everything rolled back and the connection fit for the next call."""
    database, User = models.database, models.User
    attempts: list[int] = []

    def transaction(db: Any) -> None:
        attempts.append(User.get(name="a").age)
        User.update(age=99).execute()
        db.execute_sql("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40001'; END $$")

    with pytest.raises(ExceededMaxAttempts):
        await database.run_transaction(transaction, max_attempts=3)
    assert attempts == [0, 0, 0]
    assert (await User.get(name="a")).age == 0


async def test_another_error_is_not_tried_again(models: Models) -> None:
    database, User = models.database, models.User
    attempts: list[str] = []

    def transaction(db: Any) -> None:
        attempts.append("once")
        User.create(name="b")
        User.create(name="a")

    with pytest.raises(peewee.IntegrityError):
        await database.run_transaction(transaction)
    assert attempts == ["once"]
    assert await User.select().count() == 1


async def test_the_decorator_makes_a_call_to_await(models: Models) -> None:
    """retry_transaction() on a plain function; a coroutine function is refused by both."""
    database, User = models.database, models.User

    @database.retry_transaction(max_attempts=2, priority=None)
    def rename(db: Any) -> str:
        User.update(name="b").execute()
        return "renamed"

    assert await rename() == "renamed"
    assert (await User.get()).name == "b"

    async def coroutine(db: Any) -> None: ...

    with pytest.raises(TypeError, match="run_transaction.* is for plain functions"):
        await database.run_transaction(coroutine)
    with pytest.raises(TypeError, match="retry_transaction.* is for plain functions"):
        database.retry_transaction()(coroutine)


@pytest.mark.parametrize("make_any", ["cockroach2"], indirect=True)
async def test_a_cancelled_transaction_is_rolled_back(make_any: Maker) -> None:
    """The statement in it is interrupted by PostgreSQL's cancel request, which CockroachDB takes too."""
    async with make_any(pool_size=1) as database:
        models = Models(database)
        await database.create_tables(models.all)

        backends = make_any.server.backends()  # type: ignore[union-attr]

        def transaction(db: Any) -> None:
            models.User.create(name="lost")
            db.execute_sql("SELECT pg_sleep(30)")

        with anyio.move_on_after(0.3) as scope:
            await database.run_transaction(transaction)
        assert scope.cancelled_caught
        assert await models.User.select().count() == 0
        assert make_any.server.backends() == backends  # type: ignore[union-attr]
