"""Worker: jobs one after another on its own thread, and interrupts that strike one job only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from async_peewee import PoolClosed
from async_peewee._pool import worker
from async_peewee._pool.jobs import Interrupted, Job, State
from async_peewee._pool.worker import Worker, current_worker
from async_peewee._pool.write_lock import WriteGate
from tests.fakes import FakeConnection


class SoleDispatcher:
    """Stands for the pool of a single worker, and notes what the worker reports."""

    def __init__(self) -> None:
        self.refuses_start = False
        self.replies: list[Job] = []
        self.ended_workers: list[Worker] = []

    def started(self, worker: Worker) -> bool:
        return not self.refuses_start

    def take(self, worker: Worker) -> Job | None:
        return None

    def claim(self, worker: Worker, job: Job) -> bool:
        if job.state is State.QUEUED:
            job.state, worker.running = State.TAKEN, job
        return job.state is State.TAKEN

    def finish(self, worker: Worker, job: Job) -> Job | None:
        job.state, worker.running = State.DONE, None
        if job.unpin or (job.pin and job.error is None):
            worker.lease = None if job.unpin else job.lease
        if job.finished is not None:
            job.finished.set()
        if worker.held_gate is not None:
            worker.leave_gate()
        self.replies.append(job)
        return None

    def step_aside(self, worker: Worker) -> None: ...

    def step_back(self, worker: Worker) -> bool:
        return True

    def go_on(self, worker: Worker) -> bool:
        return False

    def refuse(self, job: Job, error: BaseException) -> None:
        job.error = error
        self.replies.append(job)

    def should_end(self, worker: Worker) -> bool:
        return False

    def ended(self, worker: Worker) -> None:
        self.ended_workers.append(worker)


class Stage:
    """A worker with everything around it, on a thread that ends with the test."""

    def __init__(self) -> None:
        # Untyped: a test replaces methods of it where it wants something else to happen.
        self.connection: Any = FakeConnection()
        self.pool = SoleDispatcher()
        self.worker = Worker(self.pool, self.connection, "stage worker 1")
        self.crash: BaseException | None = None
        # What the thread says of itself when it is the worker's no more.
        self.afterwards: Any = None

    def _run(self) -> None:
        thread = threading.current_thread()
        thread.name = "lent"
        try:
            self.worker.serve()
        except BaseException as error:
            self.crash = error
        self.afterwards = current_worker(), thread.name
        thread.name = "given back"

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Let the worker serve during the block."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.worker.inbox.put(None)
            thread.join(10)
        assert not thread.is_alive()

    def serve(self, *jobs: Job) -> None:
        """Let the worker do these jobs, and end."""
        for job in jobs:
            self.worker.inbox.put(job)
        with self.serving():
            pass

    def strikes(self) -> list[str]:
        return [call for call in self.connection.calls if call in {"interrupt", "kill"}]

    def pursuer(self) -> threading.Thread:
        """Return the thread that interrupts."""
        return next(t for t in threading.enumerate() if t.name == f"{self.worker.name} interrupt")


@pytest.fixture
def stage() -> Stage:
    return Stage()


def wait_for(event: threading.Event) -> None:
    assert event.wait(10)


class Step:
    """A job that runs, deaf to interrupts, until the test lets it end."""

    def __init__(self, stage: Stage, label: str = "step") -> None:
        self.running, self.end = threading.Event(), threading.Event()
        self.job = Job(self._run, label)
        stage.worker.inbox.put(self.job)

    def _run(self) -> None:
        self.running.set()
        wait_for(self.end)


class Guard:
    """A worker's guard at which a test sees the interrupting thread come and go."""

    def __init__(self, worker: Worker) -> None:
        self._real: Any = worker._guard
        worker._guard = self  # type: ignore[assignment]
        self.comes: Callable[[], Any] = lambda: None
        self.attempts = threading.Semaphore(0)

    def __enter__(self) -> None:
        if self._is_pursued():
            self.comes()
        self._real.acquire()

    def __exit__(self, *error: object) -> None:
        self._real.release()
        if self._is_pursued():
            self.attempts.release()

    def _is_pursued(self) -> bool:
        return threading.current_thread().name.endswith(" interrupt")

    def see_attempts(self, number: int) -> None:
        assert all(self.attempts.acquire(timeout=10) for _ in range(number))


