"""Turns: a worker lets another have its turn while it waits, and always goes on."""

from __future__ import annotations

from typing import Any

import pytest

from async_peewee._drivers.statement_profiles import StatementProfile
from async_peewee._pool import gil
from async_peewee._pool.gil import TurnTaker
from tests.fakes import FakeConnection


class Giver:
    """Note what a worker says of its turn; `returns` whether it gets it back at once."""

    def __init__(self, *, returns: bool = True, comes_late: bool = False) -> None:
        self.said: list[str] = []
        self._returns = returns
        self._comes_late = comes_late

    def step_aside(self, worker: TurnTaker) -> None:
        self.said.append("aside")

    def step_back(self, worker: TurnTaker) -> bool:
        self.said.append("back")
        return self._returns

    def go_on(self, worker: TurnTaker) -> bool:
        self.said.append("on")
        if self._comes_late:
            worker.turn.release()
        return self._comes_late


class Taker(TurnTaker):
    """A worker without a thread."""

    def __init__(self, giver: Giver) -> None:
        super().__init__()
        self._pool = giver
        self.connection: Any = FakeConnection()


def statement(seconds: float) -> StatementProfile:
    return StatementProfile(False, False, seconds)


def test_only_a_statement_that_is_expected_to_take_long_is_worth_the_turn() -> None:
    """The driver says from how many seconds on; the time of the others is noted as waited."""
    giver = Giver()
    taker = Taker(giver)
    long, short = taker.connection.worth_passing, taker.connection.worth_passing / 2
    assert taker.ask(statement(short), lambda: 1) == 1
    assert (giver.said, taker.spent()[1]) == ([], short)
    assert taker.ask(statement(long), lambda: 2) == 2
    assert (giver.said, taker.spent()[1]) == (["aside", "back"], 0.0)


def test_what_a_statement_has_taken_is_remembered() -> None:
    """So the next time it is expected to take as long."""
    slow = statement(10.0)
    Taker(Giver()).ask(slow, lambda: None)
    assert slow.seconds < 1.0


def test_it_is_seen_to_be_in_the_driver_and_to_get_on() -> None:
    """From outside: whether it is in a statement, and how many it has ended, failed ones too."""
    taker = Taker(Giver())
    assert taker.ask(statement(0), lambda: (taker.in_driver, taker.progress)) == (True, 0)
    with pytest.raises(ZeroDivisionError):
        taker.ask(statement(1), lambda: 1 / 0)
    assert (taker.in_driver, taker.progress) == (False, 2)


def test_it_asks_for_its_turn_again_after_an_error_too() -> None:
    """In a statement, and in a block that waits for something else."""
    giver = Giver()
    taker = Taker(giver)
    with pytest.raises(ZeroDivisionError):
        taker.ask(statement(1), lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError), taker.aside():
        raise ZeroDivisionError
    assert giver.said == ["aside", "back"] * 2


def test_it_waits_for_a_turn_that_it_does_not_get_at_once() -> None:
    """The pool releases `turn` when it gives it."""
    giver = Giver(returns=False)
    taker = Taker(giver)
    with taker.aside():
        taker.turn.release()
    assert giver.said == ["aside", "back"]
    assert taker.turn.locked()


@pytest.mark.parametrize("comes_late", [False, True])
def test_it_goes_on_without_a_turn_that_does_not_come(
    comes_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes at the last moment is taken, and none is left for the next time."""
    monkeypatch.setattr(gil, "PATIENCE", 0.001)
    giver = Giver(returns=False, comes_late=comes_late)
    taker = Taker(giver)
    with taker.aside():
        pass
    assert giver.said == ["aside", "back", "on"]
    assert taker.turn.locked()


def test_its_processor_time_can_be_read_once_its_clock_runs() -> None:
    """In seconds, and 0 before."""
    taker = Taker(Giver())
    assert taker.processor_time() == 0.0
    taker.start_clock()
    assert taker.processor_time() > 0.0
