"""Worker: jobs one after another on its own thread, and an answer to each of them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from async_peewee._pool.jobs import Job, Lease, State
from async_peewee._pool.worker import current_worker
from async_peewee._pool.write_lock import WriteLock
from tests.fakes import nothing
from tests.pool.stage import Stage


def test_jobs_run_in_order_as_the_worker(stage: Stage) -> None:
    """On a thread that bears its name meanwhile; at the end the connection is closed there."""
    seen: list[Any] = []

    def see(what: str) -> None:
        seen.append((what, current_worker(), threading.current_thread().name))

    stage.connection.close = lambda: see("close")
    stage.serve(Job(lambda: see("first"), "call"), Job(lambda: see("second"), "call"))
    assert seen == [(what, stage.worker, "stage worker 1") for what in ("first", "second", "close")]
    assert stage.afterwards == (None, "lent")
    assert stage.pool.gone_workers == [stage.worker]


def test_one_that_was_stopped_before_it_began_touches_nothing(stage: Stage) -> None:
    """Its thread came late, and does not even say that it is through with it."""
    stage.pool.refuses_start = True
    stage.serve(Job(nothing, "call"))
    assert (stage.connection.calls, stage.pool.replies, stage.pool.gone_workers) == ([], [], [])


def test_a_connection_is_readied_and_settled_around_a_job_and_around_a_block(stage: Stage) -> None:
    """Within a block it is only looked at: nothing may be replaced there."""
    lease = Lease("block")
    call, begin = Job(nothing, "call"), Job(nothing, "begin", lease=lease, takes_lease=True)
    inside, last = Job(nothing, "inside", lease=lease), Job(nothing, "last", lease=lease)
    last.ends_lease = True
    stage.serve(call, begin, inside, last)
    block = ["ensure_connected", "check_transaction", "check_transaction", "clean_up"]
    assert stage.connection.calls == ["ensure_connected", "ensure_connected", "clean_up", *block, "close"]


def test_a_block_that_could_not_begin_is_none(stage: Stage) -> None:
    """The connection is cleaned up, and the worker is under no lease."""
    stage.serve(Job(lambda: 1 / 0, "begin", lease=Lease("block"), takes_lease=True))
    assert stage.worker.lease is None
    assert stage.connection.calls == ["ensure_connected", "ensure_connected", "clean_up", "close"]


def fails(*arguments: object) -> None:
    """Raise what no connection raises."""
    raise ZeroDivisionError


def test_a_connection_that_cannot_be_replaced_is_the_jobs_error(stage: Stage) -> None:
    """The one of the start was there, and is gone when the job comes."""
    ran: list[str] = []
    answers = iter([nothing, fails])
    stage.connection.ensure_connected = lambda check: next(answers)()
    stage.serve(Job(lambda: ran.append("ran"), "call"))
    with pytest.raises(ZeroDivisionError):
        stage.pool.replies[0].outcome()
    assert ran == []


def test_stop_iteration_becomes_a_runtime_error_with_the_calls_name(stage: Stage) -> None:
    """A coroutine cannot raise it."""
    stage.serve(Job(lambda: next(iter(())), "the call"))
    with pytest.raises(RuntimeError, match="the call raised StopIteration") as caught:
        stage.pool.replies[0].outcome()
    assert isinstance(caught.value.__cause__, StopIteration)


def test_what_is_asked_for_at_a_jobs_end_is_done_once_also_after_an_error(stage: Stage) -> None:
    """The visit of one job is none of the next one's."""
    done: list[str] = []

    def fail() -> None:
        stage.worker.at_job_end(lambda: done.append("cleaned up"))
        raise ValueError

    stage.serve(Job(fail, "fails"), Job(lambda: done.append("next"), "next"))
    assert done == ["cleaned up", "next"]


def test_a_worker_without_a_connection_takes_no_job(stage: Stage) -> None:
    """It says why, and ends."""
    ran: list[str] = []
    stage.connection.ensure_connected = fails
    stage.serve(Job(lambda: ran.append("ran"), "call"))
    assert [type(error) for error in stage.pool.failures] == [ZeroDivisionError]
    assert (ran, stage.pool.replies, stage.pool.gone_workers) == ([], [], [stage.worker])


def test_the_write_lock_is_held_as_long_as_the_transaction(stage: Stage) -> None:
    """Taken in the middle of a job, which need not know whether it has it already."""
    lock = WriteLock()
    held: list[bool] = []

    def begin() -> None:
        assert stage.worker.acquire_write_lock(lock, 1)
        assert stage.worker.acquire_write_lock(lock, 1)  # it has it already
        stage.connection.in_a_transaction = True

    def commit() -> None:
        held.append(lock.is_held)
        stage.connection.in_a_transaction = False

    lease = Lease("block")
    first, second = Job(begin, "begin", lease=lease, takes_lease=True), Job(commit, "commit", lease=lease)
    stage.serve(first, second, Job(lambda: held.append(lock.is_held), "after", lease=lease))
    assert held == [True, False]


@pytest.mark.parametrize("ending", ["clean_up", "check_transaction"])
def test_a_caller_is_answered_whatever_happens_to_the_connection(stage: Stage, ending: str) -> None:
    """One that gets no answer waits for ever, and cannot even be cancelled."""
    setattr(stage.connection, ending, fails)
    lease = Lease("block") if ending == "check_transaction" else None
    job = Job(lambda: 42, "call", lease=lease, takes_lease=lease is not None)
    stage.serve(job)
    assert stage.pool.replies == [job]
    assert job.state is State.DONE


def test_the_end_is_reported_whatever_happens_to_the_connection(stage: Stage) -> None:
    """Else close() waits for ever, and the write lock is held for ever."""
    lock = WriteLock()
    stage.connection.close = fails
    stage.connection.in_a_transaction = True
    stage.serve(Job(lambda: stage.worker.acquire_write_lock(lock, 1), "call"))
    assert stage.pool.gone_workers == [stage.worker]
    assert stage.afterwards == (None, "lent")
    assert not lock.is_held
