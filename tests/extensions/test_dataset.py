"""playhouse.dataset: tables as lists of dictionaries; a data set is made and used on workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playhouse.dataset import DataSet

from async_peewee import BlockingCallError, aio
from tests.support import Models


async def test_a_data_set_is_made_and_used_on_workers(db: Any) -> None:
    """Tables and columns come into being as rows are written, in one function or call by call.

    find() and all() build queries, which aio() executes.
    """
    data = await db.run(DataSet, db)
    people = await db.run(data.__getitem__, "people")
    await db.run(people.insert, name="Huey", age=3)
    await db.run(people.insert, name="Mickey", colour="black")
    assert await db.run(people.update, name="Mickey", age=5, columns=["name"]) == 1
    assert sorted(people.columns) == ["age", "colour", "id", "name"]
    assert [row["age"] for row in await aio(people.find(name="Mickey"))] == [5]
    assert (await db.run(people.find_one, name="Huey"))["colour"] is None
    assert len(await aio(people.all())) == await db.run(len, people) == 2
    assert await db.run(lambda: data.tables) == ["people"]
    assert await db.run(people.delete, name="Huey") == 1
    assert await db.run(lambda: [row["name"] for row in people]) == ["Mickey"]
    await db.run(people.model_class.drop_table)


async def test_its_transactions_are_the_databases(db: Any) -> None:
    """`with data.transaction()` is written `async with`, and what db.run() does inside is part of it."""
    data = await db.run(DataSet, db)
    people = await db.run(data.__getitem__, "people")
    await db.run(people.insert, name="Huey")
    async with data.transaction() as transaction:
        await db.run(people.insert, name="lost")
        await transaction.rollback()
    assert await db.run(len, people) == 1
    await db.run(people.model_class.drop_table)


async def test_export_and_import(people: Models, tmp_path: Path) -> None:
    """Reading and writing files blocks as well, so both run on a worker."""
    db, file = people.database, tmp_path / "tweets.json"

    def export() -> None:
        data = DataSet(db)
        data["tweets"].freeze(format="json", filename=str(file))
        data["copies"].thaw(format="json", filename=str(file))

    await db.run(export)
    assert [row["text"] for row in json.loads(file.read_text())] == ["meow", "purr"]
    assert (await db.execute_sql("SELECT text FROM copies ORDER BY id")).fetchall() == [("meow",), ("purr",)]


USES: dict[str, Callable[[DataSet], Any]] = {
    "make": lambda data: DataSet(data._database),
    "new table": lambda data: data["new"],
    "tables": lambda data: data.tables,
    "insert": lambda data: data["users"].insert(name="x"),
    "find": lambda data: list(data["users"].find(name="x")),
    "length": lambda data: len(data["users"]),
    "iterate": lambda data: list(data["users"]),
    "query": lambda data: data.query("SELECT 1"),
    "transaction": lambda data: data.transaction().__enter__(),
    "with": lambda data: data.__enter__(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_on_the_loop_it_says_what_to_write(people: Models, use: Callable[[DataSet], Any]) -> None:
    data = await people.database.run(DataSet, people.database)
    with pytest.raises(BlockingCallError, match=r"write instead: .*(await|async)"):
        use(data)
