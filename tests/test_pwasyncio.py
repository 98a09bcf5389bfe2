"""Programs written for playhouse.pwasyncio: its documented examples and what it promises of queries."""

from __future__ import annotations

from typing import Any

import peewee
import pytest
from peewee import Load, fn
from playhouse import signals
from playhouse.shortcuts import model_to_dict

from tests.flavours import Shelf, anyio_backend, cell, cells, db, make_db, pw, shelf

__all__ = ["anyio_backend", "cell", "db", "make_db", "pw", "shelf"]  # fixtures


@cells()
async def test_the_first_example_of_the_documentation(pw: Any, db: Any) -> None:
    """Tables, a transaction, a row read and changed, rows as a result, as a list, as a stream."""

    class Member(db.Model):  # type: ignore[misc, name-defined]
        name = peewee.CharField()

    async with db:
        await db.acreate_tables([Member])
        async with db.atomic():
            member = await Member.acreate(name="Ada")
        found = await Member.aget(Member.name == "Ada")
        assert found.id == member.id
        found.name = "Ada L."
        await found.asave()
        await Member.acreate(name="Bob")

        query = Member.select().order_by(Member.name)
        assert [row.name for row in await query.aexecute()] == ["Ada L.", "Bob"]
        assert [row.name for row in await db.list(query)] == ["Ada L.", "Bob"]
        query = Member.select().order_by(Member.name)
        assert [row.name async for row in db.iterate(query)] == ["Ada L.", "Bob"]
        await db.adrop_tables([Member])
    assert issubclass(db.Model, pw.AsyncModel)
    assert db.Model is db.Model


@cells()
async def test_the_methods_of_a_model(shelf: Shelf) -> None:
    """Each does what Peewee's method without the prefix does."""
    Author = shelf.Author
    first = await Author.acreate(name="first", born=1)
    assert (await Author.aget(name="first")).id == first.id
    assert (await Author.aget(Author.born == 1)).name == "first"
    assert await Author.aget_or_none(Author.name == "nobody") is None
    with pytest.raises(Author.DoesNotExist):
        await Author.aget(Author.name == "nobody")

    first.name = "renamed"
    assert await first.asave() == 1
    await Author.aset_by_id(first.id, {"born": 2})
    again = await Author.aget_by_id(first.id)
    assert (again.name, again.born) == ("renamed", 2)

    assert await Author.aget_or_create(name="renamed") == (again, False)
    second, is_new = await Author.aget_or_create(name="second", defaults={"born": 7})
    assert (second.born, is_new) == (7, True)
    assert await Author.adelete_by_id(second.id) == 1
    assert await again.adelete_instance() == 1
    assert await Author.aget_or_none() is None


@cells()
async def test_bulk_methods(db: Any, shelf: Shelf) -> None:
    """In batches; here the text column, which the original can update on each database."""
    Author = shelf.Author
    await Author.abulk_create([Author(name=f"n{number}") for number in range(5)], 2)
    authors = await db.list(Author.select().order_by(Author.name))
    if db.__class__.__module__ == "playhouse.pwasyncio" and isinstance(db, peewee.PostgresqlDatabase):
        return  # its documentation: bulk_update() does not go with asyncpg
    for author in authors:
        author.name += "x"
    assert await Author.abulk_update(authors, [Author.name], 2) == 5
    names = [author.name for author in await db.list(Author.select().order_by(Author.name))]
    assert names == ["n0x", "n1x", "n2x", "n3x", "n4x"]


@cells()
async def test_afetch_loads_a_relation_once(db: Any, shelf: Shelf) -> None:
    """By field, by its name or by its column's; then it is there. A foreign key of NULL is None."""
    Author, Book = shelf.Author, shelf.Book
    author = await Author.acreate(name="a")
    key = (await Book.acreate(author=author, title="t")).id
    statements: list[str] = []
    for field in (Book.author, "author", "author_id"):
        book = await Book.aget_by_id(key)
        loaded = await book.afetch(field)
        assert (loaded.name, book.author) == ("a", loaded)
        db.query_hooks.append(lambda event: statements.append(event.sql))
        assert await book.afetch(field) is loaded
        db.query_hooks.clear()
    assert statements == []
    assert await book.afetch(Book.editor) is None


