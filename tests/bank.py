"""A bank: accounts, a journal, and transfers that may fail on the way."""

from __future__ import annotations

import random
import uuid
from typing import Any

import peewee

from async_peewee import AsyncModel

ACCOUNTS = 10
BALANCE = 1000


class RandomError(Exception):
    """Raised in the middle of a transfer, by chance."""


class Bank:
    """Accounts whose balances always sum up to the same, and a journal of what was transferred."""

    def __init__(self, database: Any) -> None:
        class Account(AsyncModel):
            balance = peewee.IntegerField()

            class Meta:
                table_name = "account"

        class Transfer(AsyncModel):
            key = peewee.CharField(32, primary_key=True)
            amount = peewee.IntegerField()
            source = peewee.IntegerField(default=0)
            target = peewee.IntegerField(default=0)

            class Meta:
                table_name = "transfer"

        database.bind([Account, Transfer])
        self.database = database
        self.Account: Any = Account
        self.Transfer: Any = Transfer

    async def open(self) -> None:
        await self.database.create_tables([self.Account, self.Transfer])
        await self.Account.insert_many([{"balance": BALANCE} for _ in range(ACCOUNTS)])

    async def transfer(self, rng: random.Random) -> str:
        """Move an amount in one transaction and return its key; an error may come at three places."""
        key, amount = uuid.uuid4().hex, rng.randint(1, 50)
        # In the order of their ids: two transfers must not wait for each other's rows.
        source, target = sorted(rng.sample(range(1, ACCOUNTS + 1), 2))
        async with self.database.atomic():
            await self._add(source, -amount)
            fail_sometimes(rng)
            await self._add(target, amount)
            fail_sometimes(rng)
            await self.Transfer.create(key=key, amount=amount, source=source, target=target)
            fail_sometimes(rng)
        return key

    async def transfer_with_savepoint(self, rng: random.Random) -> str:
        """Like transfer(), after a first attempt in a savepoint that is always undone."""
        async with self.database.atomic():
            try:
                async with self.database.atomic():
                    await self._add(1, 1_000_000)
                    raise RandomError
            except RandomError:
                pass
            return await self.transfer(rng)

    async def _add(self, account: int, amount: int) -> None:
        Account = self.Account
        await Account.update(balance=Account.balance + amount).where(Account.id == account)

    async def total(self) -> int:
        return int(await self.Account.select(peewee.fn.SUM(self.Account.balance)).scalar())

    async def keys(self) -> list[str]:
        return [row.key async for row in self.Transfer.select()]

    async def check(self, acknowledged: list[str]) -> None:
        """Fail unless the sum is exact, every acknowledged transfer is there, and each balance is right."""
        assert await self.total() == ACCOUNTS * BALANCE
        journal = list(await self.Transfer.select())
        assert set(acknowledged) <= {row.key for row in journal}
        expected = dict.fromkeys(range(1, ACCOUNTS + 1), BALANCE)
        for row in journal:
            expected[row.source] -= row.amount
            expected[row.target] += row.amount
        assert {row.id: row.balance for row in await self.Account.select()} == expected


def fail_sometimes(rng: random.Random) -> None:
    if rng.random() < 0.1:
        raise RandomError
