"""PoolPerLoop: the worker pools of one database, one for each event loop that uses it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import peewee

from .._errors import BlockingCallError
from .._eventloops import event_loop, running_key
from .._settings import PoolSettings
from .connection import Connection
from .pool import PoolStats, WorkerPool
from .worker import here


class PoolPerLoop:
    """Find, open and forget the pool of the event loop that runs in this thread."""

    def __init__(self, settings: PoolSettings, make_connection: Callable[[], Connection]) -> None:
        self.name = "a database"
        self.settings = settings
        # Whether the first use opens a pool, as Peewee's autoconnect says.
        self.opens_itself = True
        self._make_connection = make_connection
        # Protects _pools: two threads may each run a loop on this database.
        self._lock = threading.Lock()
        self._pools: dict[Any, WorkerPool] = {}

    def forget(self) -> Any:
        """After a fork, in the child: begin anew, and return what must not be let go of."""
        inherited = self._pools
        self._lock = threading.Lock()
        self._pools = {}
        return inherited

    def find(self) -> WorkerPool | None:
        """Return this loop's pool, None if it was never opened."""
        return self._pools.get(running_key())

    def get(self) -> WorkerPool:
        """Return this loop's pool; the first use opens it."""
        pool = self._pools.get(running_key())
        if pool is not None:
            return pool
        if not self.opens_itself:
            raise peewee.InterfaceError("Error, database connection not opened.")
        return self.open()

    def open(self) -> WorkerPool:
        """Make a new pool for this loop, in the place of one that is closed.

        Raises BlockingCallError for a loop that runs on a worker.
        """
        if here.worker is not None:
            raise BlockingCallError.of_loop_on_worker(f"using {self.name}")
        key = running_key()
        pool = WorkerPool(self.name, self.settings, event_loop(key), self._make_connection)
        with self._lock:
            for other, old in list(self._pools.items()):
                if old.loop.is_closed():
                    del self._pools[other]
            self._pools[key] = pool
        return pool

    def drop_closed(self) -> None:
        """Let the next use open a new pool in the place of this loop's closed one."""
        key = running_key()
        with self._lock:
            if key in self._pools and self._pools[key].is_closed:
                del self._pools[key]

    def all_open(self) -> list[WorkerPool]:
        """Return the pools that are open, here or on another loop."""
        return [pool for pool in list(self._pools.values()) if not (pool.is_closed or pool.loop.is_closed())]

    def stats(self) -> PoolStats:
        """Return the figures of all pools on loops that live, added up; from any thread."""
        pools = [pool for pool in list(self._pools.values()) if not pool.loop.is_closed()]
        open_pools = sum(not pool.is_closed for pool in pools)
        totals = {field.name: 0 for field in fields(PoolStats)}
        for pool in pools:
            for name, figure in vars(pool.stats()).items():
                totals[name] += figure
        # As many as there may be; where no pool is open, as many as the first use will allow.
        return PoolStats(**{**totals, "pool_size": self.settings.pool_size * max(1, open_pools)})
