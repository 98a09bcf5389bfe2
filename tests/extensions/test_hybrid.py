"""playhouse.hybrid: Python on an instance, SQL in a query."""

from __future__ import annotations

from typing import Any

import peewee
from playhouse.hybrid import hybrid_method, hybrid_property

from async_peewee import AsyncModel


async def test_hybrid_properties_and_methods(db: Any) -> None:
    """Instances answer without I/O; in an awaited query the same names are SQL, through joins too."""

    class Interval(AsyncModel):
        start = peewee.IntegerField()
        end = peewee.IntegerField()

        class Meta:
            table_name = "intervals"

        @hybrid_property
        def length(self) -> Any:
            return self.end - self.start

        @hybrid_property
        def radius(self) -> Any:
            return abs(self.length) / 2

        @radius.expression
        def radius(cls) -> Any:  # noqa: N805
            return peewee.fn.abs(cls.length) / 2

        @length.setter
        def length(self, value: int) -> None:
            self.end = self.start + value

        @hybrid_method
        def contains(self, point: int) -> Any:
            return (self.start <= point) & (point < self.end)

    Interval._meta.database = db  # type: ignore[attr-defined]
    await db.create_tables([Interval])
    short = await Interval.create(start=1, end=3)
    await Interval.create(start=0, end=10)
    assert (short.length, short.radius, short.contains(2)) == (2, 1.0, True)
    short.length = 4
    await short.save()
    assert await Interval.get(Interval.length == 4) == short
    query = Interval.select().where(Interval.contains(7)).order_by(Interval.radius)
    assert [row.end async for row in query] == [10]
    assert await Interval.select(peewee.fn.sum(Interval.length)).scalar() == 14
    Alias = Interval.alias()
    wider = Interval.select(Alias.length).join(Alias, on=Alias.length > Interval.length)
    assert await wider.scalar() == 10
