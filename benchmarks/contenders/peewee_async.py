"""peewee-async: a connection held by each task, psycopg 3's pool on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import peewee_async

from benchmarks.contenders.base import BUSY_SECONDS, PRAGMAS, Contender
from benchmarks.schema import make_models, slow_query


class PeeweeAsync(Contender):
    async def open(self) -> None:
        if self.is_sqlite:
            self.db: Any = peewee_async.SqliteDatabase(
                self.address["path"], pool_params={"timeout": BUSY_SECONDS}
            )
        else:
            size = {"min_size": 1, "max_size": self.pool_size, "timeout": BUSY_SECONDS}
            self.db = peewee_async.Psycopg3Database(**self.address, pool_params=size)
        self.models = make_models(peewee_async.AioModel, self.db)
        # On SQLite it has no pool, sets no pragmas, and begins in a way that cannot wait for a writer.
        self.slots = asyncio.Semaphore(self.pool_size)
        self.writer = asyncio.Lock()
        await self.db.aio_connect()

    async def close(self) -> None:
        await self.db.aio_close()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        async with self.slots, self.db.aio_connection():
            if self.is_sqlite:
                await self.db.aio_execute_sql(f"PRAGMA synchronous={PRAGMAS['synchronous']}")
            yield

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        if not self.is_sqlite:
            async with self.db.aio_atomic():
                yield
            return
        async with self.writer, self.db.aio_atomic():
            yield

    async def get(self, key: int) -> Any:
        return await self.models.Item.aio_get(self.models.Item.id == key)

    async def create(self, name: str, number: int) -> None:
        await self.models.Created.aio_create(name=name, number=number)

    async def list(self, limit: int) -> Any:
        return await self.models.Item.select().limit(limit).aio_execute()

    async def atomic(self, key: int) -> None:
        async with self.writing():
            counter = await self.models.Counter.aio_get(self.models.Counter.id == key)
            counter.number += 1
            await counter.aio_save()

    async def slow(self) -> int:
        return await slow_query(self.models.Item).aio_scalar()
