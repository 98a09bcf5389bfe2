"""The clients: how an operation is repeated by many tasks, or threads, for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Coroutine
from typing import Any

import anyio

from benchmarks.workloads import HOLD, Work

clock = time.perf_counter


class Stretch:
    """A while in which all clients work: how long each operation took, and when the last one ended.

    It is preceded by a quarter as long, in which connections are opened, and in any case by as many
    operations as there are tasks. Nothing of that is in the figures. One operation at least is, also
    where the machine was busy with something else for all of the while.
    """

    def __init__(self, seconds: float, tasks: int) -> None:
        self._seconds = seconds
        self._tasks = tasks
        self._warm_until = clock() + seconds / 4
        # How long each operation took, before and after; several threads append to them.
        self.warm: list[float] = []
        self.took: list[float] = []
        self._began = self._ended = 0.0
        self._end = float("inf")
        self._processor_seconds = 0.0

    @property
    def seconds(self) -> float:
        return self._ended - self._began

    @property
    def processor_seconds(self) -> float:
        """Return what all threads of this process have used together since the beginning."""
        return time.process_time() - self._processor_seconds

    @property
    def done(self) -> int:
        return len(self.warm) + len(self.took)

    @property
    def is_over(self) -> bool:
        return clock() >= self._end and bool(self.took)

    def note(self, before: float) -> float:
        """Note that an operation has ended that began then; return when that is."""
        now = clock()
        if self._began:
            self.took.append(now - before)
            self._ended = now
            return now
        self.warm.append(now - before)
        if now >= self._warm_until and len(self.warm) >= self._tasks:
            self._processor_seconds = time.process_time()
            self._began, self._end = now, now + self._seconds
        return now

    async def repeat(self, contender: Any, work: Work, task: int) -> None:
        """Do the work one after another until the while is over: what every client is.

        An operation's time begins when the one before has ended, so it includes the wait
        for a connection.
        """
        number, before = task, clock()
        try:
            while not self.is_over:
                async with contender.client():
                    for _ in range(HOLD):
                        if self.is_over:
                            break
                        await work(contender, task, number)
                        number, before = number + self._tasks, self.note(before)
        finally:
            await contender.leave()


async def work_for(seconds: float, contender: Any, work: Work, tasks: int) -> Stretch:
    """Have so many clients do the work for so many seconds, and end what they began."""
    stretch = Stretch(seconds, tasks)
    clients = [stretch.repeat(contender, work, task) for task in range(tasks)]
    if contender.is_synchronous:
        drive_all(clients)
    else:
        async with anyio.create_task_group() as group:
            for client in clients:
                group.start_soon(_await, client)
    return stretch


async def _await(client: Coroutine[Any, Any, None]) -> None:
    await client


def drive_all(coroutines: list[Coroutine[Any, Any, Any]]) -> None:
    """Run coroutines that never suspend, each on a thread of its own; raise the first error."""
    errors: list[BaseException] = []

    def guarded(coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            drive(coroutine)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(coroutine,)) for coroutine in coroutines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never suspends on the calling thread, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("a synchronous contender suspended")
