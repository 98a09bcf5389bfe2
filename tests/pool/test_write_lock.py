"""The write lock: one holder, first come first served."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from async_peewee._pool import write_lock
from async_peewee._pool.jobs import State
from async_peewee._pool.write_lock import Waiter, WriteLock, write_lock_for
from tests.fakes import FakePool, all_running, nothing
from tests.support import wait_until


def never() -> bool:
    return False


def acquire(lock: WriteLock, grant: Callable[[], bool]) -> bool:
    """Take a lock, or have `grant` called when it is to be had."""
    return lock.acquire(Waiter(lambda job: grant()))


def held_lock() -> WriteLock:
    lock = WriteLock()
    assert acquire(lock, never)
    return lock


def run_in_threads(functions: list[Callable[[], Any]]) -> None:
    """Run functions at the same time; fail if one of them failed or got stuck."""
    failures: list[BaseException] = []

    def run(function: Callable[[], Any]) -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


def test_a_free_lock_is_acquired_at_once() -> None:
    """Without a call of the grant: that is for those who had to wait."""
    lock = WriteLock()
    calls: list[str] = []
    assert not lock.is_held
    assert acquire(lock, lambda: (calls.append("granted"), True)[1])
    assert lock.is_held
    lock.release()
    assert not lock.is_held
    assert calls == []


def test_grants_come_in_order_and_dead_ones_are_skipped() -> None:
    lock = held_lock()
    granted: list[str] = []

    def asks(name: str, *, wanted: bool = True) -> bool:
        return acquire(lock, lambda: (granted.append(name), wanted)[1])

    assert not asks("second")
    assert not asks("dead", wanted=False)
    assert not asks("dead too", wanted=False)
    assert not asks("third")
    lock.release()
    assert granted == ["second"]
    lock.release()
    assert granted == ["second", "dead", "dead too", "third"]
    assert lock.is_held
    lock.release()
    assert not lock.is_held


def test_a_lock_that_nobody_wants_any_more_is_free() -> None:
    lock = held_lock()
    assert not acquire(lock, lambda: False)
    lock.release()
    assert not lock.is_held


def test_a_grant_may_use_the_lock_itself() -> None:
    """It runs without the lock that protects the queue: a job that declines asks again from there."""
    lock = held_lock()
    steps: list[str] = []

    def declines() -> bool:
        steps.append("declined")
        assert lock.is_held  # it is being handed over, and nobody may slip in
        assert not acquire(lock, lambda: (steps.append("granted"), True)[1])
        return False

    assert not acquire(lock, declines)
    run_in_threads([lock.release])
    assert steps == ["declined", "granted"]


def test_a_thread_that_gives_up_is_not_granted_the_lock_later() -> None:
    """By timeout or on request; the lock goes to the next."""
    lock = held_lock()
    assert not lock.acquire_blocking(0.01, never)
    assert not lock.acquire_blocking(10, lambda: True)
    granted: list[str] = []
    assert not acquire(lock, lambda: (granted.append("next"), True)[1])
    lock.release()
    assert granted == ["next"]
    lock.release()
    assert not lock.is_held


def test_a_thread_that_is_granted_the_lock_while_it_gives_up_has_it() -> None:
    """Nobody else would ever release it."""
    lock = held_lock()

    def give_up_too_late() -> bool:
        lock.release()
        return True

    assert lock.acquire_blocking(10, give_up_too_late)
    assert lock.is_held
    lock.release()
    assert not lock.is_held


def test_a_waiting_thread_goes_on_when_the_lock_is_released() -> None:
    lock = held_lock()
    waits, results = threading.Event(), []

    def given_up() -> bool:
        waits.set()
        return False

    def release_when_somebody_waits() -> None:
        assert waits.wait(10)
        lock.release()

    run_in_threads([lambda: results.append(lock.acquire_blocking(10, given_up)), release_when_somebody_waits])
    assert results == [True]


def test_threads_and_callbacks_stand_in_one_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever came first is first, in whatever way it waits."""
    monkeypatch.setattr(write_lock, "POLL", 0.001)
    lock = held_lock()
    order: list[str] = []

    def wait_in_a_thread(name: str) -> threading.Thread:
        in_queue = threading.Event()

        def wait() -> None:
            assert lock.acquire_blocking(10, lambda: (in_queue.set(), False)[1])
            order.append(name)
            lock.release()

        thread = threading.Thread(target=wait)
        thread.start()
        assert in_queue.wait(10)
        return thread

    threads = [wait_in_a_thread("thread 1")]
    assert not acquire(lock, lambda: (order.append("callback 1"), lock_is_released_by_another(lock))[1])
    threads.append(wait_in_a_thread("thread 2"))
    assert not acquire(lock, lambda: (order.append("callback 2"), lock_is_released_by_another(lock))[1])
    lock.release()
    for thread in threads:
        thread.join(10)
    assert order == ["thread 1", "callback 1", "thread 2", "callback 2"]


