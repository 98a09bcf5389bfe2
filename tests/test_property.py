"""Random programs: what they do, return and raise is what plain Peewee does, returns and raises.

How many for each database says ASYNC_PEEWEE_TEST_PROGRAMS; by default 10, and hundreds
in the soak.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import peewee
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from async_peewee import AsyncModel, AsyncMySQLDatabase, AsyncPostgresqlDatabase, AsyncSqliteDatabase
from tests.conftest import KINDS
from tests.programs import Block, Side, Step, actions_of, programs_for
from tests.support import SOAK, MySQLServer, Server

LOOPS = {
    "asyncio": {"backend": "asyncio", "backend_options": {"use_uvloop": False}},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
HAD = sorted(loop for loop in LOOPS if find_spec(loop))
PROGRAMS = int(os.environ.get("ASYNC_PEEWEE_TEST_PROGRAMS", "10"))


class Boom(Exception):
    """Raised by a program inside its blocks."""


# -- one interpreter for both sides -----------------------------------------------------------


class Interpreter(Side):
    """Run a program and write down what happens, in the same words for both sides."""

    def __init__(self, database: Any, base: Any, is_async: bool, kind: str) -> None:
        super().__init__(database, base, is_async)
        self.actions = actions_of(kind)
        # How many blocks are open that are transactions, or savepoints inside one.
        self.nesting = 0

    async def main(self, program: list[Any]) -> None:
        for name, friend in (("first", None), ("Huey", 1), ("third", 2)):
            await self.clean_up(self.User.create(name=name, age=friend or 0, friend=friend))
            await self.clean_up(self.Group.create(name=name))
            await self.clean_up(
                self.Tweet.create(text="Mickey" if friend is None else "Zaizee", user=friend or 1)
            )
        try:
            await self.perform(program)
        finally:
            for model in self.models:
                rows = await self.clean_up(model.select().order_by(model.id).tuples().execute())
                self.log.append(list(rows))

    async def perform(self, program: list[Any]) -> None:
        for item in program:
            try:
                await (self.enter(item) if isinstance(item, Block) else self.call(item))
            except Exception as error:
                self.log.append(described(error))
                if isinstance(item, Block) and not item.catches:
                    raise
            self.log.append((self.database.transaction_depth(), self.database.in_transaction()))

    async def call(self, step: Step) -> None:
        result = await self.clean_up(self.actions[step.action](self, step))
        if isinstance(result, (self.User, self.Tweet)):
            self.kept = result
        self.log.append((step.action, plainly(result)))

    async def enter(self, block: Block) -> None:
        kind = block.kind
        if kind in ("savepoint", "session") and not self.database.in_transaction():
            # Outside of a transaction a savepoint that is rolled back stays open in SQLite, for
            # Peewee has then made two of the same name; a session is a block on the loop.
            kind = "atomic"
        elif kind in ("transaction", "session") and self.nesting > 1:
            # These commit the whole transaction, and the savepoints around them are gone. Then
            # the error of the lost savepoint takes the place of the program's own in Peewee.
            kind = "atomic"
        elif kind == "savepoint" and isinstance(self.database.top_transaction(), peewee._manual):
            # A block before it may have committed the transaction, and MySQL then forgets the
            # savepoint at once: the error of it would, again, take the place of the program's own.
            kind = "connection"
        self.nesting += kind not in ("connection", "run")
        try:
            await getattr(self, kind)(block)
        finally:
            self.nesting -= kind not in ("connection", "run")

    # -- blocks ---------------------------------------------------------------------------

    async def atomic(self, block: Block) -> None:
        await self.inside(self.database.atomic(), block)

    async def transaction(self, block: Block) -> None:
        await self.inside(self.database.transaction(), block)

    async def savepoint(self, block: Block) -> None:
        await self.inside(self.database.savepoint(), block)

    async def inside(self, context: Any, block: Block) -> None:
        async with Either(context, self.is_async) as transaction:
            await self.body(block)
            if block.ending in ("commit", "rollback"):
                await self.clean_up(getattr(transaction, block.ending)())
                await self.call(Step("ignore", "after", 0))

    async def connection(self, block: Block) -> None:
        async with Either(self.database.connection_context(), self.is_async):
            await self.body(block)

    async def manual(self, block: Block) -> None:
        async with Either(self.database.manual_commit(), self.is_async):
            await self.clean_up(self.database.begin())
            await self.finish(block, self.database.commit, self.database.rollback)

    async def session(self, block: Block) -> None:
        await self.clean_up(self.database.session_start())
        await self.finish(block, self.database.session_commit, self.database.session_rollback)

    async def finish(self, block: Block, commit: Callable[[], Any], rollback: Callable[[], Any]) -> None:
        try:
            await self.body(block)
        except BaseException:
            await self.clean_up(rollback())
            raise
        await self.clean_up(rollback() if block.ending == "rollback" else commit())

    async def body(self, block: Block) -> None:
        await self.perform(block.steps)
        if block.ending == "error":
            raise Boom(block.kind)

    async def decorated(self, block: Block) -> None:
        await self.clean_up(self.database.atomic()(self.synchronously)(block))

    async def decorated_async(self, block: Block) -> None:
        if self.is_async:
            await self.database.atomic()(self.body)(block)
        else:
            self.database.atomic()(self.synchronously)(block)

    async def run(self, block: Block) -> None:
        if self.is_async:
            await self.database.run(self.synchronously, block)
        else:
            self.synchronously(block)

    def synchronously(self, block: Block) -> None:
        """Do what is in a block with plain calls, on both sides: on ours it is a worker that does."""
        is_async, self.is_async = self.is_async, False
        try:
            drive(self.body(block))
        finally:
            self.is_async = is_async


class Either:
    """Either kind of block as an asynchronous one."""

    def __init__(self, block: Any, is_async: bool) -> None:
        self.block = block
        self.is_async = is_async

    async def __aenter__(self) -> Any:
        return await self.block.__aenter__() if self.is_async else self.block.__enter__()

    async def __aexit__(self, *error: Any) -> None:
        if self.is_async:
            await self.block.__aexit__(*error)
        else:
            self.block.__exit__(*error)


def drive(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never waits for anything."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("something was awaited on the synchronous side")


def plainly(result: Any) -> Any:
    """Return what can be compared: the data of rows, with the rows that came with them."""
    if isinstance(result, peewee.Model):
        related = {name: plainly(row) for name, row in result.__rel__.items()}
        return type(result).__name__, result.__data__, related, sorted(result._dirty)
    if isinstance(result, (list, tuple, peewee.CursorWrapper)):
        return [plainly(item) for item in result]
    return list(result) if hasattr(result, "__next__") else result


def described(error: Exception) -> tuple[str, str]:
    """Return the class and the message of an error, without the random names in it."""
    return type(error).__name__, re.sub(r"\b(s[0-9a-f]{32}|t[0-9a-f]{12})\b", "name", str(error))


# -- two databases of a kind ------------------------------------------------------------------


class Pair:
    """An asynchronous database and a synchronous one beside it, emptied for each program."""

    def __init__(self, kind: str, request: pytest.FixtureRequest) -> None:
        self.kind = kind
        self.servers: list[Any] = []
        if kind == "pymysql":
            self.servers = [MySQLServer(request.getfixturevalue("mysql_parameters")) for _ in range(2)]
        elif kind != "sqlite":
            pytest.importorskip("psycopg" if kind == "psycopg3" else "psycopg2")
            self.servers = [Server(request.getfixturevalue("postgresql_url")) for _ in range(2)]

    @contextmanager
    def databases(self) -> Iterator[tuple[Any, Any]]:
        with tempfile.TemporaryDirectory() as directory:
            ours, theirs = self.make(Path(directory))
            with theirs.connection_context():
                self.empty(theirs)
                with ours.connection_context():
                    self.empty(ours)
                yield ours, theirs

    def make(self, directory: Path) -> tuple[Any, Any]:
        if self.kind == "sqlite":
            pragmas = {"journal_mode": "wal", "synchronous": "off", "foreign_keys": 1}
            ours = AsyncSqliteDatabase(directory / "ours.db", pool_size=2, pragmas=pragmas)
            return ours, peewee.SqliteDatabase(directory / "theirs.db", pragmas=pragmas)
        first, second = self.servers
        if self.kind == "pymysql":
            return (
                AsyncMySQLDatabase(first.name, pool_size=2, **first.connect_params()),
                peewee.MySQLDatabase(second.name, **second.connect_params()),
            )
        options = {"prefer_psycopg3": self.kind == "psycopg3"}
        return (
            AsyncPostgresqlDatabase(first.url, pool_size=2, **options, **first.connect_params()),
            peewee.PostgresqlDatabase(second.url, **options, **second.connect_params()),
        )

    def empty(self, database: Any) -> None:
        """Leave the tables as they were made: no rows, and keys from 1 on."""
        models = Side(database, peewee.Model, is_async=False).models
        if not database.table_exists("users"):
            database.create_tables(models)
            return
        # In single steps: TRUNCATE makes new files, which takes longer than most programs.
        is_mysql = self.kind == "pymysql"
        if is_mysql:
            database.execute_sql("SET foreign_key_checks = 0")
        for name in (model._meta.table_name for model in reversed(models)):
            database.execute_sql(f"DELETE FROM {name}")
            again = f"TABLE {name} AUTO_INCREMENT = 1" if is_mysql else f"SEQUENCE {name}_id_seq RESTART"
            database.execute_sql(f"ALTER {again}")
        if is_mysql:
            database.execute_sql("SET foreign_key_checks = 1")

    def close(self) -> None:
        for server in self.servers:
            server.close()


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param, request)
    yield made
    made.close()


# -- the comparison ---------------------------------------------------------------------------


def compare(pair: Pair, program: list[Any], loop: str) -> None:
    """Run a program on both sides, and hold their logs side by side."""
    with pair.databases() as (database, plain):
        ours = Interpreter(database, AsyncModel, True, pair.kind)
        theirs = Interpreter(plain, peewee.Model, False, pair.kind)
        ended = [outcome(lambda: drive(theirs.main(program)))]

        async def main() -> None:
            async with database:
                await ours.main(program)
                assert database.stats().leased == 0

        ended.append(outcome(lambda: anyio.run(main, **LOOPS[loop])))  # type: ignore[arg-type]
        assert ours.log == theirs.log
        assert ended[1] == ended[0]


def outcome(run: Callable[[], None]) -> Any:
    try:
        run()
    except Exception as error:
        return described(error)
    return None


def compare_many(pair: Pair, count: int) -> None:
    options: Any = {
        "max_examples": count,
        "deadline": None,
        "derandomize": True,
        "database": None,
        "suppress_health_check": list(HealthCheck),
    }

    @settings(**options)
    @given(programs_for(pair.kind), st.sampled_from(HAD))
    def check(program: list[Any], loop: str) -> None:
        compare(pair, program, loop)

    check()


@pytest.mark.parametrize("pair", KINDS, indirect=True)
def test_a_program_does_what_it_does_in_plain_peewee(pair: Pair) -> None:
    """Results, errors, depths and rows are those of synchronous Peewee, in any nesting of blocks."""
    compare_many(pair, PROGRAMS)


@pytest.mark.soak
@pytest.mark.parametrize("pair", KINDS, indirect=True)
def test_hundreds_of_programs_do(pair: Pair) -> None:
    """The same with a hundred programs for each database, in a soak with five hundred."""
    compare_many(pair, max(500 if SOAK else 100, PROGRAMS))
