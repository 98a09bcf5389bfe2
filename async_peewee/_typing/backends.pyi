"""What type checkers are told of what only some databases have; no part of it is there at run time."""

# A dual method returns something to await where Peewee's returns None.
# mypy: disable-error-code="override, misc"

from typing import Any

import peewee

from .._orm.database import AsyncDatabase
from .results import DualAny, DualBool, DualValue

class TypedSqlite(AsyncDatabase, peewee.SqliteDatabase):
    def pragma(
        self, key: str, value: object = ..., permanent: bool = False, schema: str | None = None
    ) -> DualAny: ...
    def attach(self, filename: str, name: str) -> DualBool: ...
    def detach(self, name: str) -> DualBool: ...
    def load_extension(self, extension: str) -> DualValue[None]: ...

class TypedPostgresql(AsyncDatabase, peewee.PostgresqlDatabase):
    def set_time_zone(self, timezone: Any) -> DualValue[None]: ...
