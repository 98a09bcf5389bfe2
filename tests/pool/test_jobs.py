"""Job and JobQueue: an outcome that is given once, and an order of arrival that drops nobody else."""

from __future__ import annotations

import contextvars
import random
import time
import weakref

import pytest

from async_peewee._pool.jobs import Job, JobQueue, State

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


def job(label: str = "call") -> Job:
    return Job(lambda: None, label)


def labels(jobs: list[Job]) -> list[str]:
    return [one.label for one in jobs]


def drop_overdue(queue: JobQueue, now: float) -> list[Job]:
    dropped = []
    while (one := queue.first_overdue(now)) is not None:
        queue.drop(one)
        dropped.append(one)
    return dropped


class Thing:
    """An object that a weak reference can watch."""


# -- Job ------------------------------------------------------------------------------


def test_a_new_job_waits_and_asks_for_nothing() -> None:
    new = job()
    assert new.state is State.QUEUED
    assert (new.takes_lease, new.ends_lease, new.interrupted, new.deadline) == (False, False, False, 0.0)
    assert (new.worker, new.lease, new.write_lock, new.parker, new.finished) == (None,) * 5


def test_an_outcome_is_the_result_and_is_let_go() -> None:
    """A job that somebody still holds does not keep the rows alive."""
    done = job()
    done.result = thing = Thing()
    watch = weakref.ref(thing)
    assert done.outcome() is thing
    del thing
    assert watch() is None


def test_an_outcome_is_the_error_without_a_cycle() -> None:
    """The error, and all that its traceback holds, goes when its handler does, without the collector."""

    class Failure(Exception):
        pass

    failed = job()
    failed.error = Failure()
    watch = weakref.ref(failed.error)
    with pytest.raises(Failure):
        failed.outcome()
    assert watch() is None
    assert failed.outcome() is None


def test_a_base_exception_is_an_outcome_too() -> None:
    failed = job()
    failed.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        failed.outcome()


def test_a_job_sees_the_context_of_its_maker_and_changes_only_its_own() -> None:
    """As it was when the job was made, not when it runs."""
    tenant.set("a")
    one, other = job(), job()
    tenant.set("b")
    assert one.context.run(tenant.get) == "a"
    one.context.run(tenant.set, "c")
    assert (tenant.get(), other.context.run(tenant.get)) == ("b", "a")


# -- JobQueue -------------------------------------------------------------------------


def filled(*names: str, acquire_timeout: float = 30) -> tuple[JobQueue, list[Job]]:
    queue = JobQueue(acquire_timeout)
    jobs = [job(name) for name in names]
    for one in jobs:
        queue.put(one)
    return queue, jobs


def drained(queue: JobQueue) -> list[str]:
    taken = []
    while (one := queue.pop()) is not None:
        taken.append(one.label)
        queue.leave(one, State.RUNNING)
    return taken


def test_first_come_first_served() -> None:
    """And each counts as long as it waits."""
    queue, _ = filled("a", "b", "c")
    assert (queue.waiting, queue.ready) == (3, 3)
    assert drained(queue) == ["a", "b", "c"]
    assert (queue.waiting, queue.ready, queue.next_deadline()) == (0, 0, None)


def test_a_dropped_job_is_passed_over() -> None:
    """The others keep their places; its function, and what that holds, is let go at once."""
    queue, jobs = filled("a", "b", "c", "d")
    for number in (1, 0):
        queue.drop(jobs[number])
    assert [one.state for one in jobs] == [State.DROPPED] * 2 + [State.QUEUED] * 2
    assert [one.function is None for one in jobs] == [True, True, False, False]
    assert queue.waiting == 2
    assert drained(queue) == ["c", "d"]
    assert queue.waiting == 0


def test_one_that_has_to_go_back_is_first_again() -> None:
    """A writer that found no worker is neither counted twice nor given more time."""
    queue, jobs = filled("a", "b")
    first = queue.pop()
    assert first is jobs[0]
    deadline = first.deadline
    queue.put_back(first)
    assert (queue.waiting, first.deadline) == (2, deadline)
    assert drained(queue) == ["a", "b"]


