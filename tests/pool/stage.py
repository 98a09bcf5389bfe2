"""One worker without a pool, on a thread of its own, and what happens around its jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from async_peewee._pool.jobs import Job, State
from async_peewee._pool.worker import Worker, current_worker
from tests.fakes import FakeConnection


class SolePool:
    """Stands for the pool of a single worker, and notes what the worker reports."""

    def __init__(self) -> None:
        self.refuses_start = False
        self.replies: list[Job] = []
        self.failures: list[BaseException] = []
        self.gone_workers: list[Worker] = []

    def started(self, worker: Worker) -> bool:
        return not self.refuses_start

    def is_wanted(self, worker: Worker) -> bool:
        return not self.refuses_start

    def connected(self, worker: Worker) -> Job | None:
        return None

    def connect_failed(self, worker: Worker, error: BaseException) -> None:
        self.failures.append(error)

    def finished(self, worker: Worker, job: Job) -> Job | None:
        job.state, worker.job = State.DONE, None
        if job.ends_lease or (job.takes_lease and job.error is None):
            worker.lease = None if job.ends_lease else job.lease
        if worker.write_lock is not None and (lock := worker.give_back_write_lock(job)) is not None:
            lock.release()
        if job.finished is not None:
            job.finished.set()
        self.replies.append(job)
        return None

    def give_up_turn(self, turns: Any) -> None: ...

    def take_back_turn(self, turns: Any) -> bool:
        return True

    def should_end(self, worker: Worker) -> bool:
        return False

    def gone(self, worker: Worker) -> None:
        self.gone_workers.append(worker)


class Stage:
    """A worker with everything around it, on a thread that ends with the test."""

    def __init__(self) -> None:
        # Untyped: a test replaces methods of it where it wants something else to happen.
        self.connection: Any = FakeConnection()
        self.pool = SolePool()
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

    def put(self, job: Job) -> Job:
        """Give the worker a job, as the pool does when it is that job's turn."""
        job.state, job.worker, self.worker.job = State.RUNNING, self.worker, job
        self.worker.inbox.put(job)
        return job

    def serve(self, *jobs: Job) -> None:
        """Let the worker do these jobs, and end."""
        for job in jobs:
            self.put(job)
        with self.serving():
            pass

    def strikes(self) -> list[str]:
        return [call for call in self.connection.calls if call in {"interrupt", "kill"}]

    def interrupt(self, job: Job) -> None:
        """Interrupt a job, as the pool does when it is cancelled."""
        self.worker.interrupter.interrupt(job)

    def pursuer(self) -> threading.Thread:
        """Return the thread that interrupts."""
        return next(t for t in threading.enumerate() if t.name == f"{self.worker.name} interrupt")


def wait_for(event: threading.Event) -> None:
    assert event.wait(10)


class Step:
    """A job that runs, deaf to interrupts, until the test lets it end."""

    def __init__(self, stage: Stage, label: str = "step") -> None:
        self.running, self.end = threading.Event(), threading.Event()
        self.job = stage.put(Job(self._run, label))

    def _run(self) -> None:
        self.running.set()
        wait_for(self.end)


class Guard:
    """A worker's guard at which a test sees the interrupting thread come and go."""

    def __init__(self, worker: Worker) -> None:
        interrupter: Any = worker.interrupter
        self._real: Any = interrupter._guard
        interrupter._guard = self
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
