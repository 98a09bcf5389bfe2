"""Load: 500 tasks on eight workers move money, drop streams in every way, and are cancelled at random."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from async_peewee._pool.pool import CHECK_VARIABLE
from async_peewee._pool.scheduler import Scheduler
from tests.bank import Bank, RandomError
from tests.cancelling import ways
from tests.numbers import Numbers
from tests.support import SOAK, Maker, in_thread, wait_until, worker_threads

# How long one run lasts, in seconds; by hand any number goes.
SECONDS = float(os.environ.get("ASYNC_PEEWEE_TEST_LOAD_SECONDS", "30" if SOAK else "2"))

# It lasts longer where less than so much of each has been done by then: a machine that does
# nothing proves nothing. And it fails when that takes longer than this.
LEAST = {"transfers": 100, "cancelled": 50, "dropped": 50, "whole streams": 20, "reads": 100}
CEILING = SECONDS + 90

TASKS = 500
POOL = 8
ROWS = 1000

pytestmark = pytest.mark.soak


class Watched:
    """Keeps what the pool's own check of its invariants says after each event, also on its threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checks = 0
        self.broken: list[str] = []
        self._check = Scheduler.check
        monkeypatch.setenv(CHECK_VARIABLE, "1")
        monkeypatch.setattr(Scheduler, "check", lambda scheduler: self._note(scheduler))

    def _note(self, scheduler: Scheduler) -> None:
        # Not raised where it is found: that may be a worker's thread, whose caller would wait for ever.
        self.checks += 1
        try:
            self._check(scheduler)
        except AssertionError as error:
            self.broken.append(str(error))


class Load:
    """Tasks at work on one bank and one table of numbers, and what they have done."""

    def __init__(self, database: Any, watched: Watched) -> None:
        self.database = database
        self.bank = Bank(database)
        self.numbers = Numbers(database)
        self.acknowledged: list[str] = []
        self.done: Counter[str] = Counter()
        self._watched = watched
        self._end = time.monotonic() + SECONDS

    # -- one task -----------------------------------------------------------------------

    async def task(self, number: int) -> None:
        rng = random.Random(number)
        while not self._is_over():
            step = partial(self._step, rng)
            if rng.random() < 0.5:
                await step()
            elif await rng.choice(ways())(step, 10 ** rng.uniform(-3, 0.5)):
                self.done["cancelled"] += 1

    def _is_over(self) -> bool:
        self.done["transfers"] = len(self.acknowledged)
        is_enough = all(self.done[what] >= least for what, least in LEAST.items())
        return bool(self._watched.broken) or (is_enough and time.monotonic() >= self._end)

    async def _step(self, rng: random.Random) -> None:
        steps = [self._move, self._move_with_savepoint, self._read, self._read_all, self._drop]
        try:
            await rng.choices(steps, [4, 2, 2, 1, 3])[0](rng)
        except RandomError:
            self.done["failed on purpose"] += 1

    async def _move(self, rng: random.Random) -> None:
        self.acknowledged.append(await self.bank.transfer(rng))

    async def _move_with_savepoint(self, rng: random.Random) -> None:
        self.acknowledged.append(await self.bank.transfer_with_savepoint(rng))

    async def _read(self, rng: random.Random) -> None:
        number = rng.randint(0, 1_000_000)
        row = (await self.database.execute_sql(f"SELECT {number}")).fetchone()
        assert row == (number,), "the result of another call"
        self.done["reads"] += 1

    # -- streams ------------------------------------------------------------------------

    async def _read_all(self, rng: random.Random) -> None:
        values = [row.value async for row in self.numbers.stream()]
        assert values == list(range(ROWS)), f"a stream ended without an error after {len(values)} rows"
        self.done["whole streams"] += 1

    async def _drop(self, rng: random.Random) -> None:
        """Read some rows of a stream and leave it; sometimes in a block, that moves money afterwards."""
        drop = rng.choice([by_break, by_del, by_error, by_aclose, by_closed_generator, by_dropped_generator])
        rows = rng.choice([0, 1, 99, 100, 101, rng.randint(100, ROWS - 1)])
        if rng.random() < 0.3:
            async with self.database.atomic():
                await drop(self.numbers.stream(), rows)
                key = await self.bank.transfer(rng)
            self.acknowledged.append(key)
        else:
            await drop(self.numbers.stream(), rows)
        self.done["dropped"] += 1

    # -- all of them --------------------------------------------------------------------

    async def run(self, *others: Callable[[], Awaitable[None]]) -> None:
        """Let all tasks work to the end, with other things happening beside them."""
        await self.bank.open()
        await self.numbers.create(ROWS)
        with anyio.fail_after(CEILING):
            async with anyio.create_task_group() as group:
                for other in others:
                    group.start_soon(other)
                async with anyio.create_task_group() as tasks:
                    for number in range(TASKS):
                        tasks.start_soon(self.task, number)
                group.cancel_scope.cancel()


# -- ways to leave a stream after some rows -----------------------------------------------


async def by_break(stream: Any, rows: int) -> None:
    async for row in stream:
        if row.value >= rows:
            break


async def by_del(stream: Any, rows: int) -> None:
    for value in range(rows):
        assert (await stream.__anext__()).value == value


async def by_error(stream: Any, rows: int) -> None:
    with pytest.raises(KeyError):
        async for row in stream:
            if row.value >= rows:
                raise KeyError


async def by_aclose(stream: Any, rows: int) -> None:
    async with stream:
        await by_del(stream, rows)


async def by_closed_generator(stream: Any, rows: int) -> None:
    async with contextlib.aclosing(checked(stream)) as values:
        async for value in values:
            if value >= rows:
                break


async def by_dropped_generator(stream: Any, rows: int) -> None:
    async for value in checked(stream):
        if value >= rows:
            break


async def checked(stream: Any) -> AsyncIterator[int]:
    """Yield the values of a stream of numbers, and fail unless it has them all."""
    expected = 0
    async for row in stream:
        assert row.value == expected
        expected += 1
        yield row.value
    assert expected == ROWS, f"a stream ended without an error after {expected} rows"


# trio warns of generators that are dropped, whatever they hold. As an error, which pytest would
# keep, the warning would keep the streams alive as well.
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
async def test_five_hundred_tasks(
    make_database: Maker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every balance is what the journal says, no task fails, no stream ends early, no invariant breaks."""
    watched, server, most = Watched(monkeypatch), make_database.server, 0
    database = make_database(pool_size=POOL, acquire_timeout=CEILING)
    load = Load(database, watched)

    async def look() -> None:
        nonlocal most
        while server is not None:
            most = max(most, len(await in_thread(server.backends)))
            await anyio.sleep(0.2)

    async with database:
        await load.run(look)
        await wait_until(lambda: database.stats().leased == 0)
        assert watched.broken == []
        await load.bank.check(load.acknowledged)
        stats = database.stats()
        assert (stats.leased, stats.waiting, stats.busy) == (0, 0, 0)
        assert stats.idle == stats.workers <= POOL
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    print(f"\n{watched.checks} checks, at most {most} connections, {dict(load.done)}, {len(errors)} errors")
    assert errors == []
    assert watched.broken == []
    assert watched.checks > 10_000
    assert most <= POOL
    assert worker_threads() == []
    if server is not None:
        await wait_until(lambda: server.backends() == [])
