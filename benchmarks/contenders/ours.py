"""This library."""

from __future__ import annotations

from typing import Any

from async_peewee import AsyncModel, AsyncPostgresqlDatabase, AsyncSqliteDatabase
from benchmarks.contenders.base import BUSY_SECONDS, PRAGMAS, Contender
from benchmarks.schema import make_models, slow_query


class Ours(Contender):
    def make(self) -> None:
        size = {"pool_size": self.pool_size, "acquire_timeout": BUSY_SECONDS}
        if self.is_sqlite:
            path = self.address["path"]
            self.db = AsyncSqliteDatabase(path, pragmas=PRAGMAS, timeout=BUSY_SECONDS, **size)
        else:
            use_psycopg3 = self.driver == "psycopg3"
            self.db = AsyncPostgresqlDatabase(**self.address, prefer_psycopg3=use_psycopg3, **size)
        self.models = make_models(AsyncModel, self.db)

    async def open(self) -> None:
        self.make()
        await self.db.connect()

    async def close(self) -> None:
        await self.db.close()

    async def get(self, key: int) -> Any:
        return await self.models.Item.get_by_id(key)

    async def create(self, name: str, number: int) -> None:
        await self.models.Created.create(name=name, number=number)

    async def list(self, limit: int) -> Any:
        return await self.models.Item.select().limit(limit)

    async def atomic(self, key: int) -> None:
        async with self.db.atomic(*self.begin):
            counter = await self.models.Counter.get_by_id(key)
            counter.number += 1
            await counter.save()

    async def run(self, key: int) -> None:
        await self.db.run(self.count, key)

    async def slow(self) -> int:
        return await slow_query(self.models.Item).scalar()

    def stream(self) -> Any:
        return self.models.Row.select().iterator()
