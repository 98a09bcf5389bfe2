"""Plain synchronous Peewee, a connection for each thread."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import peewee

from benchmarks.contenders.base import BUSY_SECONDS, PRAGMAS, Contender
from benchmarks.schema import make_models, slow_query


class Plain(Contender):
    is_synchronous = True

    async def open(self) -> None:
        if self.is_sqlite:
            self.db = peewee.SqliteDatabase(self.address["path"], pragmas=PRAGMAS, timeout=BUSY_SECONDS)
        else:
            use_psycopg3 = self.driver == "psycopg3"
            self.db = peewee.PostgresqlDatabase(**self.address, prefer_psycopg3=use_psycopg3)
        self.models = make_models(peewee.Model, self.db)
        # SQLite's own wait for another writer is a sleep that grows.
        self.writer = threading.Lock() if self.is_sqlite else nullcontext()

    async def leave(self) -> None:
        self.db.close()

    async def close(self) -> None:
        self.db.close()

    async def get(self, key: int) -> Any:
        return self.models.Item.get_by_id(key)

    async def create(self, name: str, number: int) -> None:
        self.models.Created.create(name=name, number=number)

    async def list(self, limit: int) -> Any:
        return list(self.models.Item.select().limit(limit))

    async def atomic(self, key: int) -> None:
        with self.writer:
            self.count(key)

    run = atomic

    async def slow(self) -> int:
        return slow_query(self.models.Item).scalar()

    def stream(self) -> Any:
        return self.models.Row.select().iterator()
