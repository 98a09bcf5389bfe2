"""playhouse.postgres_ext on psycopg2 and psycopg: hstore, arrays, JSONB, text search, server-side cursors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import peewee
import pytest
from playhouse.postgres_ext import (
    ArrayField,
    BinaryJSONField,
    DateTimeTZField,
    FetchManyCursor,
    HStoreField,
    Match,
    PostgresqlExtDatabase,
    ServerSide,
    ServerSideQuery,
    TSVectorField,
)

from async_peewee import AsyncDatabase, AsyncModel, BlockingCallError
from async_peewee.postgres_ext import AsyncPostgresqlExtDatabase
from tests.extensions.support import WORKERS, on_every_worker
from tests.support import Server

ROWS = 250


class TwoLines(AsyncDatabase, PostgresqlExtDatabase):
    """The class that a user writes without ours; it lacks what AsyncPostgresqlDatabase adds."""


def make_database(server: Server, kind: str, **options: Any) -> Any:
    options = {**server.connect_params(), "prefer_psycopg3": kind == "psycopg3", **options}
    return AsyncPostgresqlExtDatabase(server.url, pool_size=WORKERS, **options)


@pytest.fixture(params=["psycopg2", "psycopg3"])
def kind(request: pytest.FixtureRequest) -> str:
    """Return the name of a driver; the test runs on each."""
    pytest.importorskip(request.param.replace("psycopg3", "psycopg"))
    return str(request.param)


@pytest.fixture
async def db(kind: str, contrib_server: Server) -> AsyncIterator[Any]:
    """Return an open database with hstore."""
    async with make_database(contrib_server, kind, register_hstore=True) as database:
        yield database


def make_page(database: Any) -> Any:
    class Page(AsyncModel):
        title = peewee.TextField()
        tags = ArrayField(peewee.TextField)
        data = BinaryJSONField(default=dict)
        attributes = HStoreField(default=dict)
        body = TSVectorField(null=True)
        seen = DateTimeTZField(null=True)

        class Meta:
            table_name = "page"

    Page._meta.database = database  # type: ignore[attr-defined]
    return Page


async def test_hstore(db: Any) -> None:
    """A dictionary goes in and comes out, on every worker's connection; keys are asked for in SQL."""
    Page = make_page(db)
    await db.create_tables([Page])
    page = await Page.create(title="a", tags=[], attributes={"colour": "red", "size": None})
    answers = await on_every_worker(db, lambda: Page.get_by_id(page.id).attributes)
    assert answers == [{"colour": "red", "size": None}] * WORKERS
    assert await Page.select().where(Page.attributes.contains({"colour": "red"})).count() == 1
    assert await Page.select(Page.attributes["colour"]).scalar() == "red"
    await Page.update(attributes=Page.attributes.update(size="big")).execute()
    assert (await Page.get()).attributes == {"colour": "red", "size": "big"}
    assert await Page.select(Page.attributes.keys()).scalar() == ["size", "colour"]
    # A reset session has forgotten nothing of it.
    await db.execute_sql("SET lock_timeout = 1")
    answers = await on_every_worker(db, lambda: Page.get().attributes["size"])
    assert answers == ["big"] * WORKERS


async def test_arrays(db: Any) -> None:
    Page = make_page(db)
    await db.create_tables([Page])
    await Page.bulk_create([Page(title=tags, tags=list(tags)) for tags in ("abc", "bc", "d")])
    assert {page.title async for page in Page.select().where(Page.tags.contains("b", "c"))} == {"abc", "bc"}
    assert await Page.select(Page.tags[0]).where(Page.title == "bc").scalar() == "b"
    unnested = Page.select(peewee.fn.unnest(Page.tags).alias("tag")).distinct().order_by(peewee.SQL("tag"))
    assert [tag for (tag,) in await unnested.tuples()] == ["a", "b", "c", "d"]


async def test_jsonb(db: Any) -> None:
    Page = make_page(db)
    await db.create_tables([Page])
    page = await Page.create(title="a", tags=[], data={"user": {"name": "Huey"}, "marks": [1, 2]})
    assert await Page.get(Page.data["user"]["name"] == "Huey") == page
    assert await Page.get(Page.data.contains({"marks": [2]})) == page
    assert await Page.select().where(Page.data.has_key("none")).count() == 0
    page.data["marks"].append(3)
    await page.save()
    assert await Page.select(Page.data["marks"][2]).scalar() == "3"
    await Page.update(data=Page.data["user"].set({"name": "Zaizee"})).execute()
    assert (await Page[page.id]).data["user"] == {"name": "Zaizee"}


