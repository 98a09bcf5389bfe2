"""Scheduler: all state of a pool, and what is to be done next. It decides; the pool acts.

Every event is told to it once, under the pool's lock, and is answered by one record of
Actions. It does no I/O, has no lock, and calls nobody back.
"""

from __future__ import annotations

import copy
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from .._errors import PoolClosed, PoolFull, PoolTimeout
from .._settings import PoolSettings
from .gil import GilTurns, make_gil
from .jobs import Job, JobQueue, Lease, State
from .worker import Worker, WorkerState
from .write_lock import Waiter, WriteLock

# How often the loop's thread watches, while jobs wait, whether the worker that has the turn
# gets on, in seconds: a statement that lasts so long may well last much longer.
WATCH_BUSY = 0.002

# How often it does while nobody has the turn: all workers wait for the database.
WATCH_IDLE = 0.02

# The most replies that one wake of the loop brings.
BATCH = 32

# How long the pool does not try to grow after it has failed to, in seconds, as long as other
# workers live: a server that takes no more connections is not to be asked for each call.
GROWTH_PAUSE = 1.0

# The states of workers that have connected and go on.
LIVE = (WorkerState.IDLE, WorkerState.BUSY, WorkerState.LEASED)


class Actions:
    """What is to be done after one event, outside the lock. Most of it is empty most of the time."""

    # The next job of the worker whose event it was.
    run_now: Job | None = None
    # Jobs to put into the inboxes of their workers.
    hand_out: tuple[Job, ...] = ()
    # Workers that have their turn back, in the middle of a job.
    resume: tuple[GilTurns, ...] = ()
    # New workers, which need a thread.
    hire: tuple[Worker, ...] = ()
    # Workers to tell that they end.
    stop: tuple[Worker, ...] = ()
    # Jobs that end without having run, with their errors.
    refuse: tuple[tuple[Job, BaseException], ...] = ()
    # Jobs that run and are to be interrupted.
    interrupt: tuple[Job, ...] = ()
    # A write lock to release, and to whom, if that is somebody else's waiter.
    release: WriteLock | None = None
    release_to: Waiter | None = None
    # How many replies may wait for one another meanwhile; whether those that wait are to be sent.
    batch = 0
    flush = False
    # In how many seconds the loop's thread has to begin to watch, or to watch again; None: not.
    watch: float | None = None
    watch_again: float | None = None
    # Whether a job has got the write lock; whether one was dropped.
    is_granted = False
    is_dropped = False
    # Whether the pool has just learned that it cannot grow.
    is_refused = False