async def test_afetch_needs_no_database_for_what_is_there(db: Any, shelf: Shelf) -> None:
    """From a join, a prefetch or an earlier afetch()."""
    author = await shelf.Author.acreate(name="a")
    await shelf.Book.acreate(author=author, title="t")
    book = await db.get(shelf.Book.select(shelf.Book, shelf.Author).join(shelf.Author, on=shelf.Book.author))
    shelf.Book._meta.database = shelf.Author._meta.database = None
    assert (await book.afetch("author")).name == "a"


async def test_afetch_refuses_what_it_cannot_load(pw: Any, db: Any, shelf: Shelf) -> None:
    """A field that is no foreign key, an unknown name, lazy_load=False, a row that is gone."""

    class Note(db.Model):  # type: ignore[misc, name-defined]
        author = peewee.ForeignKeyField(shelf.Author, lazy_load=False)

    await db.acreate_tables([Note])
    author = await shelf.Author.acreate(name="a")
    book = await shelf.Book.acreate(author=author, title="t")
    note = await Note.acreate(author=author.id)
    with pytest.raises(ValueError, match="foreign"):
        await book.afetch(shelf.Book.title)
    with pytest.raises(KeyError):
        await book.afetch("nothing")
    with pytest.raises(ValueError, match="lazy_load"):
        await (await Note.aget_by_id(note.id)).afetch(Note.author)
    await author.adelete_instance()
    orphan = await shelf.Book.aget_by_id(book.id)
    with pytest.raises(shelf.Author.DoesNotExist):
        await orphan.afetch(shelf.Book.author)


async def test_what_would_query_on_the_loop_raises(pw: Any, db: Any, shelf: Shelf) -> None:
    """A lazy foreign key, a back-reference, a query: MissingGreenletBridge; each has its way."""
    author = await shelf.Author.acreate(name="a")
    await shelf.Book.acreate(author=author, title="t")
    book = await db.get(shelf.Book.select())
    with pytest.raises(pw.MissingGreenletBridge):
        _ = book.author.name
    with pytest.raises(pw.MissingGreenletBridge):
        list(author.books)
    with pytest.raises(pw.MissingGreenletBridge):
        list(shelf.Book.select())
    with pytest.raises(pw.MissingGreenletBridge):
        model_to_dict(author, backrefs=True)

    assert await db.run(lambda: book.author.name) == "a"
    joined = await db.get(
        shelf.Book.select(shelf.Book, shelf.Author).join(shelf.Author, on=shelf.Book.author)
    )
    assert joined.author.name == "a"
    assert [found.title for found in await author.books.aexecute()] == ["t"]
    assert [found.title for found in await db.list(author.books)] == ["t"]
    assert [found.title for found in await db.run(list, author.books)] == ["t"]
    fetched = await db.run(model_to_dict, author, backrefs=True, max_depth=1)
    assert [found["title"] for found in fetched["books"]] == ["t"]


@cells()
async def test_aexecute_returns_what_execute_returns(db: Any, shelf: Shelf) -> None:
    """A key, a count, rows; as a method of the query and of the database."""
    Author = shelf.Author
    key = await Author.insert(name="a", born=1).aexecute()
    assert (await Author.aget_by_id(key)).name == "a"
    await db.aexecute(Author.insert_many([("b", 2), ("c", 3)], fields=[Author.name, Author.born]))
    update = Author.update(born=Author.born + 10).where(Author.born > 1)
    assert (await update.aexecute(), await db.aexecute(update)) == (2, 2)

    query = Author.select().where(Author.born > 20).order_by(Author.name)
    rows = await query.aexecute()
    assert [row.name for row in rows] == ["b", "c"]
    assert await query.aexecute() is rows
    either = Author.select().where(Author.name == "a") | Author.select().where(Author.name == "c")
    assert sorted(row.name for row in await either.aexecute()) == ["a", "c"]
    assert [row.born for row in await Author.raw("SELECT born FROM author WHERE name = 'a'").aexecute()] == [
        1
    ]
    assert await db.aexecute(Author.delete()) == 3


