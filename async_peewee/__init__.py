"""Peewee on asyncio and trio: Peewee's own names, awaited."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from ._calls import PendingCall as PendingCall
from ._calls import aio as aio
from ._contexts import SharedConnection as SharedConnection
from ._database import AsyncDatabase as AsyncDatabase
from ._databases import AsyncMySQLDatabase as AsyncMySQLDatabase
from ._databases import AsyncPostgresqlDatabase as AsyncPostgresqlDatabase
from ._databases import AsyncSqliteDatabase as AsyncSqliteDatabase
from ._dual import blocking as blocking
from ._errors import BlockingCallError as BlockingCallError
from ._errors import ConfigurationError as ConfigurationError
from ._errors import PoolClosed as PoolClosed
from ._errors import PoolFull as PoolFull
from ._errors import PoolTimeout as PoolTimeout
from ._errors import TransactionFinished as TransactionFinished
from ._models import AsyncModel as AsyncModel
from ._prefetch import prefetch as prefetch
from ._proxy import AsyncDatabaseProxy as AsyncDatabaseProxy
from ._queries import AsyncTable as AsyncTable
from ._stats import PoolStats as PoolStats
from ._urls import connect as connect

if TYPE_CHECKING:  # made when they are asked for, since each needs a driver of its own
    from ._typed_optional import AsyncAPSWDatabase as AsyncAPSWDatabase
    from ._typed_optional import AsyncCockroachDatabase as AsyncCockroachDatabase
    from ._typed_optional import AsyncCySqliteDatabase as AsyncCySqliteDatabase
    from ._typed_optional import AsyncMariaDBConnectorDatabase as AsyncMariaDBConnectorDatabase
    from ._typed_optional import AsyncMySQLConnectorDatabase as AsyncMySQLConnectorDatabase
    from ._typed_optional import AsyncSqlCipherDatabase as AsyncSqlCipherDatabase
else:
    from ._optional import optional_class as __getattr__  # noqa: F401  # Python calls it

if TYPE_CHECKING:  # names for annotations; when the program runs, Peewee makes the classes as it goes
    from ._typed_queries import AsyncManyToManyQuery as AsyncManyToManyQuery
    from ._typed_queries import AsyncModelSelect as AsyncModelSelect
    from ._typing import Rows as Rows

__all__ = [
    "AsyncDatabase",
    "AsyncDatabaseProxy",
    "AsyncModel",
    "AsyncMySQLDatabase",
    "AsyncPostgresqlDatabase",
    "AsyncSqliteDatabase",
    "AsyncTable",
    "BlockingCallError",
    "ConfigurationError",
    "PendingCall",
    "PoolClosed",
    "PoolFull",
    "PoolStats",
    "PoolTimeout",
    "SharedConnection",
    "TransactionFinished",
    "aio",
    "blocking",
    "connect",
    "prefetch",
]

try:
    __version__ = version("async-peewee")
except PackageNotFoundError:  # imported from a checkout that is not installed
    __version__ = "0"
