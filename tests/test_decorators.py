"""Blocks as decorators of functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from async_peewee import AsyncSqliteDatabase
from tests.support import Models


async def test_decorated_functions_run_in_a_block_of_their_own(models: Models) -> None:
    """`async def` runs on the loop inside the block, `def` on a worker together with its block."""
    database, User = models.database, models.User

    @database.atomic()
    async def on_the_loop(name: str, *, fail: bool = False) -> str:
        assert database.in_transaction()
        await User.create(name=name)
        if fail:
            raise ValueError(name)
        return name

    @database.atomic()
    def on_a_worker(name: str, *, fail: bool = False) -> str:
        User.create(name=name)
        if fail:
            raise ValueError(name)
        return name

    for function in (on_the_loop, on_a_worker):
        prefix = function.__name__
        assert await function(prefix) == prefix
        with pytest.raises(ValueError, match="undone"):
            await function(f"{prefix} undone", fail=True)
    assert {user.name for user in await User.select()} == {"on_a_worker", "on_the_loop"}


def test_generators_cannot_be_decorated(tmp_path: Path) -> None:
    """Their block would stay open between two values."""
    database = AsyncSqliteDatabase(tmp_path / "test.db")

    async def values() -> Any:
        yield 1

    with pytest.raises(TypeError, match="generator"):
        database.atomic()(values)
