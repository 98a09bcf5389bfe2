"""Turns: one worker at a time, those that come back first, and nobody who only waits keeps its turn."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from async_peewee._pool import gil
from async_peewee._pool.gil import (
    ExpectedTime,
    FreeTurns,
    Gil,
    GilTurns,
    NoGil,
    has_gil,
    make_gil,
    make_turns,
)
from tests.fakes import FakeConnection

# The real one: in this folder's tests another one stands in its place.
ask_python = has_gil


class Someone:
    """What is looked at of a worker that has a turn."""

    def __init__(self) -> None:
        self.progress = 0
        self.in_driver = False
        self.used = 0.0

    def processor_time(self) -> float:
        return self.used


def held_by(worker: Any) -> Gil:
    given = Gil()
    given.take(worker)
    return given


def test_one_has_the_turn_until_it_gives_it_up() -> None:
    """Nobody else can give it up for it."""
    first: Any = Someone()
    given = held_by(first)
    assert given.free == 0
    assert not given.give_up(Someone())  # type: ignore[arg-type]
    assert given.free == 0
    assert given.give_up(first)
    assert given.free == 1


def test_a_turn_that_is_given_twice_is_given_back_once() -> None:
    """A writer may get its next job before its turn is over."""
    worker: Any = Someone()
    given = held_by(worker)
    given.take(worker)
    assert given.free == 0
    assert given.give_up(worker)
    assert given.free == 1


def test_those_that_come_back_are_served_in_order() -> None:
    """One that goes on without is passed over."""
    holder, first, second, third = (Someone() for _ in range(4))
    given: Any = held_by(holder)
    assert [given.take_back(worker) for worker in (first, second, third)] == [False] * 3
    assert given.continue_without(second)
    assert [given.take_returning() for _ in range(3)] == [first, third, None]
    assert not given.continue_without(first)  # it has been given the turn


def test_a_free_turn_is_taken_on_coming_back() -> None:
    """Nothing to wait for."""
    worker: Any = Someone()
    given = Gil()
    assert given.take_back(worker)
    assert given.free == 0


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
    given = held_by(holder)
    given.free_if_stuck(100.0)
    assert given.free == 0
    vars(holder).update(change)
    given.free_if_stuck(101.0)
    assert (given.free == 0) is keeps


def test_a_new_holder_is_not_judged_by_the_one_before() -> None:
    """It has been looked at for the first time."""
    first, second = Someone(), Someone()
    given: Any = held_by(first)
    given.free_if_stuck(100.0)
    given.give_up(first)
    given.take(second)
    given.free_if_stuck(101.0)
    assert given.free == 0


@pytest.mark.parametrize(("loop_used", "keeps"), [(0.4, False), (0.6, True)])
def test_a_holder_that_the_loop_kept_waiting_keeps_the_turn(
    monkeypatch: pytest.MonkeyPatch, loop_used: float, keeps: bool
) -> None:
    """The loop's thread had the interpreter itself for most of the time between two looks."""
    used = 5.0
    monkeypatch.setattr(gil.time, "thread_time", lambda: used)
    given = held_by(Someone())
    given.free_if_stuck(100.0)
    used += loop_used
    given.free_if_stuck(101.0)
    assert (given.free == 0) is keeps


