"""AsyncDatabaseProxy: it stands for a database that is chosen when the program runs."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

import peewee

from ._blocks import Blocks
from ._errors import ConfigurationError
from ._models import AsyncModel

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._typed_proxy import TypedProxy
else:

    class TypedProxy(Blocks, peewee.DatabaseProxy):
        """Peewee's proxy, with our blocks in the place of its plain ones."""


class AsyncDatabaseProxy(TypedProxy):
    """Stand for an asynchronous database that is chosen later.

        proxy = AsyncDatabaseProxy()        # Meta.database = proxy, @proxy.atomic()
        proxy.initialize(AsyncSqliteDatabase("app.db"))
        async with proxy: ...               # and whatever else the database can do

    Before `initialize()` models and decorators can be made of it; use raises ConfigurationError.
    """

    def __getattr__(self, name: str) -> Any:
        # Names with an underscore are asked for by copy, debuggers and the like.
        if not name.startswith("_"):
            self._require(name)
        return super().__getattr__(name)

    def _require(self, name: str) -> Any:
        if self.obj is None:
            raise ConfigurationError(
                f"the database proxy stands for nothing yet, and {name} was asked of it; "
                "write first: proxy.initialize(AsyncSqliteDatabase(...))"
            )
        return self.obj

    async def __aenter__(self) -> Self:
        """Open the pool of the database, as `async with` of the database itself does."""
        await self._require("async with").__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.obj.__aexit__(kind, error, trace)

    @property
    def Model(self) -> Any:  # noqa: N802  # Peewee's name
        """The base class of models on this proxy."""
        if not hasattr(self, "_Model"):
            self._Model = type("BaseModel", (AsyncModel,), {"Meta": type("Meta", (), {"database": self})})
        return self._Model
