"""playhouse.signals: handlers run where Peewee runs them, which is on the worker, in the transaction."""

from __future__ import annotations

from typing import Any

import peewee
import pytest
from playhouse import signals

from async_peewee import AsyncModel


@pytest.fixture
async def noisy(db: Any) -> Any:
    """Return a model with signals, its table created."""

    class Noisy(signals.Model, AsyncModel):
        name = peewee.TextField()

        class Meta:
            pass

    Noisy._meta.database = db  # type: ignore[attr-defined]
    await db.create_tables([Noisy])
    return Noisy


async def test_every_signal_is_sent(noisy: Any) -> None:
    """Around awaited calls the handlers use the database like any synchronous code."""
    heard: list[Any] = []
    for name in ("pre_init", "pre_save", "post_save", "pre_delete", "post_delete"):

        def handler(sender: Any, instance: Any, created: Any = None, name: str = name) -> None:
            heard.append((name, created, None if name == "pre_init" else sender.select().count()))

        getattr(signals, name).connect(handler, sender=noisy)
    row = await noisy.create(name="a")
    row.name = "b"
    await row.save()
    assert await row.delete_instance() == 1
    assert heard == [
        *(("pre_init", None, None), ("pre_save", True, 0), ("post_save", True, 1)),
        *(("pre_save", False, 1), ("post_save", False, 1)),
        *(("pre_delete", None, 1), ("post_delete", None, 0)),
    ]


async def test_a_handler_that_raises_ends_the_transaction(noisy: Any) -> None:
    """Its error arrives where the call is awaited; what it wrote is rolled back with the block."""

    @signals.post_save(sender=noisy)
    def refuse(sender: Any, instance: Any, created: bool) -> None:
        sender.insert(name="a note about it").execute()
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        async with noisy._meta.database.atomic():
            await noisy.create(name="a")
    assert await noisy.select().count() == 0
