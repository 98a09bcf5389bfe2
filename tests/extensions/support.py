"""Every worker of a pool at once, and what makes a program's models."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio

WORKERS = 3


async def on_every_worker(db: Any, ask: Callable[[], Any], workers: int = WORKERS) -> list[Any]:
    """Call a function on so many workers of a database, all held at the same time."""
    answers: list[Any] = []
    everyone_is_in = anyio.Event()
    threads: set[int] = set()

    async def work() -> None:
        async with db.connection_context():
            threads.add(await db.run(threading.get_ident))
            if len(threads) == workers:
                everyone_is_in.set()
            await everyone_is_in.wait()
            answers.append(await db.run(ask))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(workers):
                tasks.start_soon(work)
    return answers


async def select_everywhere(db: Any, sql: str) -> list[Any]:
    """Return the first value that a statement gives on each worker."""
    return await on_every_worker(db, lambda: db.execute_sql(sql).fetchone()[0])
