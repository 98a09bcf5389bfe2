"""Create, read, update, delete, and a transaction that streams: each call once, with what it does.

    python examples/crud_walkthrough.py                     on SQLite, in a temporary directory
    python examples/crud_walkthrough.py mydatabase          AsyncPostgresqlDatabase('mydatabase')
    python examples/crud_walkthrough.py postgresql://user:secret@localhost/mydatabase
    python examples/crud_walkthrough.py sqlite:///notes.db  and --trio or --uvloop with any of them

A plain name is a database of the PostgreSQL server that libpq finds: the local one, or
the one that PGHOST, PGUSER and PGPASSWORD name. The table walkthrough_note is dropped at the end.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import anyio
from peewee import BooleanField, TextField

from async_peewee import AsyncModel, AsyncPostgresqlDatabase, AsyncSqliteDatabase, aio


class Note(AsyncModel):
    text = TextField()
    done = BooleanField(default=False)

    class Meta:
        table_name = "walkthrough_note"


async def create_read_update_delete() -> None:
    # INSERT. The instance comes back with its primary key.
    note = await Note.create(text="old_value")
    print(f"create   note {note.id} says {note.text!r}")

    # SELECT one row. Note.DoesNotExist is raised if there is none.
    note = await Note.get(Note.text == "old_value")
    print(f"get      note {note.id} says {note.text!r}")

    # UPDATE. Setting the field is plain Python; save() writes it.
    note.text = "new_value"
    await note.save()
    print(f"save     the table says {await Note.select(Note.text).scalar()!r}")

    # DELETE. The number of deleted rows comes back.
    deleted = await note.delete_instance()
    print(f"delete   {deleted} row deleted, {await Note.select().count()} left")


async def with_aio() -> None:
    # aio() makes a real coroutine of a call, so it fits wherever one is asked for.
    note = await aio(Note.create(text="made with aio()"))
    print(f"aio      note {note.id} says {note.text!r}")

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(aio, Note.create(text=f"made in task {number}"))
    print(f"tasks    {await Note.select().count()} notes after five tasks")


async def transaction(db: Any) -> None:
    # Everything this task calls in the block runs on one connection, in one transaction.
    async with db.atomic_async():
        query = Note.select().order_by(Note.id)
        async for note in query.iterator():
            note.done = True
            await note.save()
    print(f"commit   {await Note.select().where(Note.done).count()} notes are done")

    # An error rolls the block back and goes on to the caller.
    try:
        async with db.atomic_async():
            await Note.delete()
            raise RuntimeError("second thoughts")
    except RuntimeError as error:
        print(f"rollback because of {error}: {await Note.select().count()} notes are still there")


async def main(db: Any) -> None:
    db.bind([Note])  # or, when the database is known beforehand: class Meta: database = db
    await db.connect()
    try:
        await db.drop_tables([Note])  # what a run that was killed has left
        await db.create_tables([Note])
        await create_read_update_delete()
        await with_aio()
        await transaction(db)
        await db.drop_tables([Note])
    finally:
        await db.close()


def open_database(name: str) -> Any:
    if name.startswith("sqlite:///"):
        return AsyncSqliteDatabase(name.removeprefix("sqlite:///"))
    return AsyncPostgresqlDatabase(name)


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("database", nargs="?", help="a name, postgresql://... or sqlite:///path")
    loops = parser.add_mutually_exclusive_group()
    loops.add_argument("--trio", action="store_true")
    loops.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    backend = "trio" if arguments.trio else "asyncio"
    options = {"use_uvloop": True} if arguments.uvloop else {}
    with tempfile.TemporaryDirectory() as directory:
        database = arguments.database or f"sqlite:///{Path(directory) / 'walkthrough.db'}"
        anyio.run(main, open_database(database), backend=backend, backend_options=options)


if __name__ == "__main__":
    run()
