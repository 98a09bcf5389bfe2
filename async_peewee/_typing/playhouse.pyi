"""What type checkers are told of the classes that _optional makes, beside its own file."""

# playhouse has no types: the bases here are what the bases of its classes are.
# mypy: disable-error-code="misc, override"

from collections.abc import Callable
from typing import Any, TypeVar

import peewee

from .._orm.database import AsyncDatabase
from .backends import TypedPostgresql, TypedSqlite
from .results import DualAny, DualBool, DualValue

T = TypeVar("T")

class AsyncAPSWDatabase(TypedSqlite): ...

class AsyncCySqliteDatabase(TypedSqlite):
    def backup(self, destination: object, *args: Any, **kwargs: Any) -> DualAny: ...
    def backup_to_file(self, filename: str, *args: Any, **kwargs: Any) -> DualAny: ...

class AsyncSqlCipherDatabase(TypedSqlite):
    def rekey(self, passphrase: str) -> DualBool: ...

class AsyncMySQLConnectorDatabase(AsyncDatabase, peewee.MySQLDatabase): ...
class AsyncMariaDBConnectorDatabase(AsyncDatabase, peewee.MySQLDatabase): ...

class AsyncCockroachDatabase(TypedPostgresql):
    def run_transaction(
        self,
        cb: Callable[[Any], T],
        max_attempts: int | None = None,
        system_time: object = None,
        priority: str | None = None,
    ) -> DualValue[T]: ...
    def retry_transaction(
        self, max_attempts: int | None = None, system_time: object = None, priority: str | None = None
    ) -> Callable[[Callable[[Any], T]], Callable[[], DualValue[T]]]: ...
