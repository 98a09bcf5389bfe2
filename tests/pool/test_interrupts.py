"""Cancellation: a job that waits never runs, one that runs is interrupted, and never the next one."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest

from async_peewee._errors import Interrupted
from async_peewee._pool import deadlines
from async_peewee._pool.jobs import Job
from tests.fakes import Blocker, FakePool, until_interrupted
from tests.pool.stage import Guard, Stage, Step, wait_for
from tests.support import on_asyncio, wait_until, worker_threads


async def test_cancelled_in_the_queue_a_job_never_runs() -> None:
    """Nine calls on three workers, all cancelled, the queue first: three free workers and no waiter."""
    async with FakePool(pool_size=3) as fake:
        ran: list[int] = []
        scopes = [anyio.CancelScope() for _ in range(9)]

        def numbered(number: int) -> None:
            ran.append(number)
            until_interrupted()

        async def call(number: int) -> None:
            with scopes[number]:
                await fake.run(lambda: numbered(number))

        async with anyio.create_task_group() as group:
            for number in range(9):
                group.start_soon(call, number)
            await wait_until(lambda: len(ran) == 3 and fake.pool.stats().waiting == 6)
            running = list(ran)  # which three, trio leaves to chance
            for number in sorted(range(9), key=lambda number: number in running):
                scopes[number].cancel()
        assert ran == running
        stats = fake.pool.stats()
        assert (stats.idle, stats.waiting, stats.cancelled) == (3, 0, 9)


async def test_cancelled_while_it_runs_a_job_is_interrupted_and_then_its_worker_is_free() -> None:
    """Control comes back when the next call can be served, and not before."""
    async with FakePool(pool_size=1) as fake:
        interrupted, blocker, steps = threading.Event(), Blocker(), list[str]()

        def slow_to_end() -> None:
            until_interrupted()
            interrupted.set()
            blocker()
            steps.append("ended")

        async def call(scope: anyio.CancelScope) -> None:
            with scope:
                await fake.run(slow_to_end)
            steps.append("back")

        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()
            group.start_soon(call, scope)
            await wait_until(lambda: fake.pool.stats().busy == 1)
            scope.cancel()
            await wait_until(blocker.running.is_set)
            group.start_soon(fake.run, lambda: steps.append("next"))
            await wait_until(lambda: fake.pool.stats().waiting == 1)
            assert (steps, len(worker_threads())) == ([], 1)
            blocker.end.set()
        assert scope.cancelled_caught
        assert interrupted.is_set()
        assert steps[0] == "ended"
        assert sorted(steps) == ["back", "ended", "next"]


@on_asyncio
async def test_task_cancel_twice_gives_no_control_back_while_the_job_runs(anyio_backend: Any) -> None:
    async with FakePool(pool_size=1) as fake:
        blocker = Blocker()
        task = asyncio.ensure_future(fake.run(blocker))
        await wait_until(blocker.running.is_set)
        for _ in range(2):
            task.cancel()
            await wait_until(lambda: "interrupt" in fake.connections[0].calls)
            assert not task.done()
        blocker.end.set()
        with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
            await task
        assert fake.pool.stats().idle == 1


async def test_shielded_a_job_is_left_alone_and_the_cancellation_goes_on_after_it() -> None:
    """Like the COMMIT of a block whose task is cancelled."""
    async with FakePool(pool_size=1) as fake:
        blocker, job = Blocker(), list[Job]()

        async def call(scope: anyio.CancelScope) -> None:
            job.append(Job(blocker, "commit"))
            with scope:
                await fake.pool.run(job[0], shielded=True)

        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()
            group.start_soon(call, scope)
            await wait_until(blocker.running.is_set)
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert "interrupt" not in fake.connections[0].calls
            blocker.end.set()
        assert scope.cancelled_caught
        assert job[0].outcome() == "ended"


# -- a worker alone, and the thread that interrupts it ---------------------------------


def test_a_running_job_is_interrupted_until_it_has_ended(stage: Stage, guard: Guard) -> None:
    """The first attempt may fall between two statements. Its code can ask whether it was cancelled."""
    step, found = Step(stage, "the call"), []

    def work() -> None:
        wait_for(step.end)
        try:
            stage.worker.interrupter.check()
        except Interrupted as error:
            found.append(str(error))

    step.job.function = lambda: (step.running.set(), work())
    with stage.serving():
        wait_for(step.running)
        stage.interrupt(step.job)
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
        stage.interrupt(first.job)
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
    job = stage.put(Job(lambda: None, "call"))
    with stage.serving():
        wait_for(settling)
        stage.interrupt(job)
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
        stage.interrupt(first.job)
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
        with stage.worker.interrupter.uninterrupted():
            inside.set()
            guard.see_attempts(5)
            struck_inside.append(struck.is_set())
        wait_for(struck)

    job = stage.put(Job(work, "call"))
    with stage.serving():
        wait_for(inside)
        stage.interrupt(job)
    job.outcome()
    assert struck_inside == [False]


def test_what_does_not_react_is_cut_off_after_the_grace(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked first, by an interrupt, and ends when its connection is cut."""
    monkeypatch.setattr(deadlines, "GRACE", 0.05)
    step = Step(stage)
    real_kill = stage.connection.kill
    stage.connection.kill = lambda: (real_kill(), step.end.set())
    with stage.serving():
        wait_for(step.running)
        stage.interrupt(step.job)
        wait_for(step.end)
    step.job.outcome()
    assert stage.strikes()[0] == "interrupt"
    assert stage.strikes()[-1] == "kill"


def test_within_the_grace_nothing_is_cut(stage: Stage, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "GRACE", 60)
    step = Step(stage)
    with stage.serving():
        wait_for(step.running)
        stage.interrupt(step.job)
        guard.see_attempts(20)
        step.end.set()
    assert "kill" not in stage.strikes()


async def test_a_job_that_begins_while_one_asks_whether_it_waits_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as a fetch ahead: its worker is another thread, which may begin it at any moment."""
    async with FakePool(pool_size=1) as fake:
        lease, first, second = await fake.lease(), Blocker(), Blocker()
        fake.submit(first, lease=lease)
        await wait_until(first.running.is_set)
        job, tell = fake.submit(second, lease=lease), fake.pool._tell

        def late(event: Any, *details: object) -> Any:
            if threading.current_thread() is threading.main_thread() and not first.end.is_set():
                first.end.set()
                assert second.running.wait(10)
            return tell(event, *details)

        monkeypatch.setattr(fake.pool, "_tell", late)
        fake.pool.drop_if_waiting(job)
        assert not job.interrupted
        second.end.set()
        await fake.end(lease)
