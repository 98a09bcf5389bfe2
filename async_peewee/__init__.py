"""Peewee on asyncio and trio: Peewee's own names, awaited."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from . import _public
from ._bridge.calls import PendingCall as PendingCall
from ._bridge.calls import aio as aio
from ._bridge.connections import SharedConnection as SharedConnection
from ._bridge.dual import blocking as blocking
from ._errors import BlockingCallError as BlockingCallError
from ._errors import ConfigurationError as ConfigurationError
from ._errors import OutsideTransactionWarning as OutsideTransactionWarning
from ._errors import PoolClosed as PoolClosed
from ._errors import PoolFull as PoolFull
from ._errors import PoolTimeout as PoolTimeout
from ._errors import TransactionFinished as TransactionFinished
from ._orm.database import AsyncDatabase as AsyncDatabase
from ._orm.database import AsyncDatabaseProxy as AsyncDatabaseProxy
from ._orm.database import AsyncMySQLDatabase as AsyncMySQLDatabase
from ._orm.database import AsyncPostgresqlDatabase as AsyncPostgresqlDatabase
from ._orm.database import AsyncSqliteDatabase as AsyncSqliteDatabase
from ._orm.models import AsyncModel as AsyncModel
from ._orm.queries import AsyncManyToManyQuery as AsyncManyToManyQuery
from ._orm.queries import AsyncModelSelect as AsyncModelSelect
from ._orm.queries import AsyncTable as AsyncTable
from ._orm.queries import prefetch as prefetch
from ._orm.shortcuts import model_to_dict as model_to_dict
from ._orm.urls import connect as connect
from ._pool.pool import PoolStats as PoolStats
from ._typing.results import Rows as Rows

if TYPE_CHECKING:  # made when they are asked for, since each needs a driver of its own
    from ._typing.playhouse import AsyncAPSWDatabase as AsyncAPSWDatabase
    from ._typing.playhouse import AsyncCockroachDatabase as AsyncCockroachDatabase
    from ._typing.playhouse import AsyncCySqliteDatabase as AsyncCySqliteDatabase
    from ._typing.playhouse import AsyncMariaDBConnectorDatabase as AsyncMariaDBConnectorDatabase
    from ._typing.playhouse import AsyncMySQLConnectorDatabase as AsyncMySQLConnectorDatabase
    from ._typing.playhouse import AsyncSqlCipherDatabase as AsyncSqlCipherDatabase
else:
    from ._orm.playhouse import optional_class as __getattr__  # noqa: F401  # Python calls it

__all__ = [
    "AsyncDatabase",
    "AsyncDatabaseProxy",
    "AsyncManyToManyQuery",
    "AsyncModel",
    "AsyncModelSelect",
    "AsyncMySQLDatabase",
    "AsyncPostgresqlDatabase",
    "AsyncSqliteDatabase",
    "AsyncTable",
    "BlockingCallError",
    "ConfigurationError",
    "OutsideTransactionWarning",
    "PendingCall",
    "PoolClosed",
    "PoolFull",
    "PoolStats",
    "PoolTimeout",
    "Rows",
    "SharedConnection",
    "TransactionFinished",
    "aio",
    "blocking",
    "connect",
    "model_to_dict",
    "prefetch",
]


_public.name_module(globals())

try:
    __version__ = version("async-peewee")
except PackageNotFoundError:  # imported from a checkout that is not installed
    __version__ = "0"
