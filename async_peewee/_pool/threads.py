"""WorkerThreads: the threads of one pool's workers, each lent by anyio for as long as its worker serves."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import anyio
import anyio.to_thread

from .._eventloops import EventLoop, wait_to_the_end
from .worker import Worker, WorkerState


class WorkerThreads:
    """Give workers a thread, see them through their lives, and wait for their ends. On the loop's thread."""

    def __init__(self, loop: EventLoop, dismiss: Callable[[Worker], None]) -> None:
        self._loop = loop
        # Has a worker end at once.
        self._dismiss = dismiss
        self._empty: anyio.Event | None = None
        # anyio's own default limiter is the whole program's, 40 threads; waiting for one of
        # them, or taking all of them, would tie others to our pool. How many there are, the
        # scheduler decides.
        self._limiter: anyio.CapacityLimiter | None = None

    def hire(self, worker: Worker) -> None:
        """Get a thread for a worker."""
        self._loop.spawn(
            partial(self._own, worker), f"{worker.name}, its owner", partial(self._dismiss, worker)
        )

    async def _own(self, worker: Worker) -> None:
        """See a worker through its whole life, in a task of its own."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(math.inf)
        try:
            # Abandonable for anyio only: cancelled because the loop or run is ending, this
            # task itself stops the worker and waits for it.
            await anyio.to_thread.run_sync(worker.serve, limiter=self._limiter, abandon_on_cancel=True)
        finally:
            if worker.state is not WorkerState.GONE:
                worker.gone = anyio.Event()
                self._dismiss(worker)
                await wait_to_the_end(worker.gone)

    def note_gone(self, worker: Worker, others: set[Worker]) -> None:
        """End the waits for a worker that has gone, and for the last of all."""
        if worker.gone is not None:
            worker.gone.set()
        if not others and self._empty is not None:
            self._empty.set()

    async def wait_until_gone(self, workers: set[Worker], timeout: float, hurry: Callable[[], None]) -> None:
        """Wait `timeout` seconds for all workers to end, then `hurry` them; cancelled: at once."""
        if not workers:
            return
        self._empty = self._empty or anyio.Event()
        try:
            with anyio.move_on_after(timeout):
                await self._empty.wait()
        finally:
            hurry()
            await wait_to_the_end(self._empty)
