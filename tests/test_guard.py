"""The guard of the loop's thread: what would block raises and says what to write instead."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import peewee
import pytest

from async_peewee import AsyncModel, AsyncSqliteDatabase, BlockingCallError
from tests.support import Models, in_thread, on_asyncio


class Line(NamedTuple):
    """A line of synchronous code, what the error must name, and what the line gives where it may run."""

    run: Callable[[Any], Any]
    instead: str
    gives: Any = None


class School(Models):
    """Users, their tweets, and the groups they are in, with a row or two of each."""

    def __init__(self, database: AsyncSqliteDatabase) -> None:
        super().__init__(database)

        class Group(AsyncModel):
            name = peewee.TextField()
            users = peewee.ManyToManyField(self.User, backref="groups")

            class Meta:
                table_name = "groups"

        Group._meta.set_database(database)
        self.Group: Any = Group
        self.Member: Any = Group.users.get_through_model()
        self.Member._meta.set_database(database)

    def fill(self) -> None:
        self.database.create_tables([*self.all, self.Group, self.Member])  # type: ignore[attr-defined]
        for name in ("Huey", "Mickey"):
            self.User.create(name=name)
        self.Tweet.create(user=1, text="meow")
        self.Group.create(name="cats")

    @property
    def db(self) -> Any:
        return self.database

    @property
    def users(self) -> Any:
        return self.User.select().order_by(self.User.id)

    @property
    def user(self) -> Any:
        """A user, without a query."""
        return self.User(id=1, name="Huey")

    @property
    def tweet(self) -> Any:
        """A tweet whose user is not loaded, without a query."""
        return self.Tweet(id=1, user=1, text="meow")


def enter(block: Any) -> None:
    with block:
        pass


def manually(school: School) -> int:
    with school.db.manual_commit():
        school.db.begin()
        school.User.create(name="lost")
        school.db.rollback()
    return school.User.select().count()  # type: ignore[no-any-return]


def set_version(school: School) -> int:
    school.db.user_version = 7
    return school.db.user_version  # type: ignore[no-any-return]


def set_item(school: School) -> str:
    school.User[2] = {"name": "Zaizee"}
    return school.User.get_by_id(2).name  # type: ignore[no-any-return]


def delete_item(school: School) -> int:
    del school.User[2]
    return school.User.select().count()  # type: ignore[no-any-return]


def set_groups(school: School) -> list[str]:
    school.user.groups = [1]
    return [group.name for group in school.user.groups]


def set_tweet_user_name(school: School) -> None:
    school.tweet.user.name = "Zaizee"


def in_batches(school: School) -> list[str]:
    return [name for name in school.db.batch_commit(["a", "b", "c"], 2) if school.db.in_transaction()]


LINES = {
    "for query": Line(
        lambda s: [user.name for user in s.users], "async for row in query", ["Huey", "Mickey"]
    ),
    "list query": Line(lambda s: len(list(s.users)), "await query.execute()", 2),
    "sorted query": Line(lambda s: len(sorted(s.users, key=str)), "async for row in query", 2),
    "unpack query": Line(lambda s: (lambda a, b: b.name)(*s.users), "async for row in query", "Mickey"),
    "len query": Line(lambda s: len(s.users), "await query.count()", 2),
    "bool query": Line(lambda s: bool(s.users), "await query.exists()", True),
    "not query": Line(lambda s: not s.users, "await query.exists()", False),
    "query or": Line(lambda s: s.users.where(s.User.id < 0) or "none", "await query.exists()", "none"),
    "query[0]": Line(lambda s: s.users[0].name, "await query.first()", "Huey"),
    "query[:1]": Line(lambda s: len(s.users[:1]), "await query.limit(n).execute()", 1),
    "in query": Line(lambda s: s.user in s.users, "await query.where(...).exists()", True),
    "reversed query": Line(lambda s: next(reversed(s.users)).name, "await query.execute()", "Mickey"),
    "dicts": Line(lambda s: list(s.users.dicts())[0]["name"], "async for row in query", "Huey"),  # noqa: RUF015
    "compound": Line(lambda s: len(s.users | s.users), "await query.count()", 2),
    "raw": Line(lambda s: len(s.User.raw("SELECT * FROM users")), "await query.count()", 2),
    "backref": Line(lambda s: [t.text for t in s.user.tweets], "async for row in query", ["meow"]),
    "many to many": Line(lambda s: list(s.user.groups), "async for row in query", []),
    "peewee.prefetch": Line(lambda s: len(peewee.prefetch(s.users, s.Tweet)), "async for row in query", 2),
    "for Model": Line(lambda s: len([user for user in s.User]), "async for x in User.select()", 2),  # noqa: C416
    "len Model": Line(lambda s: len(s.User), "await User.select().count()", 2),
    "in Model": Line(lambda s: 1 in s.User, "await User.get_or_none(...)", True),
    "key.attribute": Line(lambda s: s.tweet.user.name, "await it first", "Huey"),
    "with db": Line(lambda s: enter(s.db), "async with db"),
    "atomic": Line(lambda s: enter(s.db.atomic()), "async with db.atomic()"),
    "transaction": Line(lambda s: enter(s.db.transaction()), "async with db.transaction()"),
    "connection_context": Line(
        lambda s: enter(s.db.connection_context()), "async with db.connection_context()"
    ),
    "manual_commit": Line(manually, "async with db.manual_commit()", 2),
    "batch_commit": Line(in_batches, "async with db.atomic()", ["a", "b", "c"]),
    "cursor": Line(lambda s: s.db.cursor().execute("SELECT 1").fetchone(), "await db.execute_sql(...)", (1,)),
    "connection": Line(lambda s: s.db.connection().total_changes >= 0, "await db.run(function)", True),
    "pragma property": Line(lambda s: s.db.journal_mode, "await db.pragma", "wal"),
    "table": Line(lambda s: len(list(s.User._meta.table.select())), "async for row in query", 2),
    "plain table": Line(
        lambda s: len(list(peewee.Table("users").bind(s.db).select())),
        "await aio(query)",
        2,
    ),
    # These write, and come last: the others must find the rows as they were.
    "Model[key] =": Line(set_item, "await User.set_by_id(key", "Zaizee"),
    "del Model[key]": Line(delete_item, "await User.delete_by_id(key)", 1),
    "key.attribute =": Line(set_tweet_user_name, "await it first"),
    "many to many =": Line(set_groups, "await instance.groups.add([...], clear_existing=True)", ["cats"]),
    "pragma property =": Line(set_version, "await db.pragma", 7),
}


@pytest.fixture
async def school(sqlite_db: AsyncSqliteDatabase) -> School:
    made = School(sqlite_db)
    await sqlite_db.run(made.fill)
    return made


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
async def test_a_line_is_refused_on_the_loop_and_works_elsewhere(school: School, line: Line) -> None:
    """On the loop it raises and names the right form; on a worker it is Peewee's own."""
    with pytest.raises(BlockingCallError, match=rf"write instead:.*{re.escape(line.instead)}(?![\w.])"):
        line.run(school)
    assert await school.db.run(line.run, school) == line.gives


