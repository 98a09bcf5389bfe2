"""Peewee's own playhouse.pwasyncio, with a connection held by each task or taken for each call."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from playhouse.pwasyncio import AsyncModel, AsyncPostgresqlDatabase, AsyncSqliteDatabase

from benchmarks.contenders.base import BUSY_SECONDS, PRAGMAS, Contender
from benchmarks.schema import make_models, slow_query


class Held(Contender):
    def call(self) -> AbstractAsyncContextManager[Any]:
        """Return what is around each call."""
        return nullcontext()

    def client(self) -> AbstractAsyncContextManager[Any]:
        return self.db

    def make_writer(self) -> AbstractAsyncContextManager[Any]:
        """Return what is around a transaction: SQLite's own wait for a writer is a sleep that grows."""
        return asyncio.Lock() if self.is_sqlite else nullcontext()

    async def open(self) -> None:
        size = {"pool_size": self.pool_size, "acquire_timeout": BUSY_SECONDS}
        if self.is_sqlite:
            path = self.address["path"]
            self.db = AsyncSqliteDatabase(path, pragmas=PRAGMAS, timeout=BUSY_SECONDS, **size)
        else:
            self.db = AsyncPostgresqlDatabase(**self.address, **size)
        self.models = make_models(AsyncModel, self.db)
        self.writer = self.make_writer()

    async def close(self) -> None:
        await self.db.close_pool()

    async def get(self, key: int) -> Any:
        async with self.call():
            return await self.models.Item.aget_by_id(key)

    async def create(self, name: str, number: int) -> None:
        async with self.call():
            await self.models.Created.acreate(name=name, number=number)

    async def list(self, limit: int) -> Any:
        async with self.call():
            return await self.db.list(self.models.Item.select().limit(limit))

    async def atomic(self, key: int) -> None:
        async with self.call(), self.writer, self.db.atomic(*self.begin):
            counter = await self.models.Counter.aget_by_id(key)
            counter.number += 1
            await counter.asave()

    async def run(self, key: int) -> None:
        async with self.call(), self.writer:
            await self.db.run(self.count, key)

    async def slow(self) -> int:
        async with self.call():
            return await self.db.scalar(slow_query(self.models.Item))

    def stream(self) -> Any:
        return self.db.iterate(self.models.Row.select(), buffer_size=1_000)


class PerCall(Held):
    """As its manual shows it."""

    def make_writer(self) -> AbstractAsyncContextManager[Any]:
        return nullcontext()

    def call(self) -> AbstractAsyncContextManager[Any]:
        return self.db

    def client(self) -> AbstractAsyncContextManager[Any]:
        return nullcontext()
