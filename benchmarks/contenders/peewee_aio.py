"""peewee-aio: a connection held by each task, asyncpg's pool on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from peewee_aio import AIOModel, Manager

from benchmarks.contenders.base import BUSY_SECONDS, PRAGMAS, Contender
from benchmarks.schema import make_models, slow_query


class PeeweeAio(Contender):
    async def open(self) -> None:
        if self.is_sqlite:
            pragmas = tuple(PRAGMAS.items())
            url = f"aiosqlite://{self.address['path']}"
            self.manager = Manager(url, pragmas=pragmas, timeout=BUSY_SECONDS)
        else:
            self.manager = Manager(self.url("asyncpg+pool"), min_size=1, max_size=self.pool_size)
        self.models = make_models(AIOModel)
        for model in vars(self.models).values():
            self.manager.register(model)
        # On SQLite it has no pool, and begins in a way that cannot wait for a writer.
        self.slots = asyncio.Semaphore(self.pool_size)
        self.writer = asyncio.Lock()
        await self.manager.connect()

    async def close(self) -> None:
        await self.manager.disconnect()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        async with self.slots, self.manager.connection():
            yield

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        if not self.is_sqlite:
            async with self.manager.transaction():
                yield
            return
        async with self.writer, self.manager.transaction():
            yield

    async def get(self, key: int) -> Any:
        return await self.models.Item.get_by_id(key)

    async def create(self, name: str, number: int) -> None:
        await self.models.Created.create(name=name, number=number)

    async def list(self, limit: int) -> Any:
        return await self.models.Item.select().limit(limit)

    async def atomic(self, key: int) -> None:
        async with self.writing():
            counter = await self.models.Counter.get_by_id(key)
            counter.number += 1
            await counter.save()

    async def slow(self) -> int:
        return await self.manager.fetchval(slow_query(self.models.Item))

    def stream(self) -> Any:
        return aiter(self.models.Row.select())
