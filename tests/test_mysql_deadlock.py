"""A deadlock: MySQL rolls the whole transaction back, and says so in an error only."""

from __future__ import annotations

from typing import Any

import anyio
import peewee
import pytest

from tests.kinds import ALL, IMPORTABLE
from tests.support import Maker, Models

MYSQL = [kind for kind in IMPORTABLE if ALL[kind].family == "mysql"]


@pytest.mark.parametrize("make_any", MYSQL, indirect=True)
async def test_the_block_of_a_deadlocks_victim_is_dead(make_any: Maker) -> None:
    """What it goes on to write would be committed at once; it is refused, and nothing of the block stays."""
    async with make_any(pool_size=3) as database:
        models = Models(database)
        await database.create_tables(models.all)
        # By their keys: an UPDATE that scans the table would lock all of it.
        keys = {name: (await models.User.create(name=name)).id for name in ("a", "b")}
        has_first = {"a": anyio.Event(), "b": anyio.Event()}
        victims: list[Any] = []

        async def lock(first: str, second: str) -> None:
            User = models.User
            try:
                async with database.atomic():
                    await User.update(age=1).where(User.id == keys[first]).execute()
                    has_first[first].set()
                    await has_first[second].wait()
                    await cross(first, second)
            except peewee.DatabaseError as error:
                victims.append((first, error))

        async def cross(first: str, second: str) -> None:
            User = models.User
            try:
                await User.update(age=2).where(User.id == keys[second]).execute()
            except peewee.DatabaseError as error:
                victims.append((first, error))
                await User.update(age=9).where(User.id == keys[first]).execute()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(lock, "a", "b")
                group.start_soon(lock, "b", "a")
        (victim, deadlock), (same, refusal) = victims
        assert victim == same
        assert "eadlock" in str(deadlock)
        assert "already rolled back" in str(refusal)
        ages = {user.name: user.age for user in await models.User.select()}
        winner = "b" if victim == "a" else "a"
        assert ages == {winner: 1, victim: 2}  # all the winner's; the victim's own 1 and 9 are gone
        async with database.atomic():  # on the victim's connection too the next block is sound
            await models.User.create(name="next")
        assert await models.User.select().count() == 3
