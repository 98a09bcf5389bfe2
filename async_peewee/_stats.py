"""PoolStats: how a pool is, at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolStats:
    """Say how a pool is: its size, what its workers do now, and what it has done so far.

    `pool_size`, `workers`, `idle`, `busy` and `pinned` count workers, `waiting` the calls in
    the queue; `calls`, `cancelled`, `timed_out` and `refused` count calls since it was opened.
    """

    pool_size: int = 0
    workers: int = 0
    idle: int = 0
    busy: int = 0
    pinned: int = 0
    waiting: int = 0
    calls: int = 0
    cancelled: int = 0
    timed_out: int = 0
    refused: int = 0
