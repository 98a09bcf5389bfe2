"""Random programs: what they do, return and raise is what plain Peewee does, returns and raises."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from inspect import isawaitable
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import peewee
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from async_peewee import AsyncModel, AsyncSqliteDatabase

NAMES = ("Huey", "Mickey", "Zaizee")
LOOPS = {
    "asyncio": {"backend": "asyncio", "backend_options": {"use_uvloop": False}},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}


class Boom(Exception):
    """Raised by a program inside its blocks."""


ERRORS = (Boom, peewee.PeeweeException, peewee.DoesNotExist, ValueError)


class Step(NamedTuple):
    """One call of a program."""

    action: str
    name: str
    age: int


class Block(NamedTuple):
    """A block of a program: what is in it, how it ends, and whether an error stops at its border."""

    kind: str
    steps: list[Any]
    ending: str
    catches: bool


# -- the programs ---------------------------------------------------------------------

ACTIONS: dict[str, Callable[[Any, Any, Step], Any]] = {
    "create": lambda user, tweet, step: user.create(name=step.name, age=step.age),
    "tweet": lambda user, tweet, step: tweet.create(user=step.age, text=step.name),
    "insert": lambda user, tweet, step: user.insert(name=step.name, age=step.age).execute(),
    "ignore": lambda user, tweet, step: user.insert(name=step.name).on_conflict_ignore().execute(),
    "bulk": lambda user, tweet, step: user.bulk_create(
        [user(name=f"{step.name}{number}") for number in range(step.age)], batch_size=2
    ),
    "update": lambda user, tweet, step: user.update(age=step.age).where(user.name == step.name).execute(),
    "set": lambda user, tweet, step: user.set_by_id(step.age, {"name": step.name}),
    "save": lambda user, tweet, step: user(id=step.age, name=step.name).save(),
    "delete": lambda user, tweet, step: user.delete().where(user.name == step.name).execute(),
    "delete tree": lambda user, tweet, step: user(id=step.age).delete_instance(recursive=True),
    "get": lambda user, tweet, step: user.get(name=step.name),
    "get or create": lambda user, tweet, step: user.get_or_create(name=step.name, defaults={"age": step.age}),
    "or none": lambda user, tweet, step: user.get_or_none(user.age > step.age),
    "count": lambda user, tweet, step: user.select().where(user.age >= step.age).count(),
    "scalars": lambda user, tweet, step: user.select(user.name).order_by(user.name).scalars(),
    "join": lambda user, tweet, step: tweet.select(tweet, user).join(user).order_by(tweet.id).execute(),
    "backref": lambda user, tweet, step: user(id=step.age).tweets.order_by(tweet.id).execute(),
    "wrong": lambda user, tweet, step: user.raw("SELECT * FROM nothing").execute(),
}
KINDS = ("atomic", "transaction", "savepoint", "decorated")
# How a block ends: by itself, by an error, or with what it did so far made final or undone.
ENDINGS = ("end", "error", "commit", "rollback")

steps = st.builds(Step, st.sampled_from(sorted(ACTIONS)), st.sampled_from(NAMES), st.integers(0, 3))
programs = st.recursive(
    st.lists(steps, max_size=6),
    lambda inner: st.lists(
        steps | st.builds(Block, st.sampled_from(KINDS), inner, st.sampled_from(ENDINGS), st.booleans()),
        max_size=5,
    ),
    max_leaves=12,
)


# -- one interpreter for both sides ---------------------------------------------------


class Side:
    """Run a program and write down what happens; on the synchronous side nothing is ever awaited."""

    def __init__(self, database: Any, base: Any) -> None:
        class User(base):
            name = peewee.TextField(unique=True)
            age = peewee.IntegerField(default=0)

        class Tweet(base):
            user = peewee.ForeignKeyField(User, backref="tweets")
            text = peewee.TextField()

        for model in (User, Tweet):
            model._meta.set_database(database)
        self.database = database
        self.models: Any = (User, Tweet)
        self.log: list[Any] = []
        # Whether `async with` and `await` are the way to write it, where the program is now.
        self.is_async = isinstance(database, AsyncSqliteDatabase)

    async def main(self, program: list[Any]) -> None:
        await settle(self.database.create_tables(self.models))
        await self.perform(program)
        for model in self.models:
            self.log.append(list(await settle(model.select().order_by(model.id).tuples().execute())))

    async def perform(self, program: list[Any]) -> None:
        for item in program:
            try:
                await (self.enter(item) if isinstance(item, Block) else self.call(item))
            except ERRORS as error:
                self.log.append(described(error))
                if isinstance(item, Block) and not item.catches:
                    raise
            self.log.append(self.database.transaction_depth())

    async def call(self, step: Step) -> None:
        self.log.append(plainly(await settle(ACTIONS[step.action](*self.models, step))))

    async def enter(self, block: Block) -> None:
        if block.kind == "decorated":
            await settle(self.decorated(block)())
            return
        # Outside of a transaction a savepoint that is rolled back stays open in SQLite, for Peewee
        # has then made two of the same name.
        kind = block.kind if self.database.in_transaction() else block.kind.replace("savepoint", "atomic")
        async with Either(getattr(self.database, kind)(), self.is_async) as transaction:
            await self.perform(block.steps)
            if block.ending == "error":
                raise Boom(kind)
            if block.ending != "end":
                await settle(getattr(transaction, block.ending)())
                await self.call(Step("ignore", "after", 0))

    def decorated(self, block: Block) -> Callable[[], Any]:
        """Return the block as a function that is decorated, and synchronous on both sides."""

        @self.database.atomic()
        def work() -> None:
            is_async, self.is_async = self.is_async, False
            try:
                drive(self.perform(block.steps))
            finally:
                self.is_async = is_async
            if block.ending == "error":
                raise Boom("decorated")

        return work


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


async def settle(value: Any) -> Any:
    return await value if isawaitable(value) and not isinstance(value, peewee.BaseQuery) else value


def drive(coroutine: Awaitable[None]) -> None:
    """Run a coroutine that never waits for anything."""
    with pytest.raises(StopIteration):
        coroutine.send(None)  # type: ignore[attr-defined]


def plainly(result: Any) -> Any:
    """Return what can be compared: the data of rows, with the rows that came with them."""
    if isinstance(result, peewee.Model):
        related = {name: plainly(row) for name, row in result.__rel__.items()}
        return type(result).__name__, result.__data__, related, sorted(result._dirty)
    if isinstance(result, (list, tuple, peewee.CursorWrapper)):
        return [plainly(item) for item in result]
    return list(result) if hasattr(result, "__next__") else result


@contextmanager
def two_databases() -> Iterator[tuple[AsyncSqliteDatabase, peewee.SqliteDatabase]]:
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / name for name in ("ours.db", "theirs.db")]
        pragmas = {"journal_mode": "wal", "synchronous": "off"}
        plain = peewee.SqliteDatabase(paths[1], pragmas=pragmas)
        with plain.connection_context():
            yield AsyncSqliteDatabase(paths[0], pool_size=2, pragmas=pragmas), plain


@pytest.mark.parametrize("loop", LOOPS)
def test_a_program_does_what_it_does_in_plain_peewee(loop: str) -> None:
    """Results, errors, depths and rows are those of synchronous Peewee, in any nesting of blocks."""

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs)
    def compare(program: list[Any]) -> None:
        with two_databases() as (database, plain):
            ours, theirs = Side(database, AsyncModel), Side(plain, peewee.Model)
            ended = [outcome(lambda: drive(theirs.main(program)))]

            async def main() -> None:
                async with database:
                    await ours.main(program)
                    assert database.stats().pinned == 0

            ended.append(outcome(lambda: anyio.run(main, **LOOPS[loop])))  # type: ignore[arg-type]
            assert ours.log == theirs.log
            assert ended[1] == ended[0]

    compare()


def outcome(run: Callable[[], None]) -> Any:
    try:
        run()
    except ERRORS as error:
        return described(error)
    return None


def described(error: Exception) -> tuple[str, str]:
    """Return the class and the message of an error, without the random names of savepoints."""
    return type(error).__name__, re.sub(r"\bs[0-9a-f]{32}\b", "savepoint", str(error))