async def test_text_search(db: Any) -> None:
    Page = make_page(db)
    await db.create_tables([Page])
    for title in ("the quick foxes", "a lazy dog"):
        await Page.create(title=title, tags=[], body=peewee.fn.to_tsvector("english", title))
    assert (await Page.get(Page.body.match("fox", language="english"))).title == "the quick foxes"
    found = Page.select().where(Match(Page.title, "fox | dog", language="english"))
    assert await found.count() == 2
    assert await Page.select().where(Page.body.match("dog -lazy", websearch=True)).count() == 0


@pytest.fixture
async def numbers(kind: str, contrib_server: Server) -> AsyncIterator[Any]:
    """Return a model with rows, on a database whose SELECTs use server-side cursors."""

    async with make_database(contrib_server, kind, server_side_cursors=True) as database:

        class Number(AsyncModel):
            n = peewee.IntegerField()

            class Meta:
                pass

        Number._meta.database = database  # type: ignore[attr-defined]
        await database.create_tables([Number])
        await Number.insert_many([(n,) for n in range(ROWS)], fields=[Number.n]).execute()
        yield Number


def open_cursors(database: Any) -> int:
    return int(database.execute_sql("SELECT count(*) FROM pg_cursors").fetchone()[0])


async def test_server_side_cursors(numbers: Any) -> None:
    """With `server_side_cursors=True` every form of a query gives all rows, and leaves no cursor open."""
    query, db = numbers.select().order_by(numbers.n), numbers._meta.database
    everything = list(range(ROWS))
    assert [row.n for row in await query] == everything
    assert [row.n async for row in query.clone()] == everything
    assert [row.n async for row in query.iterator()] == everything
    async with db.atomic():
        assert [row.n async for row in query.clone()] == everything
        assert [row.n async for row in query.iterator()] == everything
    assert (await db.execute(numbers.select(peewee.fn.count(numbers.n)))).fetchall() == [(ROWS,)]
    assert (await query.first()).n == 0
    assert await numbers.select().count() == ROWS
    assert len(await query.where(numbers.n < 0)) == 0
    assert (await db.execute_sql("SELECT 1", named_cursor=True)).fetchall() == [(1,)]
    assert await on_every_worker(db, lambda: open_cursors(db)) == [0] * WORKERS


async def test_server_side(numbers: Any) -> None:
    """ServerSide(query) reads on a worker; on the loop it says what to write, and that does the same."""
    db, query = numbers._meta.database, numbers.select().order_by(numbers.n)

    def total() -> int:
        return sum(row.n for row in ServerSide(query, array_size=10))

    expected = sum(range(ROWS))
    assert await db.run(total) == expected
    async with db.atomic():
        assert await db.run(total) == expected
    with pytest.raises(BlockingCallError, match=r"async for row in query\.iterator\(\)"):
        list(ServerSide(query))
    assert sum([row.n async for row in query.iterator()]) == expected


async def test_a_server_side_cursor_ends_with_its_job(numbers: Any) -> None:
    """Kept beyond it, it is closed on the server, and says so instead of ending early."""
    db, query = numbers._meta.database, numbers.select().order_by(numbers.n)
    kept: list[Any] = []

    def begin() -> int:
        kept.append(ServerSideQuery(query, array_size=10).iterator())
        assert isinstance(db.execute(query, named_cursor=True, array_size=10), FetchManyCursor)
        return int(next(kept[-1]).n)

    assert await db.run(begin) == 0
    assert await on_every_worker(db, lambda: open_cursors(db)) == [0] * WORKERS
    with pytest.raises(peewee.InterfaceError, match="closed"):
        await db.run(list, kept[-1])


async def test_the_mixin_in_two_lines(kind: str, contrib_server: Server) -> None:
    """AsyncDatabase before Peewee's own class does it as well."""
    options = {**contrib_server.connect_params(), "prefer_psycopg3": kind == "psycopg3"}
    async with TwoLines(contrib_server.url, register_hstore=True, **options) as database:
        Page = make_page(database)
        await database.create_tables([Page])
        await Page.create(title="a", tags=["x"], attributes={"a": "1"})
        assert (await Page.get()).attributes == {"a": "1"}


async def test_without_the_extension_connecting_says_so(kind: str, server: Server) -> None:
    """`register_hstore=True` on a database without hstore is an error, not a hang or a retry."""
    database = make_database(server, kind, register_hstore=True)
    with pytest.raises((peewee.PeeweeException, TypeError), match="hstore"):
        await database.connect()
