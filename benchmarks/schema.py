"""The tables that everybody works on, as models on any base class."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import peewee

ITEMS = 2_000
COUNTERS = 1_000
STREAM_ROWS = 1_000_000

# So many rows compared with one another take SQLite about 14 ms.
SLOW_ROWS = 460

CREATE_TABLES = (
    "CREATE TABLE bench_item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, number INTEGER NOT NULL)",
    "CREATE TABLE bench_counter (id INTEGER PRIMARY KEY, number INTEGER NOT NULL)",
    "CREATE TABLE bench_row (id INTEGER PRIMARY KEY, name TEXT NOT NULL, number INTEGER NOT NULL)",
)
CREATED_TABLE = "CREATE TABLE bench_created (id {serial}, name TEXT NOT NULL, number INTEGER NOT NULL)"
FILL_TABLES = (
    f"INSERT INTO bench_item SELECT i, 'item ' || i, i FROM {{series}} WHERE i <= {ITEMS}",
    f"INSERT INTO bench_counter SELECT i, 0 FROM {{series}} WHERE i <= {COUNTERS}",
    "INSERT INTO bench_row SELECT i, 'row ' || i, i FROM {series}",
)


def make_models(base: Any, database: Any = None, **options: Any) -> Any:
    """Return the models Item, Counter, Row and Created, derived from a library's own base class."""

    def meta(table: str) -> type:
        own = {"table_name": table, **options}
        return type("Meta", (), own if database is None else {"database": database, **own})

    class Item(base):
        name = peewee.TextField()
        number = peewee.IntegerField()
        Meta = meta("bench_item")

    class Counter(base):
        number = peewee.IntegerField()
        Meta = meta("bench_counter")

    class Row(base):
        name = peewee.TextField()
        number = peewee.IntegerField()
        Meta = meta("bench_row")

    class Created(base):
        name = peewee.TextField()
        number = peewee.IntegerField()
        Meta = meta("bench_created")

    return SimpleNamespace(Item=Item, Counter=Counter, Row=Row, Created=Created)


def slow_query(Item: Any) -> Any:
    """Return a query that the database works on for a while and that answers with one number."""
    Other = Item.alias()
    pairs = Item.select(peewee.fn.COUNT(Item.id)).join(Other, on=(Item.number < Other.number))
    return pairs.where(Item.id <= SLOW_ROWS, Other.id <= SLOW_ROWS)


SLOW_ANSWER = SLOW_ROWS * (SLOW_ROWS - 1) // 2