@cells("sqlite3", "aiosqlite", "psycopg2", "psycopg", "asyncpg")
async def test_writes_with_returning_give_rows(db: Any, shelf: Shelf) -> None:
    Author = shelf.Author
    insert = Author.insert_many([{"name": "a"}, {"name": "b"}]).returning(Author)
    assert [row.name for row in await db.aexecute(insert)] == ["a", "b"]
    update = Author.update(born=9).where(Author.name == "a").returning(Author.born)
    assert [row.born for row in await db.list(update)] == [9]
    assert [
        row.name for row in await Author.delete().where(Author.born == 9).returning(Author).aexecute()
    ] == ["a"]


@cells()
async def test_the_helpers_of_the_database(db: Any, shelf: Shelf) -> None:
    Author = shelf.Author
    query = Author.select().order_by(Author.born)
    assert await db.first(query.clone()) is None
    assert await db.list(query.where(Author.born > 0)) == []
    for number in range(3):
        await Author.acreate(name=f"n{number}", born=number)
    assert (await db.get(query.where(Author.name == "n1"))).born == 1
    with pytest.raises(Author.DoesNotExist):
        await db.get(query.where(Author.name == "none"))
    assert await db.scalar(Author.select(fn.MAX(Author.born))) == 2
    assert await db.count(query) == 3
    assert await db.exists(query.where(Author.name == "n2")) is True
    assert await db.exists(query.where(Author.name == "none")) is False
    assert (await db.first(query.clone())).name == "n0"
    assert [row.name for row in await db.first(query.clone(), n=2)] == ["n0", "n1"]
    assert [row.name for row in await db.list(query)] == ["n0", "n1", "n2"]
    assert await db.list(query.tuples()) == [(row.id, row.name, row.born) for row in await db.list(query)]


@cells()
async def test_related_rows_come_with_a_prefetch(db: Any, shelf: Shelf) -> None:
    """By aprefetch(), which fills the query too, and by with_related() under aexecute() and list()."""
    author = await shelf.Author.acreate(name="a")
    for title in ("x", "y"):
        await shelf.Book.acreate(author=author, title=title)
    authors = shelf.Author.select()
    books = shelf.Book.select().order_by(shelf.Book.title)
    (found,) = await db.aprefetch(authors, books)
    assert [book.title for book in found.books] == ["x", "y"]
    assert [[book.title for book in row.books] for row in authors] == [["x", "y"]]
    assert await found.books[0].afetch(shelf.Book.author) is found

    query = shelf.Author.select().with_related(Load(shelf.Author.books))
    for rows in (await query.aexecute(), await db.list(query.clone())):
        assert [[book.title for book in row.books] for row in rows] == [["x", "y"]]


@cells()
async def test_raw_sql_comes_back_with_its_rows(db: Any, shelf: Shelf) -> None:
    """The cursor needs no await any more: rows, counts, names of columns."""
    sql, parameters = shelf.Author.insert(name="raw", born=4).sql()
    cursor = await db.aexecute_sql(sql, parameters)
    assert cursor.rowcount == 1
    cursor = await db.aexecute_sql("SELECT name, born FROM author")
    assert [column[0] for column in cursor.description] == ["name", "born"]
    assert tuple(cursor.fetchone()) == ("raw", 4)
    connection = await db.aconnect()
    assert [tuple(row) for row in (await connection.execute("SELECT 1")).fetchall()] == [(1,)]
    with pytest.raises(peewee.PeeweeException):
        await db.aexecute_sql("NO SUCH STATEMENT")
    assert await db.count(shelf.Author.select()) == 1
    await db.aclose()


@cells()
async def test_rows_of_every_kind_are_streamed(db: Any, shelf: Shelf) -> None:
    """In order, by buffers of any size; a loop left early leaves the database usable."""
    Author = shelf.Author
    await Author.abulk_create([Author(name=f"n{number:02}", born=number) for number in range(20)])
    query = Author.select(Author.name, Author.born).order_by(Author.name)
    names = [f"n{number:02}" for number in range(20)]
    assert [row.name async for row in db.iterate(query.clone())] == names
    assert [row.name async for row in db.iterate(query.clone(), buffer_size=3)] == names
    assert [row async for row in db.iterate(query.tuples())][1] == ("n01", 1)
    assert [row async for row in db.iterate(query.dicts())][1] == {"name": "n01", "born": 1}
    assert [row.born async for row in db.iterate(query.namedtuples())][1] == 1
    assert [row async for row in db.iterate(query.where(Author.born > 99))] == []

    stream = db.iterate(query.clone())
    async for row in stream:
        assert row.name == "n00"
        break
    await stream.aclose()
    assert await db.count(Author.select()) == 20