def run_all(school: School) -> None:
    with school.db.connection_context():
        for name, line in LINES.items():
            assert (name, line.run(school)) == (name, line.gives)


async def test_the_lines_work_on_a_plain_thread(school: School) -> None:
    """A thread with neither loop nor worker uses a connection of its own, on the same data."""
    await in_thread(run_all, school)


async def test_allow_sync_lifts_the_guard(school: School) -> None:
    """Inside, every line is Peewee's own, dual methods too; outside it is refused again."""
    with school.db.allow_sync():
        run_all(school)
        assert school.User.create(name="Felix") == school.User.get(name="Felix")
    with pytest.raises(BlockingCallError):
        len(school.User)
    assert await school.User.select().count() == 2


async def test_allow_sync_closes_its_connection(school: School) -> None:
    """After an error as well; one within another leaves the connection to the outer one."""
    state = school.db._state
    with pytest.raises(ValueError, match="mine"), school.db.allow_sync():
        school.User.select().count()
        with school.db.allow_sync():
            school.User.select().count()
        assert not state.closed
        raise ValueError("mine")
    assert state.closed
    assert not school.db.is_closed()  # the pool is another matter


async def test_allow_sync_is_for_the_task_that_wrote_it(school: School) -> None:
    """Another task that runs meanwhile is guarded as ever."""
    inside, seen = anyio.Event(), anyio.Event()

    async def other() -> None:
        await inside.wait()
        with pytest.raises(BlockingCallError):
            len(school.User)
        seen.set()

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        await anyio.lowlevel.checkpoint()
        with school.db.allow_sync():
            inside.set()
            await seen.wait()