class Scheduler:
    """The jobs that wait, the workers, their leases, and the turns. All of it under the pool's lock."""

    def __init__(
        self,
        name: str,
        settings: PoolSettings,
        make_worker: Callable[[str], Worker],
        grant: Callable[[Job], bool],
    ) -> None:
        self.name = name
        self._settings = settings
        self._make_worker = make_worker
        # What a write lock calls, on whichever thread releases it, for a job that waits there.
        self._grant = grant
        self.workers: set[Worker] = set()
        # Last in, first out: the worker used most recently is warm, and the others can retire.
        self.idle: list[Worker] = []
        # How many connect.
        self._coming = 0
        self._numbered = 0
        # Whether connecting is mostly waiting, as the last worker's connection has said.
        self._opens_slowly = False
        # Jobs that take whichever worker is free.
        self._queue = JobQueue(settings.acquire_timeout)
        # Jobs whose worker is free for them, and that wait for its turn.
        self._placed: deque[Job] = deque()
        self._placed_are_next = False
        self._gil = make_gil()
        # Whether the loop's thread watches what waits, and whether replies rely on it.
        self._is_watched = False
        self._replies_wait = False
        # Why the last attempt to connect failed, and until when none is made.
        self._connect_error: BaseException | None = None
        self._no_growth_until = 0.0
        # Whether growing has failed, and no worker has connected after the pause: one at a time tries.
        self._is_refused = False
        self.is_closing = False
        self.calls = 0
        self.counts: Counter[str] = Counter()

    # -- what comes in ------------------------------------------------------------------

    def submit(self, job: Job) -> Actions:
        """Put a job on its way. Raises PoolClosed, PoolFull or TransactionFinished."""
        actions = Actions()
        if job.lease is not None and not job.takes_lease:
            if self._place_leased(job, job.lease, actions):
                return actions
        elif self.is_closing:
            raise PoolClosed(self.name)
        elif not self.idle or self._gil.free <= 0 or self._queue.ready:
            self._check_room(job)
            self._queue.put(job)
            self._dispatch(actions)
        # The short way: a worker is idle, and nobody waits.
        elif job.write_lock is None or self._take_write_lock(job):
            worker = self.idle.pop()
            self._begin(job, worker)
            self._gil.take(worker.turns)
            actions.hand_out = (job,)
            return actions
        self._begin_watching(actions)
        return actions

    def end(self, lease: Lease, last: Job) -> Actions:
        """End a lease with a last job, after those that were placed for it. Raises as submit() does."""
        actions = Actions()
        last.ends_lease = True
        begins = self._place_leased(last, lease, actions)
        lease.state = Lease.ENDING
        if not begins:
            self._begin_watching(actions)
        return actions

    def _place_leased(self, job: Job, lease: Lease, actions: Actions) -> bool:
        """Give a job to the worker of its lease, behind others that are there; True: it begins at once."""
        worker = lease.worker
        if lease.state is not Lease.HELD:
            raise lease.end_error()
        if worker.state is WorkerState.STOPPING:
            raise PoolClosed(self.name)
        if worker.job is None and self._gil.free > 0:
            self._begin(job, worker)
            self._gil.take(worker.turns)
            actions.hand_out = (job,)
            return True
        job.state, job.worker = State.PLACED, worker
        lease.jobs.append(job)
        if worker.job is None:
            self._place_next(worker)
        return False

    def _check_room(self, job: Job) -> None:
        """Refuse a job where so many wait already for the end of another's."""
        limit = self._settings.max_waiting
        if limit is None:
            return
        # Those do not count for whom there is a worker, or room for one.
        occupied = sum(w.lease is not None or w.job is not None for w in self.workers)
        is_locked = job.write_lock is not None and job.write_lock.is_held
        free = 0 if is_locked else self._settings.pool_size - occupied
        if self._queue.waiting - free >= limit:
            self.counts["refused"] += 1
            raise PoolFull(self.name, limit)

    def _take_write_lock(self, job: Job) -> bool:
        """Return True if a job has the write lock that it needs; False: it waits for it.

        A job takes it only together with a worker. One that held it in the queue would wait for
        workers that wait for the lock.
        """
        lock = job.write_lock
        if lock is None or lock.acquire(Waiter(self._grant, job, self)):
            return True
        self._queue.start_clock(job)
        job.state = State.AT_LOCK
        return False

    def lock_free(self, job: Job) -> Actions:
        """Give a job the write lock that it has waited for, or have it decline.

        It does so without an idle worker, and is then among the first to try again.
        """
        actions = Actions()
        actions.is_granted = self._give_lock(job)
        self._dispatch(actions)
        return actions

    def _give_lock(self, job: Job) -> bool:
        if job.state is not State.AT_LOCK:
            return False
        if self.idle:
            self._queue.leave(job, State.PLACED)
            self._place(job, self.idle.pop())
            return True
        self._queue.put_back(job)
        return False

    def _pass_lock_on(self, lock: WriteLock, actions: Actions) -> None:
        """Give a released write lock to the next of our jobs; other waiters are granted it outside."""
        while (waiter := lock.take_next()) is not None:
            if waiter.scheduler is not self:
                actions.release, actions.release_to = lock, waiter
                return
            if self._give_lock(waiter.job):
                return

    def cancel(self, job: Job) -> Actions:
        """Drop a job that does not run yet, or have it interrupted."""
        actions = self.drop(job)
        if job.state is State.RUNNING:
            actions.interrupt = (job,)
        return actions

    def drop(self, job: Job) -> Actions:
        """Drop a job, if it does not run yet."""
        self.counts["cancelled"] += 1
        actions = Actions()
        if job.state in (State.QUEUED, State.AT_LOCK):
            self._queue.drop(job)
        elif job.state is State.PLACED:
            self._drop_placed(job, actions)
        actions.is_dropped = job.state is State.DROPPED
        return actions

    def _drop_placed(self, job: Job, actions: Actions) -> None:
        self._queue.drop(job)
        worker = job.worker
        if worker.job is job:  # else it waits behind another one of its lease
            worker.job = None
            actions.release = job.write_lock
            self._settle(worker, actions)
            self._dispatch(actions)

    # -- what becomes of a worker -------------------------------------------------------

    def started(self, worker: Worker) -> bool:
        """Note that a worker's thread runs; False: it was stopped before it began."""
        worker.is_started = worker.state is WorkerState.COMING
        return worker.is_started

    def is_wanted(self, worker: Worker) -> bool:
        """Return True if somebody still waits for a worker that connects."""
        return worker.state is WorkerState.COMING and self._queue.waiting > 0

    def connected(self, worker: Worker) -> Actions:
        """Note that a worker can take a job; return its first."""
        actions = Actions()
        # Else it began before others failed, and says nothing of what the server takes now.
        if time.monotonic() >= self._no_growth_until:
            self._connect_error, self._is_refused = None, False
        if worker.state is WorkerState.COMING:
            self._coming -= 1
            self._settle(worker, actions)
            self._dispatch(actions, worker)
        return actions

    def attempt_failed(self, worker: Worker, error: BaseException) -> Actions:
        """Note that an attempt to connect has failed: beside others that live a worker makes no second one.

        It would knock at a server that is full for as long as anybody waits.
        """
        actions = Actions()
        self.counts["failed_connects"] += 1
        if worker.state is WorkerState.COMING and any(other.state in LIVE for other in self.workers):
            self._refuse_growth(error, actions)
            self._stop(worker, actions)
        return actions

    def connect_failed(self, worker: Worker, error: BaseException) -> Actions:
        """Note that a worker could not connect: calls wait for the others, if there are any."""
        actions = Actions()
        self._connect_error = error
        self._stop(worker, actions)
        if any(other.state is not WorkerState.STOPPING for other in self.workers):
            self._refuse_growth(error, actions)
        elif (job := self._queue.drop_first()) is not None:
            actions.refuse += ((job, error),)
        return actions

    def _refuse_growth(self, error: BaseException, actions: Actions) -> None:
        """Let the pool not grow for a while."""
        actions.is_refused, self._is_refused = not self._is_refused, True
        self._connect_error = error
        self._no_growth_until = time.monotonic() + GROWTH_PAUSE

    def finished(
        self, worker: Worker, job: Job, spent: tuple[float, float] | None, lock: WriteLock | None
    ) -> Actions:
        """Note that a job has ended; return the next one for its worker.

        `spent`: what it has computed and waited, in seconds, where that decides about turns.
        `lock`: the write lock that its worker gives back.
        """
        actions = Actions()
        job.state = State.DONE
        worker.job = None
        if job.lease is not None:
            self._note_lease(worker, job, job.lease)
        self._settle(worker, actions)
        if lock is not None:
            self._pass_lock_on(lock, actions)
        self._gil.give_up(worker.turns)
        if spent is not None:
            self._gil.learn(*spent)
        self._dispatch(actions, worker)
        if self._placed:
            # It stood behind this job, and the turn went to another worker.
            self._begin_watching(actions)
        if self._is_watched and self._gil.free <= 0:
            actions.batch = self._take_batch()
        return actions

    def _note_lease(self, worker: Worker, job: Job, lease: Lease) -> None:
        if job.takes_lease and job.error is None:
            lease.state, lease.worker, lease.since = Lease.HELD, worker, time.monotonic()
            worker.lease = lease
        elif job.takes_lease or job.ends_lease:
            lease.state = Lease.ENDED
            worker.lease = None

    def _settle(self, worker: Worker, actions: Actions) -> None:
        """Let a worker without a job wait for the next one, or end."""
        if worker.state is WorkerState.STOPPING:
            return
        if worker.lease is not None:
            worker.state = WorkerState.LEASED
            if worker.lease.jobs:
                self._place_next(worker)
        elif self.is_closing:
            self._stop(worker, actions)
        else:
            worker.state = WorkerState.IDLE
            worker.idle_since = time.monotonic()
            self.idle.append(worker)

    def retire(self, worker: Worker, now: float) -> Actions:
        """End a worker that nobody has wanted for long; its own thread asks, without work."""
        actions = Actions()
        # Those that are ending still count as workers: their threads are not free yet.
        staying = sum(other.state is not WorkerState.STOPPING for other in self.workers)
        is_spare = staying > self._settings.pool_min_size
        is_tired = worker.state is WorkerState.IDLE and now - worker.idle_since >= self._settings.idle_timeout
        if is_spare and is_tired:
            self._stop(worker, actions)
        return actions

    def _stop(self, worker: Worker, actions: Actions) -> None:
        """Have a worker end after the job that it runs; what was placed for it is refused."""
        if worker.state in (WorkerState.STOPPING, WorkerState.GONE):
            return
        if worker.state is WorkerState.IDLE:
            self.idle.remove(worker)
        elif worker.state is WorkerState.COMING:
            self._coming -= 1
        worker.state = WorkerState.STOPPING
        actions.stop += (worker,)
        placed = list(worker.lease.jobs) if worker.lease is not None else []
        if worker.job is not None and worker.job.state is State.PLACED:
            placed.append(worker.job)
            actions.release, worker.job = worker.job.write_lock, None
        for job in placed:
            if job.state is State.PLACED:
                self._queue.drop(job)
                actions.refuse += ((job, PoolClosed(self.name)),)

    def gone(self, worker: Worker) -> Actions:
        """Note that a worker's thread is through with it."""
        actions = Actions()
        self._stop(worker, actions)
        actions.stop = ()  # nobody reads its inbox any more
        self._gil.give_up(worker.turns)
        worker.state = WorkerState.GONE
        self.workers.discard(worker)
        if worker.lease is not None:
            worker.lease.closed_pool = self.name
            worker.lease.state, worker.lease = Lease.ENDED, None
        self._dispatch(actions)
        return actions

    def close(self) -> Actions:
        """Refuse new work; end the workers that neither have a job nor a lease, and what waits."""
        actions = Actions()
        self.is_closing = True
        for worker in list(self.workers):
            if worker.state in (WorkerState.IDLE, WorkerState.COMING):
                self._stop(worker, actions)
        actions.refuse += tuple((job, PoolClosed(self.name)) for job in self._queue.drop_all())
        return actions

    def dismiss(self, *workers: Worker) -> Actions:
        """End workers at once: what they run is interrupted, and those without a thread are gone."""
        actions = Actions()
        for worker in workers:
            self._stop(worker, actions)
            if worker.job is not None:
                worker.job.closed_pool = self.name
                actions.interrupt += (worker.job,)
        return actions

    # -- turns --------------------------------------------------------------------------

    def give_up_turn(self, turns: GilTurns) -> Actions:
        """Pass the turn on: its worker is going to wait."""
        actions = Actions()
        if self._gil.give_up(turns):
            self._dispatch(actions)
            actions.flush = self._gil.free > 0
        return actions

    def take_back_turn(self, turns: GilTurns) -> bool:
        """Return True if a worker has its turn again; False: it has to wait until it is resumed."""
        return self._gil.take_back(turns)

    def continue_without_turn(self, turns: GilTurns) -> bool:
        """Return False if a worker goes on without the turn; True: it has got it just now."""
        return not self._gil.continue_without(turns)

    # -- what runs next -----------------------------------------------------------------

    def _dispatch(self, actions: Actions, finisher: Worker | None = None) -> None:
        """Give the turn, while it is free, to whoever is next; hire where that would help."""
        gil = self._gil
        if not (self._queue.waiting or self._placed or gil.returning):
            return
        while gil.free > 0:
            turns = gil.take_returning()
            if turns is not None:
                actions.resume += (turns,)
                continue
            job = self._choose()
            if job is None:
                self._hire(actions)
                return
            gil.take(job.worker.turns)
            if job.worker is finisher:
                actions.run_now = job
            else:
                actions.hand_out += (job,)

    def _choose(self) -> Job | None:
        """Return the next job, with its worker: by turns of those that have one and those that do not."""
        if not self._placed:
            return self._next_queued()
        self._placed_are_next = not self._placed_are_next
        if self._placed_are_next:
            return self._next_placed() or self._next_queued()
        return self._next_queued() or self._next_placed()

    def _next_placed(self) -> Job | None:
        while self._placed:
            job = self._placed.popleft()
            if job.state is State.PLACED:
                self._begin(job, job.worker)
                return job
        return None

    def _next_queued(self) -> Job | None:
        while self.idle and (job := self._queue.pop()) is not None:
            if self._take_write_lock(job):
                self._begin(job, self.idle.pop())
                return job
        return None

    def _begin(self, job: Job, worker: Worker) -> None:
        """Note that a worker runs a job."""
        if job.deadline:
            self._queue.leave(job, State.RUNNING)
        job.state = State.RUNNING
        job.worker, worker.job = worker, job
        worker.state = WorkerState.BUSY
        self.calls += 1

    def _place_next(self, worker: Worker) -> None:
        """Let the next job of a worker's lease wait for the turn."""
        assert worker.lease is not None
        jobs = worker.lease.jobs
        while jobs:
            job = jobs.popleft()
            if job.state is State.PLACED:
                self._place(job, worker)
                return

    def _place(self, job: Job, worker: Worker) -> None:
        """Let a job, whose worker is free for it, wait for the turn."""
        job.worker, worker.job = worker, job
        worker.state = WorkerState.BUSY
        self._placed.append(job)

    def _hire(self, actions: Actions) -> None:
        """Add workers if they would find work, and the pool may have more."""
        waiting = self._queue.ready
        if not waiting or self.idle or self.is_closing:
            return
        if self.workers and time.monotonic() < self._no_growth_until:
            return
        # One at a time where connecting is computing, for it may be done with all before another comes;
        # and where the server took no more the last time.
        most = waiting if self._opens_slowly and not self._is_refused else 1
        room = self._settings.pool_size - len(self.workers)
        for _ in range(min(most - self._coming, room)):
            self._numbered += 1
            worker = self._make_worker(f"{self.name} worker {self._numbered}")
            self._opens_slowly = worker.connection.opens_slowly
            self._coming += 1
            self.workers.add(worker)
            actions.hire += (worker,)

    # -- watching -----------------------------------------------------------------------

    def _is_waiting(self) -> bool:
        """Return True if a job waits, for a worker or for its turn."""
        return self._queue.waiting > 0 or bool(self._placed)

    def _begin_watching(self, actions: Actions) -> None:
        """Have the loop's thread watch what waits, if it does not yet."""
        if not self._is_watched and self._is_waiting():
            self._is_watched = True
            actions.watch = WATCH_BUSY

    def watch(self, now: float) -> Actions:
        """Time out what waits too long, and free the turn of a worker that waits itself."""
        actions = Actions()
        actions.refuse = self._drop_overdue(now)
        self._gil.free_if_stuck(now)
        self._dispatch(actions)
        actions.watch_again = self._next_watch(now)
        return actions

    def _drop_overdue(self, now: float) -> tuple[tuple[Job, BaseException], ...]:
        waiting = self._queue.waiting  # before: the errors say how many wait
        make_error: Callable[[], BaseException] | None = None
        refused: list[tuple[Job, BaseException]] = []
        while (job := self._queue.first_overdue(now)) is not None:
            if job.state is State.AT_LOCK and job.write_lock is not None:
                error: BaseException = self._lock_error(job.write_lock, now)
            else:
                # Once for all of them: it asks every worker what holds it.
                make_error = make_error or self._timeout_error(now, waiting)
                error = make_error()
            self._queue.drop(job)
            refused.append((job, error))
        self.counts["timed_out"] += len(refused)
        return tuple(refused)

    def _lock_error(self, lock: WriteLock, now: float) -> PoolTimeout:
        """Return the error of a job that has waited too long at the write lock, with workers to spare."""
        return PoolTimeout.of_write_lock(self.name, self._settings.acquire_timeout, lock.describe(now))

    def _timeout_error(self, now: float, waiting: int) -> Callable[[], BaseException]:
        """Return what makes the error of a job that has waited too long for a worker."""
        settings = self._settings
        if not any(worker.lease or worker.job for worker in self.workers):
            if self._connect_error is not None:
                return partial(copy.copy, self._connect_error)
            if self._coming:
                return lambda: PoolTimeout.of_connecting(self.name, settings.acquire_timeout, waiting)
        holders = [text for worker in self.workers if (text := worker.describe(now))]
        refusal = self._connect_error if self._is_refused else None
        return lambda: PoolTimeout.of_workers(
            self.name, settings.acquire_timeout, settings.pool_size, waiting, holders, refusal
        )

    def _next_watch(self, now: float) -> float | None:
        """Return in how many seconds the loop's thread has to watch again, None if nothing waits."""
        self._is_watched = self._is_waiting() or self._replies_wait
        self._replies_wait = False
        if not self._is_watched:
            return None
        pause = WATCH_IDLE if self._gil.free > 0 else WATCH_BUSY
        deadline = self._queue.next_deadline()
        return pause if deadline is None else max(0.0, min(pause, deadline - now))

    def _take_batch(self) -> int:
        """Return how many replies may wait for one another: as many as there are jobs waiting.

        Then the loop gives out new jobs while these are done.
        """
        batch = min(self._queue.waiting + len(self._placed), BATCH)
        self._replies_wait = self._replies_wait or batch > 0
        return batch

    @property
    def waiting(self) -> int:
        """How many jobs wait for a worker or for the write lock."""
        return self._queue.waiting

    # -- what must always be true --------------------------------------------------------

    def check(self) -> None:
        """Fail unless every invariant holds; after each event where ASYNC_PEEWEE_CHECK=1."""
        self._queue.check()
        idle = [worker for worker in self.workers if worker.state is WorkerState.IDLE]
        assert len(self.idle) == len(set(self.idle)), "a worker stands among the idle twice"
        assert set(self.idle) == set(idle), f"idle: {self.idle}, but {idle} say so"
        assert len(self.workers) <= self._settings.pool_size, f"{len(self.workers)} workers"
        coming = sum(worker.state is WorkerState.COMING for worker in self.workers)
        assert self._coming == coming, f"{self._coming} are counted as coming, {coming} come"
        for worker in self.workers:
            _check_worker(worker)
        for job in self._placed:
            is_placed = job.state is State.PLACED and job.worker.job is job
            assert is_placed or job.state is State.DROPPED, f"{job.label} is placed, and {job.state.value}"
        if self._gil.free > 0:
            assert all(job.state is State.DROPPED for job in self._placed), "a placed job is left"


def _check_worker(worker: Worker) -> None:
    job, lease, name = worker.job, worker.lease, worker.name
    if worker.state in (WorkerState.IDLE, WorkerState.COMING):
        assert job is None, f"{name} {worker.state.value}, with {job and job.label}"
        assert lease is None, f"{name} {worker.state.value}, and is leased"
    if worker.state is WorkerState.LEASED:
        assert lease is not None, f"{name} is leased by nobody"
        assert job is None, f"{name} has a job and waits for one"
    if lease is not None:
        assert lease.worker is worker, f"{lease.label} is of another worker than {name}"
        assert lease.state in (Lease.HELD, Lease.ENDING), f"{lease.label} of {name} is {lease.state}"
    if job is not None:
        assert job.worker is worker, f"{job.label} is of another worker than {name}"
        assert job.state in (State.PLACED, State.RUNNING), f"{job.label} of {name} {job.state.value}"
        own = None if job.takes_lease else job.lease
        assert own is lease, f"{job.label} runs on {name}, which is under another lease"