@cells()
async def test_a_function_runs_as_a_whole(db: Any, shelf: Shelf) -> None:
    """With plain Peewee inside, transactions too; what it returns and raises arrives."""

    def register(name: str, *, title: str) -> Any:
        with db.atomic():
            author = shelf.Author.create(name=name)
            shelf.Book.create(author=author, title=title)
            with db.atomic() as nested:
                shelf.Book.delete().execute()
                nested.rollback()
            return author

    author = await db.run(register, "a", title="t")
    assert author.name == "a"
    assert await db.run(shelf.titles) == ["t"]
    with pytest.raises(peewee.IntegrityError):
        await db.run(register, "a", title="u")
    assert await db.run(shelf.titles) == ["t"]
    assert (await db.run(shelf.Author.get, shelf.Author.name == "a")).id == author.id
    assert await db.run(shelf.Author.select().count) == 1


@cells()
async def test_plain_models_go_through_the_database(db: Any) -> None:
    """peewee.Model on an asynchronous database: the helpers serve it, and run() the rest."""
    plain = Shelf(peewee.Model, db)
    await db.acreate_tables([plain.Author, plain.Book])
    author = await db.run(plain.Author.create, name="a")
    await db.aexecute(plain.Book.insert(author=author, title="t"))
    query = plain.Book.select()
    assert (await db.get(query)).title == "t"
    assert (await db.first(query.clone())).title == "t"
    assert [book.title for book in await db.list(query)] == ["t"]
    assert [book.title for book in await query.clone().aexecute()] == ["t"]
    assert [book.title async for book in db.iterate(plain.Book.select())] == ["t"]
    assert await db.count(plain.Book.select()) == 1


async def test_the_mixin_keeps_what_a_model_is(pw: Any, db: Any) -> None:
    """Beside signals, a composite key and only_save_dirty, each with Peewee's own Model below."""
    seen: list[tuple[str, bool]] = []

    class Signalled(pw.AsyncModelMixin, signals.Model):  # type: ignore[misc, name-defined]
        name = peewee.CharField()

        class Meta:
            database = db

    class Pair(pw.AsyncModelMixin, peewee.Model):  # type: ignore[misc, name-defined]
        left = peewee.CharField()
        right = peewee.CharField()
        note = peewee.CharField(default="")

        class Meta:
            database = db
            primary_key = peewee.CompositeKey("left", "right")

    class Dirty(pw.AsyncModelMixin, peewee.Model):  # type: ignore[misc, name-defined]
        name = peewee.CharField()

        class Meta:
            database = db
            only_save_dirty = True

    await db.acreate_tables([Signalled, Pair, Dirty])
    signals.pre_save.connect(
        lambda sender, instance, created: seen.append(("pre", created)), sender=Signalled
    )
    signalled = await Signalled.acreate(name="s")
    signalled.name = "t"
    await signalled.asave()
    assert seen == [("pre", True), ("pre", False)]

    pair = Pair(left="l", right="r")
    assert await pair.asave(force_insert=True) == 1
    pair.note = "n"
    assert await pair.asave() == 1
    assert (await Pair.aget(Pair.left == "l", Pair.right == "r")).note == "n"

    dirty = await Dirty.acreate(name="d")
    assert await dirty.asave() is False


async def test_a_model_without_an_asynchronous_database_is_refused(pw: Any, db: Any) -> None:
    """InterfaceError: on none, on a synchronous one, on a proxy that stands for nothing yet."""
    proxy = peewee.DatabaseProxy()

    class Item(pw.AsyncModel):  # type: ignore[misc, name-defined]
        name = peewee.CharField()

    for database in (None, peewee.SqliteDatabase(":memory:"), proxy):
        Item._meta.database = database
        with pytest.raises(peewee.InterfaceError):
            await Item.acreate(name="x")
    with pytest.raises(peewee.InterfaceError):
        await peewee.Query().aexecute()

    proxy.initialize(db)
    await db.acreate_tables([Item])
    assert (await Item.acreate(name="x")).name == "x"
