"""Deadlines: what is late is called once, what has ended is not, and the thread goes when it can."""

from __future__ import annotations

import threading

import pytest

from async_peewee._pool import deadlines
from async_peewee._pool.deadlines import Deadlines
from tests.pool.stage import Stage, Step, wait_for

# Longer than any test, in seconds.
NEVER = 600.0


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Deadlines:
    """Return deadlines of the test's own, which are looked at often."""
    monkeypatch.setattr(deadlines, "LOOK", 0.01)
    return Deadlines()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "async_peewee deadlines"]


def test_what_is_late_is_called_once(watched: Deadlines) -> None:
    calls: list[str] = []
    late = threading.Event()
    with watched.within(NEVER, lambda: calls.append("in time")):
        first = watched.begin(0, lambda: calls.append("first"))
        second = watched.begin(0.03, lambda: (calls.append("second"), late.set()))  # type: ignore[func-returns-value]
        wait_for(late)
        watched.end(first)
        watched.end(second)
    assert calls == ["first", "second"]
    assert first.was_late


def test_what_ends_meanwhile_waits_for_the_call(watched: Deadlines) -> None:
    """Afterwards its connection may serve somebody else."""
    began, goes_on, ended = threading.Event(), threading.Event(), threading.Event()
    deadline = watched.begin(0, lambda: (began.set(), wait_for(goes_on)))  # type: ignore[func-returns-value]
    wait_for(began)

    def end() -> None:
        watched.end(deadline)
        ended.set()

    ending = threading.Thread(target=end)
    ending.start()
    assert not ended.wait(0.1)
    goes_on.set()
    ending.join(10)
    assert ended.is_set()


def test_the_thread_sleeps_and_goes_with_its_last_guest(watched: Deadlines) -> None:
    """A guest keeps it, so that it is there when no new thread can be had; what begins wakes it."""
    before = set(threads())
    watched.enter()
    (thread,) = set(threads()) - before
    while not watched._is_asleep:
        threading.Event().wait(0.005)
    late = threading.Event()
    watched.begin(0, late.set)
    wait_for(late)
    assert set(threads()) - before == {thread}
    watched.leave()
    thread.join(10)
    assert not thread.is_alive()


def test_without_guests_it_goes_when_there_is_nothing_to_watch(watched: Deadlines) -> None:
    before = set(threads())
    for _ in range(2):
        with watched.within(NEVER, lambda: None):
            (thread,) = set(threads()) - before
        thread.join(10)
        assert not thread.is_alive()


def test_the_child_of_a_fork_begins_anew(watched: Deadlines) -> None:
    """The thread is the parent's, and so is what it watches."""
    calls: list[str] = []
    watched.begin(0.05, lambda: calls.append("the parent's"))
    watched.forget()
    late = threading.Event()
    watched.begin(0, late.set)
    wait_for(late)
    assert not watched._pending


def test_a_commit_is_cut_only_when_the_pool_ends(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that runs then, or begins later; however often its job was interrupted before."""
    monkeypatch.setattr(deadlines, "GRACE", 0.0)
    monkeypatch.setattr(deadlines, "LOOK", 0.01)
    stage.connection.may_overlap = True
    interrupter = stage.worker.interrupter
    inside, ending = threading.Event(), threading.Event()
    kills: list[list[str]] = []

    def work() -> None:
        with interrupter.uninterrupted():
            inside.set()
            wait_for(ending)
            kills.append(list(stage.strikes()))
            interrupter.limit_commit()
            wait_for(cut)
        with interrupter.uninterrupted():
            cut.clear()
            wait_for(cut)

    cut = threading.Event()
    real_kill = stage.connection.kill
    stage.connection.kill = lambda: (real_kill(), cut.set())
    step = Step(stage)
    step.job.function = work
    with stage.serving():
        wait_for(inside)
        stage.interrupt(step.job)
        pursuer = stage.pursuer()
        pursuer.join(0.1)
        ending.set()
    step.job.outcome()
    assert kills == [[]]
    assert step.job.was_cut


def test_the_second_ctrl_c_is_for_one_commit(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of its job, not the next one's on the same worker."""
    monkeypatch.setattr(deadlines, "GRACE", 0.0)
    monkeypatch.setattr(deadlines, "LOOK", 0.01)
    stage.connection.may_overlap = True
    interrupter = stage.worker.interrupter

    def work() -> None:
        with interrupter.uninterrupted():
            interrupter.limit_commit(other.job)
            threading.Event().wait(0.1)

    step, other = Step(stage), Step(stage)
    step.job.function = work
    other.end.set()
    with stage.serving():
        pass
    assert stage.strikes() == []
    assert not step.job.was_cut
