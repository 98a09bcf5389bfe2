"""Replies: several outcomes in one wake, and none left behind."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest

from async_peewee._pool import pool
from async_peewee._pool.jobs import Job
from async_peewee._pool.pool import Replies
from tests.fakes import FakePool, all_running, nothing
from tests.support import wait_until


class FakeLoop:
    """Note the wakes, and run what they are for when the test says so."""

    def __init__(self) -> None:
        self.wakes: list[Any] = []

    def wake(self, callback: Any) -> bool:
        self.wakes.append(callback)
        return True

    def turn(self) -> None:
        wakes, self.wakes = self.wakes, []
        for callback in wakes:
            callback()


class Waiter(Job):
    """A job whose caller waits."""

    def __init__(self, settled: list[Job]) -> None:
        super().__init__(nothing, "call")
        self.parker: Any = self
        self._settled = settled

    def unpark(self) -> None:
        self._settled.append(self)


class Stage:
    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.replies = Replies(self.loop)  # type: ignore[arg-type]
        self.settled: list[Job] = []

    def send(self, *batches: int) -> list[Waiter]:
        jobs = [Waiter(self.settled) for _ in batches]
        for job, batch in zip(jobs, batches, strict=True):
            self.replies.send(job, batch)
        return jobs


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(pool, "REPLY_PATIENCE", 1000)
    return Stage()


def test_a_reply_wakes_the_loop(stage: Stage) -> None:
    """Which ends the wait on its own thread."""
    jobs = stage.send(0)
    assert len(stage.loop.wakes) == 1
    stage.loop.turn()
    assert stage.settled == jobs


def test_replies_of_a_batch_wait_for_one_another_and_come_in_order(stage: Stage) -> None:
    """Until more than so many are ready."""
    jobs = stage.send(3, 3, 3)
    assert stage.loop.wakes == []
    jobs += stage.send(3)
    assert len(stage.loop.wakes) == 1
    stage.loop.turn()
    assert stage.settled == jobs


def test_the_last_reply_brings_those_that_waited(stage: Stage) -> None:
    """When no other will follow, all go."""
    jobs = stage.send(5, 5, 0)
    stage.loop.turn()
    assert stage.settled == jobs


def test_the_end_of_a_call_that_nobody_waits_for_brings_them_too(stage: Stage) -> None:
    """Such as a dropped stream's, which may be the last for a long time."""
    jobs = stage.send(5)
    stage.replies.send(Job(nothing, "dropped"))
    stage.loop.turn()
    assert stage.settled == jobs


def test_no_reply_waits_longer_than_the_patience(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are to come in its batch."""
    stage.send(5)
    monkeypatch.setattr(pool, "REPLY_PATIENCE", 0)
    stage.send(5)
    assert len(stage.loop.wakes) == 1


def test_a_reply_during_the_delivery_is_not_left_behind(stage: Stage) -> None:
    """The loop is told again, or takes it along."""
    jobs = stage.send(0, 0)
    assert len(stage.loop.wakes) == 1
    jobs[0].unpark = lambda: stage.send(0)  # type: ignore[assignment]
    stage.loop.turn()
    stage.loop.turn()
    assert len(stage.settled) == 2


async def test_one_wake_brings_all_that_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four calls end while the loop's thread is busy; it is woken once for the four."""
    async with FakePool(pool_size=4) as fake:
        for blocker in await all_running(fake, 4):
            blocker.end.set()
        await wait_until(lambda: fake.pool.stats().idle == 4)
        replies, wakes = fake.pool._replies, list[Any]()
        real = fake.pool.loop.wake
        monkeypatch.setattr(fake.pool.loop, "wake", lambda call: (wakes.append(call), real(call))[1])
        jobs = [Job(lambda: 42, "call") for _ in range(4)]
        for job in jobs:
            job.parker = fake.pool.loop.parker()
            fake.pool.submit(job)
        end = time.monotonic() + 5
        while len(replies._ready) < 4 and time.monotonic() < end:
            time.sleep(0.001)  # on the loop's thread, on purpose
        assert wakes == [replies.deliver]
        with anyio.fail_after(5):
            for job in jobs:
                await job.parker.park(lambda: True)  # type: ignore[union-attr]
        assert [job.outcome() for job in jobs] == [42] * 4
