"""The clients: how an operation is repeated by many tasks, or threads, for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import anyio

from benchmarks.workloads import HOLD, Work

clock = time.perf_counter


@dataclass
class Stretch:
    """A while in which all clients work: how long each operation took, and when the last one ended."""

    seconds: float
    took: list[float] = field(default_factory=list)
    began: float = field(default_factory=clock)
    ended: float = 0.0
    # Of the processor, all threads of this process together.
    processor_seconds: float = field(default_factory=time.process_time)

    @property
    def rate(self) -> float:
        return len(self.took) / (self.ended - self.began)

    async def repeat(self, contender: Any, work: Work, task: int, tasks: int) -> None:
        """Do the work one after another until the while is over: what every client is.

        An operation's time begins when the one before has ended, so it includes the wait
        for a connection.
        """
        number, before, end = task, clock(), self.began + self.seconds
        try:
            while clock() < end:
                async with contender.client():
                    for _ in range(HOLD):
                        if clock() >= end:
                            break
                        await work(contender, task, number)
                        self.ended = clock()
                        self.took.append(self.ended - before)
                        number, before = number + tasks, self.ended
        finally:
            await contender.leave()


async def work_for(seconds: float, contender: Any, work: Work, tasks: int) -> Stretch:
    """Have so many clients do the work for so many seconds, and end what they began."""
    stretch = Stretch(seconds)
    clients = [stretch.repeat(contender, work, task, tasks) for task in range(tasks)]
    if contender.is_synchronous:
        drive_all(clients)
    else:
        async with anyio.create_task_group() as group:
            for client in clients:
                group.start_soon(_await, client)
    stretch.processor_seconds = time.process_time() - stretch.processor_seconds
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