async def test_allow_sync_is_not_inherited(school: School) -> None:
    """A task that is begun inside, there and in a task inside it, is guarded from its first moment on."""
    names: list[str] = []

    async def child(name: str) -> None:
        with pytest.raises(BlockingCallError):
            len(school.User)
        names.append((await school.User.create(name=name)).name)

    async with anyio.create_task_group() as group:
        with school.db.allow_sync():
            group.start_soon(child, "child")
            async with anyio.create_task_group() as inner:
                inner.start_soon(child, "inside")
            assert len(school.User) >= 3
    assert sorted(names) == ["child", "inside"]


@on_asyncio
async def test_allow_sync_is_not_inherited_by_callbacks(school: School) -> None:
    """Nor do callbacks that are made inside one, and inside a callback that has allowed it itself."""
    loop, done = asyncio.get_running_loop(), anyio.Event()
    seen: list[int] = []

    def guarded() -> None:
        with pytest.raises(BlockingCallError):
            len(school.User)
        seen.append(0)

    def allowing() -> None:
        with school.db.allow_sync():
            loop.call_soon(guarded)
            seen.append(len(school.User))
        guarded()
        loop.call_soon(done.set)

    with school.db.allow_sync():
        loop.call_soon(guarded)
        loop.call_soon(allowing)
        await done.wait()
        assert len(school.User) == 2
    assert seen == [0, 2, 0, 0]


async def test_allow_sync_ends_with_its_with(school: School) -> None:
    """Also where a generator is closed by another task, and where two of one task overlap."""

    async def values() -> AsyncIterator[int]:
        with school.db.allow_sync():
            yield len(school.User)

    async def close(generator: Any) -> None:
        await generator.aclose()

    generator = values()
    assert await anext(generator) == 2
    assert len(school.User) == 2
    async with anyio.create_task_group() as group:
        group.start_soon(close, generator)
    with pytest.raises(BlockingCallError):
        len(school.User)
    first, second = school.db.allow_sync(), school.db.allow_sync()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert len(school.User) == 2
    second.__exit__(None, None, None)
    with pytest.raises(BlockingCallError):
        len(school.User)


def test_allow_sync_on_a_plain_thread_is_not_for_a_loop_that_runs_inside(tmp_path: Path) -> None:
    db = AsyncSqliteDatabase(tmp_path / "test.db")
    models = Models(db)

    async def main() -> int:
        with pytest.raises(BlockingCallError):
            len(models.User)
        async with db:
            await models.User.create(name="Huey")
            return int(await models.User.select().count())

    with db.allow_sync():
        db.create_tables(models.all)
        assert anyio.run(main) == len(models.User) == 1


async def test_building_queries_is_never_refused(school: School) -> None:
    """Builders, repr, str, hash, equality and SQL do no I/O; nor does a loaded or an empty key."""
    User, Tweet = school.User, school.Tweet
    query = User.select().join(Tweet).where(Tweet.text == "meow")
    query = (query | User.select()).order_by(peewee.SQL("1")).limit(1)
    assert str(query).startswith("SELECT")
    assert repr(query)
    assert hash(query) == hash(query)
    assert query.sql()[0].count("SELECT") == 2
    assert bool(User)
    assert Tweet(user=school.user).user.name == "Huey"
    assert Tweet(user=1).user_id == 1
    with pytest.raises(User.DoesNotExist):
        _ = Tweet().user
    assert school.user == school.user
    assert User.update(age=1).where(User.id << User.select(User.id)).sql()
