"""What every contender implements, and what is needed to open its database."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any
from urllib.parse import quote

# For everybody on SQLite, as far as a library can be told.
PRAGMAS = {"journal_mode": "wal", "synchronous": "normal"}
BUSY_SECONDS = 60


class Contender:
    """One library in its best form. Nothing is opened before `open()`."""

    # Plain synchronous code: its coroutines never suspend, and are driven on threads.
    is_synchronous = False

    db: Any
    models: Any

    def __init__(self, address: dict[str, Any], driver: str, pool_size: int) -> None:
        self.address = address
        self.driver = driver
        self.pool_size = pool_size

    @property
    def is_sqlite(self) -> bool:
        return "path" in self.address

    @property
    def begin(self) -> tuple[str, ...]:
        """Return the arguments of a transaction that will write."""
        return ("IMMEDIATE",) if self.is_sqlite else ()

    def url(self, scheme: str = "postgresql") -> str:
        parts = {name: quote(str(value), safe="") for name, value in self.address.items()}
        return "{scheme}://{user}:{password}@{host}:{port}/{database}".format(scheme=scheme, **parts)

    def client(self) -> AbstractAsyncContextManager[Any]:
        """Return what a task holds while it does `HOLD` operations."""
        return nullcontext()

    async def leave(self) -> None:
        """Let go of what the calling task or thread still has, at its end."""

    async def open(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def get(self, key: int) -> Any:
        """Return one item by its key."""
        raise NotImplementedError

    async def create(self, name: str, number: int) -> None:
        """Insert a row, as an instance."""
        raise NotImplementedError

    async def list(self, limit: int) -> Any:
        """Return so many items, as instances."""
        raise NotImplementedError

    async def atomic(self, key: int) -> None:
        """Read a counter and write it back by one higher, in a transaction."""
        raise NotImplementedError

    async def run(self, key: int) -> None:
        """Do the same as one synchronous function."""
        raise NotImplementedError

    def count(self, key: int) -> None:
        """What `run()` is to do; `self.db` and `self.models` are what `open()` has made."""
        with self.db.atomic(*self.begin):
            counter = self.models.Counter.get_by_id(key)
            counter.number += 1
            counter.save()

    async def slow(self) -> int:
        """Return what a query answers that keeps the database busy."""
        raise NotImplementedError

    def stream(self) -> Any:
        """Return an iterator over all rows of the large table, as instances; synchronous of plain Peewee."""
        raise NotImplementedError