@pytest.fixture
def guard(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Guard:
    monkeypatch.setattr(worker, "PAUSES", (0.001,))
    return Guard(stage.worker)


# -- jobs -----------------------------------------------------------------------------


def test_jobs_run_in_order_as_the_worker(stage: Stage) -> None:
    """On a thread that bears its name meanwhile; at the end the connection is closed there."""
    seen: list[Any] = []

    def see(what: str) -> None:
        seen.append((what, current_worker(), threading.current_thread().name))

    stage.connection.close = lambda: see("close")
    stage.serve(Job(lambda: see("first"), "call"), Job(lambda: see("second"), "call"))
    assert seen == [(what, stage.worker, "stage worker 1") for what in ("first", "second", "close")]
    assert stage.afterwards == (None, "lent")
    assert stage.pool.ended_workers == [stage.worker]


def test_one_that_was_stopped_before_it_began_touches_nothing(stage: Stage) -> None:
    stage.pool.refuses_start = True
    stage.serve(Job(lambda: None, "call"))
    assert (stage.connection.calls, stage.pool.replies, stage.pool.ended_workers) == ([], [], [])


def test_a_dropped_job_never_runs(stage: Stage) -> None:
    ran: list[str] = []
    dropped, other = Job(lambda: ran.append("dropped"), "dropped"), Job(lambda: ran.append("other"), "other")
    dropped.state = State.DROPPED
    stage.serve(dropped, other)
    assert (ran, stage.pool.replies) == (["other"], [other])


def test_a_connection_is_readied_and_settled_around_a_job_and_around_a_block(stage: Stage) -> None:
    """Within a block it is only looked at: nothing may be replaced there."""
    jobs = [Job(lambda: None, "call"), Job(lambda: None, "pin", pin=True)]
    stage.serve(*jobs, Job(lambda: None, "inside"), Job(lambda: None, "unpin", unpin=True))
    block = ["ensure_connected", "check_transaction", "check_transaction", "clean_up"]
    assert stage.connection.calls == ["ensure_connected", "clean_up", *block, "close"]


def test_a_block_that_could_not_begin_is_none(stage: Stage) -> None:
    stage.serve(Job(lambda: 1 / 0, "pin", pin=True))
    assert not stage.worker.pinned
    assert stage.connection.calls == ["ensure_connected", "clean_up", "close"]


def fails(*arguments: object) -> None:
    raise ZeroDivisionError


def test_a_connection_that_cannot_be_had_is_the_jobs_error(stage: Stage) -> None:
    ran: list[str] = []
    stage.connection.ensure_connected = fails
    stage.serve(Job(lambda: ran.append("ran"), "call"))
    with pytest.raises(ZeroDivisionError):
        stage.pool.replies[0].outcome()
    assert ran == []


def test_stop_iteration_becomes_a_runtime_error_with_the_calls_name(stage: Stage) -> None:
    stage.serve(Job(lambda: next(iter(())), "the call"))
    with pytest.raises(RuntimeError, match="the call raised StopIteration") as caught:
        stage.pool.replies[0].outcome()
    assert isinstance(caught.value.__cause__, StopIteration)


def test_what_is_asked_for_at_a_jobs_end_is_done_once_also_after_an_error(stage: Stage) -> None:
    done: list[str] = []

    def fail() -> None:
        stage.worker.at_job_end(lambda: done.append("cleaned up"))
        raise ValueError

    stage.serve(Job(fail, "fails"), Job(lambda: done.append("next"), "next"))
    assert done == ["cleaned up", "next"]


def test_jobs_behind_the_end_are_refused_and_let_the_gate_go(stage: Stage) -> None:
    gate = WriteGate()
    late = Job(lambda: None, "late", gate=gate)
    late.holds_gate = gate.enter(lambda: True)
    stage.connection.close = lambda: stage.worker.inbox.put(late)
    stage.serve()
    with pytest.raises(PoolClosed):
        stage.pool.replies[0].outcome()
    assert not gate.is_held


def test_the_gate_is_held_as_long_as_the_transaction(stage: Stage) -> None:
    gate = WriteGate()
    held: list[bool] = []

    def begin() -> None:
        assert stage.worker.enter_gate(gate, 1)
        assert stage.worker.enter_gate(gate, 1)  # it is through already
        stage.connection.in_a_transaction = True

    def commit() -> None:
        held.append(gate.is_held)
        stage.connection.in_a_transaction = False

    stage.serve(Job(begin, "begin"), Job(commit, "commit"), Job(lambda: held.append(gate.is_held), "after"))
    assert held == [True, False]


@pytest.mark.parametrize("ending", ["clean_up", "check_transaction"])
def test_a_caller_is_answered_whatever_happens_to_the_connection(stage: Stage, ending: str) -> None:
    """One that gets no answer waits for ever, and cannot even be cancelled."""
    setattr(stage.connection, ending, fails)
    job = Job(lambda: 42, "call", pin=ending == "check_transaction")
    stage.serve(job)
    assert stage.pool.replies == [job]
    assert job.state is State.DONE


def test_the_end_is_reported_whatever_happens_to_the_connection(stage: Stage) -> None:
    """Else close() waits for ever, and the gate stays shut."""
    gate = WriteGate()
    stage.connection.close = fails
    stage.connection.in_a_transaction = True
    stage.serve(Job(lambda: stage.worker.enter_gate(gate, 1), "call"))
    assert stage.pool.ended_workers == [stage.worker]
    assert stage.afterwards == (None, "lent")
    assert not gate.is_held


# -- interrupts -----------------------------------------------------------------------


def test_a_running_job_is_interrupted_until_it_has_ended(stage: Stage, guard: Guard) -> None:
    """The first attempt may fall between two statements. Its code can ask whether it was cancelled."""
    step, found = Step(stage, "the call"), []

    def work() -> None:
        wait_for(step.end)
        try:
            stage.worker.check_interrupted()
        except Interrupted as error:
            found.append(str(error))

    step.job.function = lambda: (step.running.set(), work())
    with stage.serving():
        wait_for(step.running)
        stage.worker.cancel(step.job)
        guard.see_attempts(5)
        step.end.set()
    assert stage.strikes()[:5] == ["interrupt"] * 5
    assert found == ["the call was cancelled"]


def test_cancelled_before_it_begins_a_job_is_not_run(stage: Stage) -> None:
    ran: list[str] = []
    job = Job(lambda: ran.append("ran"), "call")
    job.interrupted = True
    stage.serve(job)
    assert isinstance(job.error, Interrupted)
    assert ran == []


def test_an_interrupt_never_hits_the_next_job(stage: Stage, guard: Guard) -> None:
    """Decided while its job ran, it comes when the next one runs, and leaves that alone."""
    knocks, may_enter = threading.Event(), threading.Event()
    guard.comes = lambda: (knocks.set(), wait_for(may_enter))
    first, second = Step(stage, "first"), Step(stage, "second")
    with stage.serving():
        wait_for(first.running)
        stage.worker.cancel(first.job)
        wait_for(knocks)
        first.end.set()
        wait_for(second.running)
        pursuer = stage.pursuer()
        may_enter.set()
        pursuer.join(10)
        second.end.set()
    assert guard.attempts.acquire(timeout=0)
    assert stage.strikes() == []


def test_an_interrupt_that_comes_when_its_job_has_ended_strikes_nothing(stage: Stage, guard: Guard) -> None:
    """While the connection is settled, the statement that it would stop could be the rollback."""
    settling, settled = threading.Event(), threading.Event()
    stage.connection.clean_up = lambda: (settling.set(), wait_for(settled))
    job = Job(lambda: None, "call")
    stage.worker.inbox.put(job)
    with stage.serving():
        wait_for(settling)
        stage.worker.cancel(job)
        guard.see_attempts(3)
        settled.set()
    assert stage.strikes() == []


def test_the_next_job_waits_until_an_interrupt_has_returned(stage: Stage) -> None:
    """A request to cancel that is on its way to the server hits whatever runs when it arrives."""
    striking, began_meanwhile = threading.Event(), list[bool]()
    first, second = Step(stage, "first"), Step(stage, "second")

    def slow_interrupt() -> None:
        striking.set()
        wait_for(first.end)
        began_meanwhile.append(second.running.wait(0.2))

    stage.connection.interrupt = slow_interrupt
    with stage.serving():
        wait_for(first.running)
        stage.worker.cancel(first.job)
        wait_for(striking)
        first.end.set()
        wait_for(second.running)
        second.end.set()
    assert began_meanwhile == [False]


def test_uninterrupted_code_is_left_alone_and_what_follows_is_not(stage: Stage, guard: Guard) -> None:
    """COMMIT is never interrupted; the attempts that found it there go on behind it."""
    inside, struck = threading.Event(), threading.Event()
    stage.connection.interrupt = struck.set
    struck_inside: list[bool] = []

    def work() -> None:
        with stage.worker.uninterrupted():
            inside.set()
            guard.see_attempts(5)
            struck_inside.append(struck.is_set())
        wait_for(struck)

    job = Job(work, "call")
    stage.worker.inbox.put(job)
    with stage.serving():
        wait_for(inside)
        stage.worker.cancel(job)
    job.outcome()
    assert struck_inside == [False]


def test_what_does_not_react_is_cut_off_after_the_grace(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked first, by an interrupt, and ends when its connection is cut."""
    monkeypatch.setattr(worker, "GRACE", 0.05)
    step = Step(stage)
    real_kill = stage.connection.kill
    stage.connection.kill = lambda: (real_kill(), step.end.set())
    with stage.serving():
        wait_for(step.running)
        stage.worker.cancel(step.job)
        wait_for(step.end)
    step.job.outcome()
    assert stage.strikes()[0] == "interrupt"
    assert stage.strikes()[-1] == "kill"


def test_within_the_grace_nothing_is_cut(stage: Stage, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "GRACE", 60)
    step = Step(stage)
    with stage.serving():
        wait_for(step.running)
        stage.worker.cancel(step.job)
        guard.see_attempts(20)
        step.end.set()
    assert "kill" not in stage.strikes()
