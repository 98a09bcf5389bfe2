"""A table of numbers, and a stream of them."""

from __future__ import annotations

from typing import Any

import peewee

from async_peewee import AsyncModel, AsyncMySQLDatabase


class Numbers:
    """A table of the numbers from 0, made by the database itself."""

    def __init__(self, database: Any) -> None:
        class Number(AsyncModel):
            value = peewee.IntegerField(primary_key=True)

            class Meta:
                table_name = "number"

        database.bind([Number])
        self.database = database
        self.Number: Any = Number

    async def create(self, count: int) -> None:
        await self.Number.create_table()
        if isinstance(self.database, AsyncMySQLDatabase):
            if count:
                sequence = f"seq_0_to_{count - 1}"
                await self.database.execute_sql(f"INSERT INTO number SELECT seq FROM {sequence}")
            return
        await self.database.execute_sql(
            "INSERT INTO number WITH RECURSIVE n(i) AS "
            f"(SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count}) "
            f"SELECT i FROM n WHERE i < {count}"
        )

    def stream(self) -> Any:
        return self.Number.select().order_by(self.Number.value).iterator()
