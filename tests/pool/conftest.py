"""Fixtures for the pool: the GIL, a loop that does not watch, a worker alone."""

from __future__ import annotations

import pytest

from async_peewee._pool import gil, scheduler, worker
from tests.pool.stage import Guard, Stage


@pytest.fixture(autouse=True)
def with_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give turns as under the GIL, on a free-threaded Python too."""
    monkeypatch.setattr(gil, "has_gil", lambda: True)


@pytest.fixture
def nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no worker lose its turn because the machine gave its thread no time."""
    for name in ("WATCH_BUSY", "WATCH_IDLE"):
        monkeypatch.setattr(scheduler, name, 1000)


@pytest.fixture
def stage() -> Stage:
    """Return a worker without a pool."""
    return Stage()


@pytest.fixture
def guard(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Guard:
    """Return the guard of that worker, at which interrupts come and go quickly."""
    monkeypatch.setattr(worker, "PAUSES", (0.001,))
    return Guard(stage.worker)