@pytest.mark.parametrize("enabled", [True, False])
def test_turns_are_given_where_python_has_the_gil(monkeypatch: pytest.MonkeyPatch, enabled: bool) -> None:
    """Asked at run time: a free-threaded Python may have been started with it."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: enabled, raising=False)
    assert ask_python() is enabled
    monkeypatch.setattr(gil, "has_gil", lambda: enabled)
    assert isinstance(make_gil(), Gil if enabled else NoGil)
    assert isinstance(make_turns(None, 1.0), GilTurns if enabled else FreeTurns)


def test_without_the_givennobody_waits_for_a_turn() -> None:
    """However many have one; to give it up or to be seen stuck changes nothing."""
    free, workers = NoGil(), [Someone() for _ in range(3)]
    for worker in workers:
        free.take(worker)
        assert free.take_back(worker)
    free.free_if_stuck(100.0)
    assert (free.free > 1000, free.give_up(workers[0]), free.take_returning()) == (True, False, None)
    turns = FreeTurns()
    with turns.waiting():
        assert turns.statement(ExpectedTime(10.0), lambda: turns.in_driver)
    assert not turns.in_driver


LIGHT, HEAVY = (0.0002, 0.0002), (0.001, 0.0002)


def weighed(given: Gil, jobs: int, job: tuple[float, float]) -> Gil:
    for _ in range(jobs):
        given.learn(*job)
    return given


def test_two_overlap_where_jobs_mostly_wait_in_short_statements() -> None:
    """Computed and waited as long; then computed five times as long as waited; then as before."""
    given = weighed(Gil(), 100, LIGHT)
    assert given.free == 2
    assert weighed(given, 100, HEAVY).free == 1
    assert weighed(given, 100, LIGHT).free == 2


def test_a_single_job_of_another_kind_changes_nothing() -> None:
    """Neither a light one among heavy ones nor the other way round."""
    assert weighed(weighed(Gil(), 100, LIGHT), 1, HEAVY).free == 2
    assert weighed(weighed(Gil(), 100, HEAVY), 1, LIGHT).free == 1


def test_a_turn_that_is_taken_is_given_up_when_it_is_over() -> None:
    """Two have a turn when it shows that two are one too many."""
    given: Any = weighed(Gil(), 100, LIGHT)
    first, second, third = (Someone() for _ in range(3))
    given.take(first)
    given.take(second)
    weighed(given, 100, HEAVY)
    assert not given.take_back(third)
    assert given.give_up(first)
    assert not given.take_back(third)
    assert given.give_up(second)
    assert given.free == 1


# -- a worker's side ------------------------------------------------------------------


class Giver:
    """Note what a worker says of its turn; `returns` whether it gets it back at once."""

    def __init__(self, *, returns: bool = True, comes_late: bool = False) -> None:
        self.said: list[str] = []
        self._returns = returns
        self._comes_late = comes_late

    def give_up_turn(self, turns: GilTurns) -> None:
        self.said.append("given up")

    def take_back_turn(self, turns: GilTurns) -> bool:
        self.said.append("back")
        return self._returns

    def continue_without_turn(self, turns: GilTurns) -> bool:
        self.said.append("on")
        if self._comes_late:
            turns.resume()
        return self._comes_late


def turns_of(giver: Giver) -> GilTurns:
    """Return what a worker of that pool does about its turn."""
    return GilTurns(giver, FakeConnection.worth_passing)


def test_only_a_statement_that_is_expected_to_take_long_is_worth_the_turn() -> None:
    """The driver says from how many seconds on; the time of the others is noted as waited."""
    giver = Giver()
    taker = turns_of(giver)
    long, short = FakeConnection.worth_passing, FakeConnection.worth_passing / 2
    assert taker.statement(ExpectedTime(short), lambda: 1) == 1
    assert (giver.said, taker.take_spent()[1]) == ([], short)
    assert taker.statement(ExpectedTime(long), lambda: 2) == 2
    assert (giver.said, taker.take_spent()[1]) == (["given up", "back"], 0.0)


def test_what_a_statement_has_taken_is_remembered() -> None:
    """So the next time it is expected to take as long."""
    slow = ExpectedTime(10.0)
    turns_of(Giver()).statement(slow, lambda: None)
    assert slow.seconds < 1.0


def test_it_is_seen_to_be_in_the_driver_and_to_get_on() -> None:
    """From outside: whether it is in a statement, and how many it has ended, failed ones too."""
    taker = turns_of(Giver())
    assert taker.statement(ExpectedTime(0), lambda: (taker.in_driver, taker.progress)) == (True, 0)
    with pytest.raises(ZeroDivisionError):
        taker.statement(ExpectedTime(1), lambda: 1 / 0)
    assert (taker.in_driver, taker.progress) == (False, 2)


def test_it_asks_for_its_turn_again_after_an_error_too() -> None:
    """In a statement, and in a block that waits for something else."""
    giver = Giver()
    taker = turns_of(giver)
    with pytest.raises(ZeroDivisionError):
        taker.statement(ExpectedTime(1), lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError), taker.waiting():
        raise ZeroDivisionError
    assert giver.said == ["given up", "back"] * 2


def test_it_waits_for_a_turn_that_it_does_not_get_at_once() -> None:
    """The pool resumes it when it has it."""
    giver = Giver(returns=False)
    taker = turns_of(giver)
    with taker.waiting():
        taker._given.release()
    assert giver.said == ["given up", "back"]
    assert taker._given.locked()


@pytest.mark.parametrize("comes_late", [False, True])
def test_it_goes_on_without_a_turn_that_does_not_come(
    comes_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes at the last moment is taken, and none is left for the next time."""
    monkeypatch.setattr(gil, "PATIENCE", 0.001)
    giver = Giver(returns=False, comes_late=comes_late)
    taker = turns_of(giver)
    with taker.waiting():
        pass
    assert giver.said == ["given up", "back", "on"]
    assert taker._given.locked()


def test_its_processor_time_can_be_read_once_its_clock_runs() -> None:
    """In seconds, and 0 before."""
    taker = turns_of(Giver())
    assert taker.processor_time() == 0.0
    taker.start_clock()
    assert taker.processor_time() > 0.0
