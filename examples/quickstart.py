"""A bookshop in five steps: rows, transactions, plain functions, many tasks, streaming.

    python examples/quickstart.py                                   on SQLite, in a temporary directory
    python examples/quickstart.py sqlite:///shop.db
    python examples/quickstart.py postgresql://user:secret@localhost/shop
    python examples/quickstart.py --trio                            or --uvloop; asyncio is the default

The tables are its own (their names begin with quickstart_); it drops them at the end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
from peewee import ForeignKeyField, IntegerField, TextField, fn

from async_peewee import AsyncModel, AsyncPostgresqlDatabase, AsyncSqliteDatabase, aio

# --- Models: Peewee's, with AsyncModel for Model ---------------------------------------


class Author(AsyncModel):
    name = TextField(unique=True)

    class Meta:
        table_name = "quickstart_author"


class Book(AsyncModel):
    author = ForeignKeyField(Author, backref="books")
    title = TextField()
    stock = IntegerField(default=0)

    class Meta:
        table_name = "quickstart_book"


class Sale(AsyncModel):
    book = ForeignKeyField(Book, backref="sales")
    customer = TextField()

    class Meta:
        table_name = "quickstart_sale"


MODELS = [Author, Book, Sale]


# --- 1. Rows: Peewee's own names, awaited ----------------------------------------------


async def rows() -> None:
    step("1. Rows")
    le_guin = await Author.create(name="Ursula Le Guin")
    await Book.create(author=le_guin, title="The Dispossessed", stock=3)
    await Book.create(author=le_guin, title="The Lathe of Heaven", stock=100)
    say("created", "one author, two books")

    book = await Book.get(Book.title == "The Dispossessed")
    book.stock += 1
    await book.save()
    say("updated", f"{book.title!r} has {book.stock} copies now")

    author = await aio(book.author)  # loaded or not, aio() gives the related row
    titles = [book.title async for book in author.books.order_by(Book.title)]
    say("selected", f"{author.name} wrote {' and '.join(titles)}")

    leaflet = await Book.create(author=author, title="A leaflet")
    await leaflet.delete_instance()
    say("deleted", f"one leaflet; {await Book.select().count()} books are left")


# --- 2. Transactions: both rows or neither ---------------------------------------------


class OutOfStock(Exception):
    pass


async def sell(db: Any, book: Book, customer: str) -> None:
    """Sell one copy. The row of the sale and the stock change together."""
    async with db.atomic():
        await Sale.create(book=book, customer=customer)
        in_stock = (Book.id == book.id) & (Book.stock > 0)
        if not await Book.update(stock=Book.stock - 1).where(in_stock):
            raise OutOfStock(book.title)


async def transactions(db: Any) -> None:
    step("2. Transactions")
    book = await Book.get(Book.title == "The Dispossessed")
    for customer in ("Ada", "Bo", "Cy", "Di"):
        await sell(db, book, customer)
    say("committed", f"{await book.sales.count()} sales, {await stock(book)} copies left")
    try:
        await sell(db, book, "Eve")
    except OutOfStock as error:
        say("rolled back", f"Eve came too late for {error}: still {await book.sales.count()} sales")


async def stock(book: Book) -> int:
    fresh = await Book.get_by_id(book.id)
    return fresh.stock


# --- 3. Plain functions: any synchronous Peewee code, in one hop to a worker -----------


def best_customers(count: int) -> list[str]:
    """Know nothing of async: a script or a Celery task could call this as it stands."""
    query = Sale.select(Sale.customer, fn.COUNT(Sale.id).alias("n")).group_by(Sale.customer)
    best = query.order_by(fn.COUNT(Sale.id).desc(), Sale.customer).limit(count)
    return [f"{sale.customer} ({sale.n})" for sale in best]


async def plain_functions(db: Any) -> None:
    step("3. Plain functions")
    names = await db.run(best_customers, 3)
    say("db.run()", f"best customers: {', '.join(names)}")


# --- 4. Many tasks at once -------------------------------------------------------------


def slow_report() -> int:
    """Take a twentieth of a second, as a slow query would."""
    time.sleep(0.05)
    return Sale.select().count()


async def many_tasks(db: Any) -> None:
    step("4. Many tasks at once")
    start = time.perf_counter()
    for _ in range(10):
        await db.run(slow_report)
    say("in a row", f"10 slow reports take {time.perf_counter() - start:.2f} s")

    took, ticks = await at_once([db.run(slow_report) for _ in range(10)])
    say("at once", f"10 slow reports take {took:.2f} s")
    say("meanwhile", f"the event loop went on: a clock in it ticked {ticks} times")

    book = await Book.get(Book.title == "The Lathe of Heaven")
    took, _ = await at_once([sell(db, book, f"customer {n}") for n in range(100)])
    say("100 tasks", f"100 sales, each a transaction, take {took:.2f} s; {await stock(book)} copies left")


async def at_once(calls: list[Any]) -> tuple[float, int]:
    """Await each call in a task of its own, beside a clock; return the seconds and the clock's ticks."""
    ticks, start = 0, time.perf_counter()

    async def clock() -> None:
        nonlocal ticks
        while True:
            await anyio.sleep(0.01)
            ticks += 1

    async with anyio.create_task_group() as beside:
        beside.start_soon(clock)
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(aio, call)
        beside.cancel_scope.cancel()
    return time.perf_counter() - start, ticks