def test_one_that_waits_elsewhere_counts_and_is_given_to_no_worker() -> None:
    """At the write lock: its clock runs, and starts once only."""
    queue = JobQueue(30)
    writer = job("writer")
    queue.start_clock(writer)
    writer.state = State.AT_LOCK
    deadline = writer.deadline
    assert (queue.waiting, queue.ready, queue.pop()) == (1, 0, None)
    queue.put_back(writer)
    assert (queue.waiting, queue.ready, writer.deadline) == (1, 1, deadline)
    assert drained(queue) == ["writer"]
    assert queue.waiting == 0


def test_a_deadline_is_acquire_timeout_from_now() -> None:
    """From when the job began to wait."""
    before = time.monotonic()
    queue, jobs = filled("a", acquire_timeout=5)
    assert before + 5 <= jobs[0].deadline <= time.monotonic() + 5
    assert queue.next_deadline() == jobs[0].deadline


def test_a_job_that_never_waited_has_no_deadline() -> None:
    """Taken or dropped, it leaves the count of those who wait alone."""
    queue, _ = filled("a")
    at_once, leased = job("at once"), job("leased")
    queue.leave(at_once, State.RUNNING)
    queue.drop(leased)
    assert queue.waiting == 1
    assert (at_once.state, leased.state) == (State.RUNNING, State.DROPPED)


def with_deadlines(*deadlines: float) -> tuple[JobQueue, list[Job]]:
    queue, jobs = filled(*(f"due {deadline:g}" for deadline in deadlines))
    for one, deadline in zip(jobs, deadlines, strict=True):
        one.deadline = deadline
    return queue, jobs


def test_the_one_that_has_waited_longest_is_dropped_first() -> None:
    """It gets the error of a connection that could not be had; where nobody waits, nobody does."""
    queue, jobs = filled("a", "b")
    queue.drop(jobs[0])
    assert (queue.drop_first(), queue.drop_first()) == (jobs[1], None)
    assert queue.waiting == 0


def test_the_overdue_are_dropped_in_order_and_the_others_stay() -> None:
    """All that are due by then, and none else."""
    queue, _ = with_deadlines(1, 2, 2, 3)
    assert drop_overdue(queue, 0.5) == []
    assert labels(drop_overdue(queue, 2)) == ["due 1", "due 2", "due 2"]
    assert drop_overdue(queue, 2) == []
    assert (queue.waiting, queue.next_deadline()) == (1, 3)
    assert drained(queue) == ["due 3"]


def test_what_is_not_in_the_queue_any_more_is_never_overdue() -> None:
    """Neither one that a worker has nor one that was dropped, wherever in the queue it was."""
    queue, jobs = with_deadlines(1, 2, 3, 4)
    queue.drop(jobs[1])
    assert queue.pop() is jobs[0]
    queue.leave(jobs[0], State.RUNNING)
    assert queue.next_deadline() == 3
    assert labels(drop_overdue(queue, 10)) == ["due 3", "due 4"]
    assert [one.state for one in jobs] == [State.RUNNING, *[State.DROPPED] * 3]


def test_the_next_deadline_is_that_of_one_who_still_waits() -> None:
    """Also when those in front leave in another order than they came."""
    queue, jobs = with_deadlines(1, 2, 3)
    queue.drop(jobs[1])
    assert queue.next_deadline() == 1
    queue.drop(jobs[0])
    assert queue.next_deadline() == 3
    queue.drop(jobs[2])
    assert queue.next_deadline() is None


def test_all_are_dropped_at_the_end() -> None:
    """Those at the write lock as well."""
    queue, _ = filled("a", "b")
    queue.start_clock(job("at the lock"))
    assert labels(queue.drop_all()) == ["a", "b", "at the lock"]
    assert (queue.waiting, queue.pop(), queue.next_deadline()) == (0, None, None)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_count_is_right_and_the_order_kept(seed: int) -> None:
    """A hundred random steps against a plain list of who waits."""
    choose = random.Random(seed)
    queue, waiting = JobQueue(30), list[Job]()
    for number in range(100):
        step = choose.choice(["put", "put", "pop", "drop"])
        if step == "put":
            waiting.append(job(str(number)))
            queue.put(waiting[-1])
        elif step == "drop" and waiting:
            queue.drop(waiting.pop(choose.randrange(len(waiting))))
        elif step == "pop":
            one = queue.pop()
            assert one is (waiting.pop(0) if waiting else None)
            if one is not None:
                queue.leave(one, State.RUNNING)
        queue.check()
        assert queue.waiting == len(waiting)
        assert queue.next_deadline() == (waiting[0].deadline if waiting else None)
