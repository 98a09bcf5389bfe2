"""What type checkers are told of the classes that _optional makes, beside its own file."""

# mypy: disable-error-code="misc, override"

from collections.abc import Callable
from typing import Any, TypeVar

from playhouse.apsw_ext import APSWDatabase
from playhouse.cockroachdb import CockroachDatabase
from playhouse.cysqlite_ext import CySqliteDatabase
from playhouse.mysql_ext import MariaDBConnectorDatabase, MySQLConnectorDatabase
from playhouse.sqlcipher_ext import SqlCipherDatabase

from ._database import AsyncDatabase
from ._typing import DualValue

T = TypeVar("T")

class AsyncAPSWDatabase(AsyncDatabase, APSWDatabase): ...

class AsyncCySqliteDatabase(AsyncDatabase, CySqliteDatabase):
    def backup(self, destination: object, *args: Any, **kwargs: Any) -> DualValue[Any]: ...
    def backup_to_file(self, filename: str, *args: Any, **kwargs: Any) -> DualValue[Any]: ...

class AsyncSqlCipherDatabase(AsyncDatabase, SqlCipherDatabase):
    def rekey(self, passphrase: str) -> DualValue[bool]: ...

class AsyncMySQLConnectorDatabase(AsyncDatabase, MySQLConnectorDatabase): ...
class AsyncMariaDBConnectorDatabase(AsyncDatabase, MariaDBConnectorDatabase): ...

class AsyncCockroachDatabase(AsyncDatabase, CockroachDatabase):
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