# --- 5. Streaming: many rows, little memory --------------------------------------------


async def streaming() -> None:
    step("5. Streaming")
    book = await Book.get(Book.title == "The Dispossessed")
    many = [{"book": book, "customer": f"reader {n}"} for n in range(10_000)]
    for first in range(0, len(many), 1000):
        await Sale.insert_many(many[first : first + 1000])
    seen = 0
    async for _ in Sale.select().where(Sale.customer.startswith("reader")).iterator():
        seen += 1
    say("streamed", f"{seen:,} rows, fetched in chunks, the next one while one is used")


# --- Setting up ------------------------------------------------------------------------


async def main(db: Any, loop: str) -> None:
    print(f"{type(db).__name__} on {loop}")
    db.bind(MODELS)  # or, when the database is known beforehand: class Meta: database = db
    async with db:
        await db.drop_tables(MODELS)  # what a run that was killed has left
        await db.create_tables(MODELS)
        try:
            await rows()
            await transactions(db)
            await plain_functions(db)
            await many_tasks(db)
            await streaming()
            print(f"\nThe pool at the end: {db!r}")
        finally:
            await db.drop_tables(MODELS)


def open_database(url: str) -> Any:
    scheme, _, path = url.partition("://")
    if scheme == "sqlite":
        return AsyncSqliteDatabase(path.removeprefix("/"))
    if scheme == "postgresql":
        return AsyncPostgresqlDatabase(url)
    raise SystemExit(f"expected sqlite:///path or postgresql://..., not {scheme}")


def step(title: str) -> None:
    print(f"\n{title}")


def say(what: str, text: str) -> None:
    print(f"   {what:<12} {text}")


def run() -> None:
    parser = argparse.ArgumentParser(description="A tour of async_peewee on a database of your choice.")
    parser.add_argument(
        "url", nargs="?", help="sqlite:///path or postgresql://...; default: a temporary file"
    )
    loops = parser.add_mutually_exclusive_group()
    loops.add_argument("--trio", action="store_const", dest="loop", const="trio", default="asyncio")
    loops.add_argument("--uvloop", action="store_const", dest="loop", const="uvloop")
    arguments = parser.parse_args()
    backend = "trio" if arguments.loop == "trio" else "asyncio"
    options = {"use_uvloop": True} if arguments.loop == "uvloop" else {}
    with tempfile.TemporaryDirectory() as directory:
        url = arguments.url or f"sqlite:///{Path(directory) / 'quickstart.db'}"
        # Which is asyncio.run() or trio.run(), as the arguments say.
        anyio.run(main, open_database(url), arguments.loop, backend=backend, backend_options=options)


if __name__ == "__main__":
    run()
