"""The turnstile: one at a time, those that come back first, and nobody who only waits keeps it."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from async_peewee._pool import gil
from async_peewee._pool.gil import Turnstile, turns


class Someone:
    """What the turnstile looks at of a worker."""

    def __init__(self) -> None:
        self.progress = 0
        self.in_driver = False
        self.used = 0.0

    def processor_time(self) -> float:
        return self.used


def held_by(worker: Any) -> Turnstile:
    turnstile = Turnstile()
    turnstile.take(worker)
    return turnstile


@pytest.fixture(autouse=True)
def with_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gil, "turns", lambda: 1)


def test_one_has_the_turn_until_it_leaves() -> None:
    first: Any = Someone()
    turnstile = held_by(first)
    assert turnstile.free == 0
    assert not turnstile.leave(Someone())  # type: ignore[arg-type]
    assert turnstile.free == 0
    assert turnstile.leave(first)
    assert turnstile.free == 1


def test_a_turn_that_is_given_twice_is_given_back_once() -> None:
    worker: Any = Someone()
    turnstile = held_by(worker)
    turnstile.take(worker)
    assert turnstile.free == 0
    assert turnstile.leave(worker)
    assert turnstile.free == 1


def test_those_that_come_back_are_served_in_order() -> None:
    holder, first, second, third = (Someone() for _ in range(4))
    turnstile: Any = held_by(holder)
    assert [turnstile.come_back(worker) for worker in (first, second, third)] == [False] * 3
    assert turnstile.stop_waiting(second)
    assert [turnstile.next_returning() for _ in range(3)] == [first, third, None]
    assert not turnstile.stop_waiting(first)  # it has been given the turn


def test_a_free_turn_is_taken_on_coming_back() -> None:
    worker: Any = Someone()
    turnstile = Turnstile()
    assert turnstile.come_back(worker)
    assert turnstile.free == 0


@pytest.mark.parametrize(
    ("change", "keeps"),
    [
        ({}, False),  # it waits, for a lock or another server
        ({"progress": 1}, True),  # it gets on
        ({"used": 0.9}, True),  # it computes
        ({"used": 0.9, "in_driver": True}, False),  # the driver computes, without the GIL
    ],
)
def test_a_holder_that_only_waits_loses_the_turn(change: dict[str, Any], keeps: bool) -> None:
    """Between two looks a second apart."""
    holder: Any = Someone()
    turnstile = held_by(holder)
    turnstile.free_if_stuck(100.0)
    assert turnstile.free == 0
    vars(holder).update(change)
    turnstile.free_if_stuck(101.0)
    assert (turnstile.free == 0) is keeps


def test_a_new_holder_is_not_judged_by_the_one_before() -> None:
    first, second = Someone(), Someone()
    turnstile: Any = held_by(first)
    turnstile.free_if_stuck(100.0)
    turnstile.leave(first)
    turnstile.take(second)
    turnstile.free_if_stuck(101.0)
    assert turnstile.free == 0


@pytest.mark.parametrize(("loop_used", "keeps"), [(0.4, False), (0.6, True)])
def test_a_holder_that_the_loop_kept_waiting_keeps_the_turn(
    monkeypatch: pytest.MonkeyPatch, loop_used: float, keeps: bool
) -> None:
    """The loop's thread had the interpreter itself for most of the time between two looks."""
    used = 5.0
    monkeypatch.setattr(gil.time, "thread_time", lambda: used)
    turnstile = held_by(Someone())
    turnstile.free_if_stuck(100.0)
    used += loop_used
    turnstile.free_if_stuck(101.0)
    assert (turnstile.free == 0) is keeps


def test_without_the_gil_there_is_a_turn_for_each_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is taken, judged and given back by itself."""
    monkeypatch.setattr(gil, "turns", lambda: 2)
    first, second, third = (Someone() for _ in range(3))
    turnstile: Any = held_by(first)
    assert turnstile.come_back(second)
    assert not turnstile.come_back(third)
    turnstile.free_if_stuck(100.0)
    second.progress += 1
    turnstile.free_if_stuck(101.0)
    assert turnstile.free == 1
    assert not turnstile.leave(first)
    assert turnstile.leave(second)


@pytest.mark.parametrize(("gil", "expected"), [(True, 1), (False, os.cpu_count())])
def test_turns_are_counted_where_python_can_run(
    monkeypatch: pytest.MonkeyPatch, gil: bool, expected: int
) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: gil, raising=False)
    assert turns() == expected


LIGHT, HEAVY = (0.0002, 0.0002), (0.001, 0.0002)


def weighed(turnstile: Turnstile, jobs: int, job: tuple[float, float]) -> Turnstile:
    for _ in range(jobs):
        turnstile.weigh(*job)
    return turnstile


def test_two_overlap_where_jobs_mostly_wait_in_short_statements() -> None:
    """Computed and waited as long; then computed five times as long as waited; then as before."""
    turnstile = weighed(Turnstile(), 100, LIGHT)
    assert turnstile.free == 2
    assert weighed(turnstile, 100, HEAVY).free == 1
    assert weighed(turnstile, 100, LIGHT).free == 2


def test_a_single_job_of_another_kind_changes_nothing() -> None:
    assert weighed(weighed(Turnstile(), 100, LIGHT), 1, HEAVY).free == 2
    assert weighed(weighed(Turnstile(), 100, HEAVY), 1, LIGHT).free == 1


def test_a_turn_that_is_taken_is_given_up_when_it_is_over() -> None:
    """Two have a turn when it shows that two are one too many."""
    turnstile: Any = weighed(Turnstile(), 100, LIGHT)
    first, second, third = (Someone() for _ in range(3))
    turnstile.take(first)
    turnstile.take(second)
    weighed(turnstile, 100, HEAVY)
    assert not turnstile.come_back(third)
    assert turnstile.leave(first)
    assert not turnstile.come_back(third)
    assert turnstile.leave(second)
    assert turnstile.free == 1
