"""Transfers between accounts by many tasks at once: the sum stays, and nothing is lost or doubled."""

from __future__ import annotations

import random

import anyio
import pytest

from tests.bank import Bank, RandomError
from tests.support import Maker, wait_until

TASKS = 200
POOL = 4


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_sum_stays_and_every_acknowledged_transfer_is_there_once(
    make_database: Maker, seed: int
) -> None:
    """200 tasks on a pool of 4 with random errors: exact sum, exact journal, at most 4 connections."""
    database = make_database(pool_size=POOL)
    bank = Bank(database)
    server = make_database.server
    acknowledged: list[str] = []
    connections: list[int] = []

    async def client(number: int) -> None:
        rng = random.Random(seed * 1000 + number)
        try:
            acknowledged.append(await bank.transfer(rng))
        except RandomError:
            pass
        connections.append(database.stats().workers if server is None else len(server.backends()))

    async with database:
        await bank.open()
        async with anyio.create_task_group() as group:
            for number in range(TASKS):
                group.start_soon(client, number)
        await bank.check(acknowledged)
        # Without cancellations there is nothing that was committed and not acknowledged.
        assert sorted(await bank.keys()) == sorted(acknowledged)
        assert 0 < len(acknowledged) < TASKS
        assert max(connections) <= POOL
        assert database.stats().leased == 0
    if server is not None:  # a backend notices a moment later that its client has gone
        await wait_until(lambda: server.backends() == [])
