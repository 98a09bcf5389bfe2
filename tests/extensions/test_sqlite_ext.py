"""playhouse.sqlite_ext and what sqlite3 itself offers: full-text search, JSON, pragmas, backup."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import peewee
import pytest
from playhouse.sqlite_ext import FTS5Model, FTSModel, JSONField, RowIDField, SearchField
from playhouse.sqlite_udf import register_udf_groups

from async_peewee import AsyncModel, AsyncSqliteDatabase, BlockingCallError, PendingCall

TEXTS = ["the quick brown fox", "the lazy dog", "a fox and a dog"]

ORDERS = {"playhouse first": (FTS5Model, AsyncModel), "ours first": (AsyncModel, FTS5Model)}


def make_notes(database: Any, bases: tuple[type, ...]) -> Any:
    options = {"tokenize": "porter", "prefix": [2, 3]}
    meta = type("Meta", (), {"database": database, "options": options})
    return type("Note", bases, {"rowid": RowIDField(), "text": SearchField(), "Meta": meta})


@pytest.fixture(params=ORDERS.values(), ids=ORDERS)
async def note_model(sqlite_db: AsyncSqliteDatabase, request: pytest.FixtureRequest) -> Any:
    """Return an FTS5 model with three rows."""
    Note = make_notes(sqlite_db, request.param)
    await Note.create_table()
    await Note.insert_many([(text,) for text in TEXTS], fields=[Note.text]).execute()
    return Note


async def test_fts5_queries(note_model: Any) -> None:
    """Searches build queries like any other, and are awaited."""
    Note = note_model
    assert {note.text for note in await Note.search("fox")} == {TEXTS[0], TEXTS[2]}
    assert [note.text async for note in Note.search_bm25("lazy", with_score=True)] == [TEXTS[1]]
    assert await Note.select().where(Note.match("dog")).count() == 2
    best = await Note.search("fox", with_score=True, score_alias="score").first()
    assert best.score < 0
    query = Note.select(Note.text.highlight("[", "]")).where(Note.match("brown")).tuples()
    assert list(await query) == [("the quick [brown] fox",)]
    snippets = Note.select(Note.text.snippet("<", ">", "..", 2)).where(Note.match("lazy"))
    assert await snippets.scalar() == "the <lazy>.."
    note = await Note.get(Note.match("lazy"))
    note.text = "an eager dog"
    assert await note.save() == 1
    assert await note.delete_instance() == 1
    assert await Note.select().count() == 2


async def test_fts5_commands(note_model: Any) -> None:
    """The commands of an FTS5 table run SQL, so they are awaited."""
    Note = note_model
    commands = [
        *(lambda: Note.optimize(), lambda: Note.rebuild(), lambda: Note.integrity_check()),
        *(lambda: Note.automerge(4), lambda: Note.merge(8), lambda: Note.set_pgsz(2000)),
        lambda: Note.set_rank("bm25(5.0)"),
    ]
    for command in commands:
        call = command()
        assert isinstance(call, PendingCall)
        await call
    with pytest.raises(ValueError, match="between 0 and 64"):
        await Note.automerge(100)


async def test_fts5_vocabulary(note_model: Any, sqlite_db: AsyncSqliteDatabase) -> None:
    """The model of an index's terms is made by playhouse, a plain one: its queries go through aio()."""
    Note = note_model
    Vocab = Note.VocabModel()

    def most_frequent() -> str:
        Vocab.create_table()
        return str(Vocab.select().order_by(Vocab.cnt.desc(), Vocab.term).first().term)

    assert await sqlite_db.run(most_frequent) == "a"


async def test_contentless_fts5_deletes(sqlite_db: AsyncSqliteDatabase) -> None:
    class Index(FTS5Model, AsyncModel):
        text = SearchField()

        class Meta:
            database = sqlite_db
            options = {"content": ""}  # noqa: RUF012

    await Index.create_table()
    await Index.insert({"rowid": 1, "text": "fox"}).execute()
    await Index.insert({"rowid": 2, "text": "dog"}).execute()
    await Index.delete_command(1, text="fox")
    assert [row.rowid for row in await Index.select(Index.rowid).where(Index.match("fox OR dog"))] == [2]
    await Index.delete_all()
    assert await Index.select(Index.rowid).where(Index.match("fox OR dog")).count() == 0


async def test_fts4_ranks_on_every_worker(tmp_path: Path) -> None:
    """FTSModel ranks by Python functions, which `rank_functions=True` registers."""
    db = AsyncSqliteDatabase(tmp_path / "fts4.db", rank_functions=True)

    class Document(FTSModel, AsyncModel):
        text = SearchField()

        class Meta:
            database = db

    async with db:
        await Document.create_table()
        await Document.insert_many([{"text": text} for text in TEXTS]).execute()
        for search in (Document.search, Document.search_bm25):
            assert {row.text for row in await search("fox", with_score=True)} == {TEXTS[0], TEXTS[2]}
        await Document.optimize()
        await Document.rebuild()
        await Document.integrity_check()


async def test_json(sqlite_db: AsyncSqliteDatabase) -> None:
    """A JSON field is stored, read by path, changed in place and unfolded."""

    class Event(AsyncModel):
        data = JSONField(json_dumps=None)

        class Meta:
            database = sqlite_db

    await Event.create_table()
    event = await Event.create(data={"kind": "click", "at": [1, 2], "user": {"name": "Huey"}})
    assert (await Event.get(Event.data["user"]["name"] == "Huey")) == event
    assert await Event.update(data=Event.data["at"].append(3)).execute() == 1
    assert (await Event[event.id]).data["at"] == [1, 2, 3]
    assert await Event.select(Event.data["at"].length()).scalar() == 3
    tree = Event.data["at"].children().alias("tree")
    values = Event.select(tree.c.value).from_(Event, tree).tuples()
    assert list(await values) == [(1,), (2,), (3,)]


async def test_udf_groups(sqlite_db: AsyncSqliteDatabase) -> None:
    """playhouse.sqlite_udf registers on an open database without being awaited."""
    async with sqlite_db:
        register_udf_groups(sqlite_db, "string")
        assert (await sqlite_db.execute_sql("SELECT substr_count('banana', 'an')")).fetchone() == (2,)


async def test_pragma_properties(sqlite_db: AsyncSqliteDatabase) -> None:
    """`db.user_version = 3` would block, and says what to write; that works, and so do blocks of code."""
    with pytest.raises(BlockingCallError, match=r"await db\.pragma\("):
        sqlite_db.user_version = 3
    with pytest.raises(BlockingCallError, match=r"await db\.pragma\("):
        _ = sqlite_db.journal_mode
    await sqlite_db.pragma("user_version", 3)
    assert await sqlite_db.pragma("user_version") == 3
    assert await sqlite_db.run(lambda: (sqlite_db.user_version, sqlite_db.journal_mode)) == (3, "wal")
    assert sqlite_db.timeout == 5


@pytest.mark.parametrize("target", ["file", ":memory:"])
async def test_backup(tmp_path: Path, target: str) -> None:
    """sqlite3's own backup() runs on a worker; a database in memory keeps its rows and its connection."""
    db = AsyncSqliteDatabase(":memory:" if target == ":memory:" else tmp_path / "source.db")

    def back_up() -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
            db.connection().backup(copy)

    async with db:
        await db.execute_sql("CREATE TABLE kept (x)")
        await db.run(back_up)
        assert await db.table_exists("kept")
    with contextlib.closing(peewee.SqliteDatabase(tmp_path / "copy.db")) as copy:
        assert copy.get_tables() == ["kept"]
