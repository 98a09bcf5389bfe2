"""One owner for each connection: no two blocks are given the same, however streams were left."""

from __future__ import annotations

import random
import threading
from typing import Any

import anyio
from peewee import IntegerField, fn

from async_peewee import AsyncModel
from tests.numbers import Numbers
from tests.support import Maker

POOL = 4


async def test_open_blocks_have_a_connection_each_after_streams_left_by_break(make_database: Maker) -> None:
    """Six times eight streams are dropped in their second chunk; then four blocks are open at once."""
    database = make_database(pool_size=POOL, acquire_timeout=10)
    numbers = Numbers(database)

    async def read_a_part() -> None:
        taken = 0
        async for _ in numbers.stream():
            taken += 1
            if taken > 150:
                break

    workers: list[Any] = []
    all_in = anyio.Event()

    async def block() -> None:
        async with database.connection_context():
            workers.append(await database.run(_worker_name))
            if len(workers) == POOL:
                all_in.set()
            await all_in.wait()

    async with database:
        await numbers.create(1000)
        for _ in range(6):
            async with anyio.create_task_group() as readers:
                for _ in range(8):
                    readers.start_soon(read_a_part)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as blocks:
                for _ in range(POOL):
                    blocks.start_soon(block)
        stats = database.stats()
    assert len(set(workers)) == POOL
    assert stats.idle <= stats.workers <= POOL


def _worker_name() -> str:
    return threading.current_thread().name


async def test_no_transfer_fails_and_the_sum_stays_beside_streams_left_by_break(make_database: Maker) -> None:
    """Five tasks move money two hundred times beside five that leave streams in the middle."""
    database = make_database(pool_size=POOL)

    class Account(AsyncModel):
        balance = IntegerField()

    database.bind([Account])
    accounts, is_over = 300, False

    async def read_a_part(rng: random.Random) -> None:
        while not is_over:
            left = rng.randint(101, 280)
            async for _ in Account.select().iterator():
                left -= 1
                if left < 0:
                    break

    async def move(rng: random.Random) -> None:
        for _ in range(25):
            giver, taker = sorted(rng.sample(range(1, accounts + 1), 2))
            async with database.atomic():
                await Account.update(balance=Account.balance - 1).where(Account.id == giver)
                await Account.update(balance=Account.balance + 1).where(Account.id == taker)

    async with database:
        await Account.create_table()
        await Account.insert_many([{"balance": 100} for _ in range(accounts)])
        async with anyio.create_task_group() as readers:
            for number in range(5):
                readers.start_soon(read_a_part, random.Random(number))
            async with anyio.create_task_group() as movers:
                for number in range(5):
                    movers.start_soon(move, random.Random(100 + number))
            is_over = True
        assert await Account.select(fn.SUM(Account.balance)).scalar() == 100 * accounts
