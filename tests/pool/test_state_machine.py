"""The real pool under every order of events: each job ends once, and nobody runs on another's worker.

The machine steps the event loop itself; threads, workers and jobs are real, connections are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import peewee
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from async_peewee import PoolClosed, TransactionFinished
from async_peewee._errors import Interrupted
from async_peewee._eventloops import AsyncioLoop
from async_peewee._pool import gil, scheduler
from async_peewee._pool.jobs import Lease, State
from async_peewee._pool.pool import WorkerPool
from async_peewee._pool.worker import Worker, WorkerState
from async_peewee._pool.write_lock import WriteLock
from async_peewee._settings import PoolSettings
from tests.pool.model import CountedParker, Failure, Faults, Recorded, Server, holder_of

# How many steps one run of the machine has, and how many there are in all, by hand more.
STEPS = 60
SHORT = 600
LONG = int(os.environ.get("ASYNC_PEEWEE_TEST_STEPS", "12000"))

# How long the machine waits for what must come, in seconds.
PATIENCE = 5.0

# Which one of many a rule is about; out of range, it is counted from the start again.
which = st.integers(0, 11)
ways = st.sampled_from(["at once", "at once", "holds", "waits", "fails"])
# Whether a rule does something that would leave little to do for the others, each time.
seldom = st.sampled_from([False, False, False, True])

EXPECTED = (peewee.OperationalError, PoolClosed, TransactionFinished, ConnectionError, Failure, Interrupted)


class Machine(RuleBasedStateMachine):
    """Drive pools as programs do, and compare what they say with what was asked of them."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.faults, self.lock = Faults(), WriteLock()
        self.server = Server(self.faults)
        # Every job that was accepted, with its pool, in this order; and every lease.
        self.jobs: list[tuple[WorkerPool, Recorded]] = []
        self.leases: list[tuple[WorkerPool, Lease]] = []
        self.ahead: list[tuple[WorkerPool, Recorded]] = []
        self.tasks: list[tuple[asyncio.Task[None], Recorded]] = []
        self.closing: list[asyncio.Task[bool]] = []
        self.numbered = 0
        self.pools: list[WorkerPool] = []
        self.open()

    # -- means ------------------------------------------------------------------------

    def open(self) -> None:
        """Open a pool, where the next calls go."""
        resolved = PoolSettings.resolve(pool_size=3, pool_min_size=0, max_waiting=8, acquire_timeout=1000)
        loop: Any = AsyncioLoop(self.loop)
        make_parker = loop.parker
        loop.parker = lambda: CountedParker(make_parker())
        pool = WorkerPool(f"pool {len(self.pools)}", resolved, loop, self.server.connection)
        self._note_broken_invariants(pool)
        self.pools.append(pool)

    def _note_broken_invariants(self, pool: WorkerPool) -> None:
        # Noted, not raised: on a worker's thread an error would end only that.
        check = pool._scheduler.check

        def note() -> None:
            try:
                check()
            except AssertionError as error:
                self.faults.found.append(f"invariant: {error}")

        pool._scheduler.check = note  # type: ignore[method-assign]
        pool._checks = True

    def on_loop(self, function: Callable[[], Any]) -> Any:
        """Call a function on the loop."""

        async def call() -> Any:
            return function()

        return self.loop.run_until_complete(call())

    def turn(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Let the loop turn until something is so that must become so."""
        end = time.monotonic() + PATIENCE
        while not condition():
            self.loop.run_until_complete(asyncio.sleep(0.0002))
            assert time.monotonic() < end, f"{what}\n{self.describe()}"

    def describe(self) -> str:
        unfinished = [f"{job.label}: {job.state.value}" for _, job in self.jobs if not job.is_over]
        workers = [f"{w.name} {w.state.value}" for pool in self.pools for w in pool._scheduler.workers]
        return "\n".join([*self.faults.found, *unfinished, *workers])

    def job(self, how: str, **options: Any) -> Recorded:
        self.numbered += 1
        return Recorded(self.faults, self.numbered, how, **options)

    def start(self, pool: WorkerPool, job: Recorded, *, is_waited_for: bool) -> bool:
        """Submit a job, and have a task wait for it; False: it was refused."""
        try:
            self.on_loop(lambda: pool.start(job) if is_waited_for else pool.submit(job))
        except EXPECTED:
            if self.pool.is_closed:
                self.open()
            return False
        self.jobs.append((pool, job))
        if is_waited_for:
            self.tasks.append((self.loop.create_task(self._wait(pool, job)), job))
            self.turn()
        return True

    async def _wait(self, pool: WorkerPool, job: Recorded) -> None:
        await pool.wait(job)

    @property
    def pool(self) -> WorkerPool:
        return self.pools[-1]

    def held(self) -> list[tuple[WorkerPool, Lease]]:
        """Return the leases that are held, without any those that are not."""
        return [pair for pair in self.leases if pair[1].is_held] or self.leases

    def all_workers(self) -> list[Worker]:
        workers = [worker for pool in self.pools for worker in list(pool._scheduler.workers)]
        return sorted(workers, key=lambda worker: worker.name)

    # -- calls ------------------------------------------------------------------------

    @rule(how=ways, writes=st.booleans(), is_waited_for=st.booleans())
    def call(self, how: str, writes: bool, is_waited_for: bool) -> None:
        job = self.job(how, write_lock=self.lock if writes else None)
        was_open = not self.pool.is_closed
        accepted = self.start(self.pool, job, is_waited_for=is_waited_for)
        self.faults.expect(was_open or not accepted, f"{job.label} was accepted by a closed pool")

    @rule(how=ways, writes=st.booleans(), is_waited_for=st.booleans())
    def take_lease(self, how: str, writes: bool, is_waited_for: bool) -> None:
        lease = Lease(f"lease {len(self.leases)}")
        lock = self.lock if writes else None
        job = self.job(how, lease=lease, takes_lease=True, write_lock=lock)
        if self.start(self.pool, job, is_waited_for=is_waited_for):
            self.leases.append((self.pool, lease))

    @rule(calls=st.lists(ways, max_size=4), writes=st.booleans())
    def begin_block(self, calls: list[str], writes: bool) -> None:
        """Take a lease at once, and make some calls in it."""
        lease, lock = Lease(f"lease {len(self.leases)}"), self.lock if writes else None
        job, pool = self.job("at once", lease=lease, takes_lease=True, write_lock=lock), self.pool
        if not self.start(pool, job, is_waited_for=True):
            return
        self.leases.append((pool, lease))
        self.rest()
        for how in calls if lease.is_held else ():
            self.start(pool, self.job(how, lease=lease), is_waited_for=True)

    @rule(number=which, how=ways, is_waited_for=st.booleans())
    def call_in_lease(self, number: int, how: str, is_waited_for: bool) -> None:
        for pool, lease in chosen(self.leases, number):
            job, was_over = self.job(how, lease=lease), is_over(lease)
            accepted = self.start(pool, job, is_waited_for=is_waited_for)
            self.faults.expect(not (was_over and accepted), f"{job.label} came after the end of its lease")

    @rule(number=which, how=ways)
    def fetch_ahead(self, number: int, how: str) -> None:
        for pool, lease in chosen(self.held(), number):
            job = self.job(how, lease=lease)
            with contextlib.suppress(*EXPECTED):
                self.on_loop(lambda pool=pool, job=job: pool.start(job))
                self.jobs.append((pool, job))
                self.ahead.append((pool, job))

    @rule(number=which, is_gentle=st.booleans())
    def drop_stream(self, number: int, is_gentle: bool) -> None:
        """As a stream does that nobody reads any more: its fetch ahead, and its lease."""
        for pool, job in chosen(self.ahead, number):
            assert job.lease is not None
            drop = pool.drop_if_waiting if is_gentle else pool.abandon
            self.on_loop(partial(drop, job))
            job.is_cancelled = True
            self._end_later(pool, job.lease, self.job("at once", lease=job.lease))

    @rule(number=which)
    def end_unseen(self, number: int) -> None:
        """As a finalizer does, in the middle of whatever the pool does."""
        for pool, lease in chosen(self.held(), number):
            self._end_later(pool, lease, self.job("at once", lease=lease))

    def _end_later(self, pool: WorkerPool, lease: Lease, last: Recorded) -> None:
        with pool._lock:
            pool.end_later(lease, last)
        self.turn()
        if last.states != [State.QUEUED]:  # else it came too late, and was let go
            self.jobs.append((pool, last))

    @rule(number=which, how=ways, is_known_to_be_held=st.booleans())
    def end(self, number: int, how: str, is_known_to_be_held: bool) -> None:
        for pool, lease in chosen(self.held() if is_known_to_be_held else self.leases, number):
            last, was_over = self.job(how, lease=lease), is_over(lease)
            task = self.loop.create_task(end(pool, lease, last))
            self.turn()
            if last.states == [State.QUEUED]:
                continue
            self.faults.expect(not was_over, f"{lease.label} was ended twice")
            self.jobs.append((pool, last))
            self.tasks.append((task, last))

    # -- what becomes of them ---------------------------------------------------------

    @rule(number=which)
    def release(self, number: int) -> None:
        for _, job in chosen([pair for pair in self.jobs if not pair[1].is_over], number):
            job.released.set()

    @rule(number=which)
    def cancel(self, number: int) -> None:
        for task, job in chosen([pair for pair in self.tasks if not pair[0].done()], number):
            job.is_cancelled = not job.ends_lease
            task.cancel()
            self.turn()

    @rule()
    def run_out_of_time(self) -> None:
        with self.pool._lock:
            for job in self.pool._scheduler._queue._deadlines:
                job.deadline = min(job.deadline, 0.001)
        self.turn()

    # -- workers ----------------------------------------------------------------------

    @rule(how=st.sampled_from(["is well", "is well", "is slow", "refuses", "is silent"]))
    def change_server(self, how: str) -> None:
        self.server.refuses, self.server.opens_slowly = how == "refuses", how == "is slow"
        (self.server.answers.clear if how == "is silent" else self.server.answers.set)()

    @rule(number=which)
    def lose_connection(self, number: int) -> None:
        for worker in chosen(self.all_workers(), number):
            worker.connection.state["closed"] = True

    @rule(number=which, happens=seldom)
    def lose_worker(self, number: int, happens: bool) -> None:
        """As the end of a run does: the task that owns it is cancelled."""
        for worker in chosen(self.all_workers() if happens else [], number):
            for task in asyncio.all_tasks(self.loop):
                if task.get_name() == f"{worker.name}, its owner":
                    task.cancel()
            self.turn()

    @rule(number=which, happens=seldom)
    def retire(self, number: int, happens: bool) -> None:
        idle = [w for w in self.all_workers() if w.state is WorkerState.IDLE and happens]
        for worker in chosen(idle, number):
            pool: WorkerPool = worker._pool
            pool._tell(pool._scheduler.retire, worker, float("inf"))

    @rule(is_patient=st.booleans(), happens=seldom)
    def close(self, is_patient: bool, happens: bool) -> None:
        pool = self.pool
        if not happens:
            return
        self.closing.append(self.loop.create_task(pool.close(1000 if is_patient else 0)))
        self.turn()

    @rule(happens=seldom)
    def forget(self, happens: bool) -> None:
        """As after a fork: what the old pool had goes on, in the parent, without the new one."""
        if happens:
            self.open()

    @rule()
    def rest(self) -> None:
        """Let everything happen that will happen by itself."""
        self.until(lambda: not self._is_moving(), "it does not come to rest")

    def _is_moving(self) -> bool:
        if any(job.is_moving(self.server) for _, job in self.jobs):
            return True
        connects = self.server.answers.is_set()
        return any(
            (worker.state is WorkerState.COMING and connects)
            or (worker.state is WorkerState.STOPPING and worker.job is None and connects)
            for worker in self.all_workers()
        )

    # -- what holds after each step ---------------------------------------------------

    @invariant()
    def nothing_is_wrong(self) -> None:
        type(self).steps += 1
        for pool in self.pools:
            pool.check()
            self._check_counts(pool)
        if self.faults.found:
            # Printed as well: where it does not happen again, hypothesis says only that.
            print(self.describe())
        assert not self.faults.found, self.describe()

    def _check_counts(self, pool: WorkerPool) -> None:
        with pool._lock:
            jobs, known = [job for other, job in self.jobs if other is pool], pool._scheduler
            waiting = sum(job.state in (State.QUEUED, State.AT_LOCK) for job in jobs)
            begun = sum(State.RUNNING in job.states for job in jobs)
            placed = [job for job in jobs if job.state in (State.PLACED, State.RUNNING)]
            self.faults.expect(known.waiting == waiting, f"{known.waiting} wait, counted {waiting}")
            self.faults.expect(known.calls == begun, f"{known.calls} calls, counted {begun}")
            self.faults.expect(len(known.workers) <= 3, f"{len(known.workers)} workers")
            for worker in known.workers:
                has = worker.job is None or worker.job in placed
                self.faults.expect(has, f"{worker.name} has a job that is over")

    def teardown(self) -> None:
        try:
            self._come_to_an_end()
        finally:
            self._leave_nothing()
        self.nothing_is_wrong()

    def _come_to_an_end(self) -> None:
        """Let go of everything: every job must end, every wait, and every lease."""
        self.change_server("is well")
        self.until(self._is_over, "not everything comes to an end")
        self.until(lambda: not self.lock.is_held, "the write lock is held by nobody")
        self.turn()
        for _, job in self.jobs:
            job.check_end()
        for _, lease in self.leases:
            self._check_order(lease)

    def _is_over(self) -> bool:
        for _, job in self.jobs:
            job.released.set()
        is_over = all(job.is_over for _, job in self.jobs) and all(task.done() for task, _ in self.tasks)
        held = [(pool, lease) for pool, lease in self.leases if lease.is_held]
        for pool, lease in held:
            self._end_later(pool, lease, self.job("at once", lease=lease))
        return is_over and not held

    def _check_order(self, lease: Lease) -> None:
        runs = [run for _, job in self.jobs if job.lease is lease for run in job.runs]
        self.faults.expect(runs == sorted(runs, key=stamp_of), f"{lease.label}: out of order")
        self.faults.expect(len({worker for _, worker in runs}) <= 1, f"{lease.label}: on two workers")
        self.faults.expect(lease.state in (Lease.ENDED, Lease.WANTED), f"{lease.label} is {lease.state}")

    def _leave_nothing(self) -> None:
        self.change_server("is well")
        for _, job in self.jobs:
            job.released.set()
        self.closing += [self.loop.create_task(pool.close(0)) for pool in self.pools]
        waits = [*self.closing, *(task for task, _ in self.tasks)]
        end = time.monotonic() + PATIENCE
        while not all(task.done() for task in waits) and time.monotonic() < end:
            self.loop.run_until_complete(asyncio.sleep(0.0002))
        self.faults.expect(all(task.done() for task in self.closing), "close() does not end")
        self.faults.expect(holder_of(self.lock, set(self.all_workers())) is None, "a worker has the lock")
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


async def end(pool: WorkerPool, lease: Lease, last: Recorded) -> None:
    """End a lease, if it has not ended yet."""
    with contextlib.suppress(*EXPECTED):
        await pool.end(lease, last)


def is_over(lease: Lease) -> bool:
    """Whether a lease ends or has ended: it will never be held again."""
    return lease.state in (Lease.ENDING, Lease.ENDED)


def chosen(among: list[Any], number: int) -> Iterator[Any]:
    """Give one of many, if there is one: no draw depends on what threads have done."""
    if among:
        yield among[number % len(among)]


def stamp_of(run: tuple[int, Worker]) -> int:
    return run[0]


@pytest.fixture(autouse=True)
def a_loop_that_sees_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch at each turn of the loop, and do not let time decide what happens next."""
    for name in ("WATCH_BUSY", "WATCH_IDLE"):
        monkeypatch.setattr(scheduler, name, 0)
    monkeypatch.setattr(scheduler, "GROWTH_PAUSE", 1000)
    monkeypatch.setattr(gil, "BUSY_SHARE", float("inf"))


def drive(steps: int) -> None:
    """Run the machine for so many steps or a few more."""
    Machine.steps, begun = 0, time.perf_counter()
    try:
        drive_on(steps)
    finally:
        print(f"{Machine.steps} steps in {time.perf_counter() - begun:.1f} s")


def drive_on(steps: int) -> None:
    while Machine.steps < steps:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=max(1, (steps - Machine.steps) // STEPS + 1),
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_whatever_happens_each_job_ends_once_on_its_own_worker() -> None:
    """A few hundred steps in random order."""
    drive(SHORT)


@pytest.mark.soak
def test_whatever_happens_for_long_each_job_ends_once_on_its_own_worker() -> None:
    """Many thousand; as many as ASYNC_PEEWEE_TEST_STEPS says."""
    drive(LONG)