def lock_is_released_by_another(lock: WriteLock) -> bool:
    """Take the lock in a grant; the holder releases it on a thread of its own."""
    threading.Thread(target=lock.release).start()
    return True


class Crowd:
    """Many who write to one counter that only exclusion keeps right."""

    def __init__(self) -> None:
        self.lock = WriteLock()
        self.inside = 0
        self.most = 0
        self.entries = 0

    def write(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        entries = self.entries
        threading.Event().wait(0)  # lets others run, as a statement does
        self.entries = entries + 1
        self.inside -= 1
        self.lock.release()

    def wait_in_place(self) -> bool:
        return self.lock.acquire_blocking(30, never)

    def wait_with_a_callback(self) -> bool:
        granted = threading.Event()
        return acquire(self.lock, lambda: (granted.set(), True)[1]) or granted.wait(30)

    def give_up_sometimes(self) -> bool:
        return self.lock.acquire_blocking(random.uniform(0, 0.002), never)

    def member(self, enter: Callable[[], bool], times: int, successes: list[None]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(times):
                if enter():
                    successes.append(None)
                    self.write()

        return run


def test_one_writer_at_a_time_among_threads_callbacks_and_quitters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry is counted, never are two inside, and in the end the lock is free."""
    monkeypatch.setattr(write_lock, "POLL", 0.001)
    crowd = Crowd()
    ways = [crowd.wait_in_place, crowd.wait_with_a_callback, crowd.give_up_sometimes] * 3
    successes: list[None] = []
    run_in_threads([crowd.member(enter, 100, successes) for enter in ways])
    assert crowd.most == 1
    assert crowd.entries == len(successes) >= 600
    assert not crowd.lock.is_held


def test_a_path_has_one_lock_while_somebody_uses_it() -> None:
    first = write_lock_for("/a.db")
    assert write_lock_for("/a.db") is first
    assert write_lock_for("/b.db") is not first


def test_threads_that_open_a_file_together_get_one_lock() -> None:
    barrier = threading.Barrier(8)
    locks: list[WriteLock] = []
    run_in_threads([lambda: (barrier.wait(10), locks.append(write_lock_for("/together.db")))] * 8)
    assert len(set(locks)) == 1


def test_a_lock_that_nobody_uses_is_forgotten() -> None:
    """A program that opens a new file for each request keeps no trace of it."""
    write_lock_for("/forgotten.db")
    gc.collect()
    assert "/forgotten.db" not in write_lock._locks


# -- with a pool ------------------------------------------------------------------------


async def test_a_writer_waits_for_the_lock_without_a_worker() -> None:
    """Whoever does not write is served meanwhile, on the only one; then the writer is."""
    async with FakePool(pool_size=1) as fake:
        lock = held_lock()
        writer = fake.submit(nothing, write_lock=lock)
        assert await fake.run(lambda: 42) == 42
        assert (writer.state, fake.pool.stats().waiting) == (State.AT_LOCK, 1)
        lock.release()
        await wait_until(lambda: writer.state is State.DONE)
        await wait_until(lambda: not lock.is_held)


async def test_a_writer_that_is_cancelled_at_the_lock_declines_it() -> None:
    """The lock goes to the next one."""
    async with FakePool(pool_size=1) as fake:
        lock = held_lock()
        first, second = (fake.submit(nothing, write_lock=lock) for _ in range(2))
        await wait_until(lambda: second.state is State.AT_LOCK)
        fake.pool.abandon(first)
        lock.release()
        await wait_until(lambda: second.state is State.DONE)
        assert first.state is State.DROPPED
        await wait_until(lambda: not lock.is_held)


async def test_a_writer_that_finds_no_worker_declines_and_goes_first() -> None:
    """One that held the lock in the queue would wait for workers that wait for the lock."""
    async with FakePool(pool_size=1) as fake:
        lock, order = held_lock(), list[str]()
        writer = fake.submit(lambda: order.append("writer"), write_lock=lock)
        await wait_until(lambda: writer.state is State.AT_LOCK)
        blocker = (await all_running(fake, 1))[0]
        fake.submit(lambda: order.append("other"))
        lock.release()
        assert (writer.state, lock.is_held) == (State.QUEUED, False)
        blocker.end.set()
        await wait_until(lambda: order == ["writer", "other"])


@pytest.mark.parametrize("how", ["dropped", "stopped"])
@pytest.mark.usefixtures("nobody_watches")
async def test_a_writer_with_the_lock_that_never_gets_its_turn_releases_it(how: str) -> None:
    """Cancelled, or its worker told to end: other loops wait for the lock as well."""
    async with FakePool(pool_size=1) as fake:
        lock = held_lock()
        await fake.run(nothing)
        writer = fake.submit(nothing, write_lock=lock)
        with fake.turn_taken():
            lock.release()
            assert (writer.state, lock.is_held) == (State.PLACED, True)
            if how == "dropped":
                fake.pool.abandon(writer)
            else:
                fake.pool._dismiss(writer.worker)
            assert (writer.state, lock.is_held) == (State.DROPPED, False)
