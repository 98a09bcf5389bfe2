"""playhouse.fields: values are converted where the query runs."""

from __future__ import annotations

from typing import Any

from playhouse.fields import CompressedField, PickleField

from async_peewee import AsyncModel


async def test_compressed_and_pickled_fields(db: Any) -> None:
    class Box(AsyncModel):
        text = CompressedField()
        thing = PickleField()

        class Meta:
            table_name = "boxes"

    Box._meta.database = db  # type: ignore[attr-defined]
    await db.create_tables([Box])
    thing = {"a": [1, (2, 3)], "b": {4}}
    box = await Box.create(text=b"meow" * 1000, thing=thing)
    assert (await Box[box.id]).text == b"meow" * 1000
    assert [box.thing async for box in Box.select().iterator()] == [thing]
