"""The write gate: one holder, first come first served."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from async_peewee._pool import write_lock
from async_peewee._pool.write_lock import WriteGate, gate_for


def never() -> bool:
    return False


def held_gate() -> WriteGate:
    gate = WriteGate()
    assert gate.enter(never)
    return gate


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


def test_a_free_gate_is_entered_at_once() -> None:
    """Without a call of the grant: that is for those who had to wait."""
    gate = WriteGate()
    calls: list[str] = []
    assert not gate.is_held
    assert gate.enter(lambda: (calls.append("granted"), True)[1])
    assert gate.is_held
    gate.leave()
    assert not gate.is_held
    assert calls == []


def test_grants_come_in_order_and_dead_ones_are_skipped() -> None:
    gate = held_gate()
    granted: list[str] = []

    def asks(name: str, *, wanted: bool = True) -> bool:
        return gate.enter(lambda: (granted.append(name), wanted)[1])

    assert not asks("second")
    assert not asks("dead", wanted=False)
    assert not asks("dead too", wanted=False)
    assert not asks("third")
    gate.leave()
    assert granted == ["second"]
    gate.leave()
    assert granted == ["second", "dead", "dead too", "third"]
    assert gate.is_held
    gate.leave()
    assert not gate.is_held


def test_a_gate_that_nobody_wants_any_more_is_free() -> None:
    gate = held_gate()
    assert not gate.enter(lambda: False)
    gate.leave()
    assert not gate.is_held


def test_a_grant_may_use_the_gate_itself() -> None:
    """It runs without the gate's lock: a job that declines asks again from there."""
    gate = held_gate()
    steps: list[str] = []

    def declines() -> bool:
        steps.append("declined")
        assert gate.is_held  # it is being handed over, and nobody may slip in
        assert not gate.enter(lambda: (steps.append("granted"), True)[1])
        return False

    assert not gate.enter(declines)
    run_in_threads([gate.leave])
    assert steps == ["declined", "granted"]


def test_a_thread_that_gives_up_is_not_granted_the_gate_later() -> None:
    """By timeout or on request; the gate goes to the next."""
    gate = held_gate()
    assert not gate.enter_blocking(0.01, never)
    assert not gate.enter_blocking(10, lambda: True)
    granted: list[str] = []
    assert not gate.enter(lambda: (granted.append("next"), True)[1])
    gate.leave()
    assert granted == ["next"]
    gate.leave()
    assert not gate.is_held


def test_a_thread_that_is_granted_the_gate_while_it_gives_up_has_it() -> None:
    """Nobody else would ever leave it."""
    gate = held_gate()

    def give_up_too_late() -> bool:
        gate.leave()
        return True

    assert gate.enter_blocking(10, give_up_too_late)
    assert gate.is_held
    gate.leave()
    assert not gate.is_held


def test_a_waiting_thread_goes_on_when_the_gate_is_left() -> None:
    gate = held_gate()
    waits, results = threading.Event(), []

    def given_up() -> bool:
        waits.set()
        return False

    def leave_when_somebody_waits() -> None:
        assert waits.wait(10)
        gate.leave()

    run_in_threads([lambda: results.append(gate.enter_blocking(10, given_up)), leave_when_somebody_waits])
    assert results == [True]


def test_threads_and_callbacks_stand_in_one_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever came first is first, in whatever way it waits."""
    monkeypatch.setattr(write_lock, "POLL", 0.001)
    gate = held_gate()
    order: list[str] = []

    def wait_in_a_thread(name: str) -> threading.Thread:
        in_queue = threading.Event()

        def wait() -> None:
            assert gate.enter_blocking(10, lambda: (in_queue.set(), False)[1])
            order.append(name)
            gate.leave()

        thread = threading.Thread(target=wait)
        thread.start()
        assert in_queue.wait(10)
        return thread

    threads = [wait_in_a_thread("thread 1")]
    assert not gate.enter(lambda: (order.append("callback 1"), gate_is_left_by_another(gate))[1])
    threads.append(wait_in_a_thread("thread 2"))
    assert not gate.enter(lambda: (order.append("callback 2"), gate_is_left_by_another(gate))[1])
    gate.leave()
    for thread in threads:
        thread.join(10)
    assert order == ["thread 1", "callback 1", "thread 2", "callback 2"]


def gate_is_left_by_another(gate: WriteGate) -> bool:
    """Take the gate in a grant; the holder leaves it on a thread of its own."""
    threading.Thread(target=gate.leave).start()
    return True


class Crowd:
    """Many who write to one counter that only exclusion keeps right."""

    def __init__(self) -> None:
        self.gate = WriteGate()
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
        self.gate.leave()

    def wait_in_place(self) -> bool:
        return self.gate.enter_blocking(30, never)

    def wait_with_a_callback(self) -> bool:
        granted = threading.Event()
        return self.gate.enter(lambda: (granted.set(), True)[1]) or granted.wait(30)

    def give_up_sometimes(self) -> bool:
        return self.gate.enter_blocking(random.uniform(0, 0.002), never)

    def member(self, enter: Callable[[], bool], times: int, successes: list[None]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(times):
                if enter():
                    successes.append(None)
                    self.write()

        return run


def test_one_writer_at_a_time_among_threads_callbacks_and_quitters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry is counted, never are two inside, and in the end the gate is free."""
    monkeypatch.setattr(write_lock, "POLL", 0.001)
    crowd = Crowd()
    ways = [crowd.wait_in_place, crowd.wait_with_a_callback, crowd.give_up_sometimes] * 3
    successes: list[None] = []
    run_in_threads([crowd.member(enter, 100, successes) for enter in ways])
    assert crowd.most == 1
    assert crowd.entries == len(successes) >= 600
    assert not crowd.gate.is_held


def test_a_path_has_one_gate_while_somebody_uses_it() -> None:
    first = gate_for("/a.db")
    assert gate_for("/a.db") is first
    assert gate_for("/b.db") is not first


def test_threads_that_open_a_file_together_get_one_gate() -> None:
    barrier = threading.Barrier(8)
    gates: list[WriteGate] = []
    run_in_threads([lambda: (barrier.wait(10), gates.append(gate_for("/together.db")))] * 8)
    assert len(set(gates)) == 1


def test_a_gate_that_nobody_uses_is_forgotten() -> None:
    """A program that opens a new file for each request keeps no trace of it."""
    gate_for("/forgotten.db")
    gc.collect()
    assert "/forgotten.db" not in write_lock._gates
