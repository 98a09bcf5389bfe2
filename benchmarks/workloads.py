"""The operations: what a client does once, and the check that it really was done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import schema

# A client keeps what `Contender.client()` gives it for so many operations.
HOLD = 100


class WrongResultError(Exception):
    """A contender did not do the work."""


def expect(actual: object, wanted: object) -> None:
    if actual != wanted:
        raise WrongResultError(f"{actual!r} came back, where {wanted!r} was expected")


async def get(contender: Any, task: int, number: int) -> None:
    key = number % schema.ITEMS + 1
    expect((await contender.get(key)).id, key)


async def create(contender: Any, task: int, number: int) -> None:
    await contender.create(f"created {number}", number)


async def list_100(contender: Any, task: int, number: int) -> None:
    expect(len(await contender.list(100)), 100)


async def list_2000(contender: Any, task: int, number: int) -> None:
    expect(len(await contender.list(2_000)), 2_000)


async def atomic(contender: Any, task: int, number: int) -> None:
    await contender.atomic(task % schema.COUNTERS + 1)


async def run(contender: Any, task: int, number: int) -> None:
    await contender.run(task % schema.COUNTERS + 1)


async def slow(contender: Any, task: int, number: int) -> None:
    expect(await contender.slow(), schema.SLOW_ANSWER)


Work = Callable[[Any, int, int], Awaitable[None]]

# `atomic` and `run` write to a row of the task's own, so that no task waits for another's lock.
WORKLOADS: dict[str, Work] = {
    work.__name__: work for work in (get, create, list_100, atomic, run, slow, list_2000)
}
STREAM = "stream"
OPERATIONS = (*WORKLOADS, STREAM)

# How many tasks, for the operations that are not measured at each number of them.
OWN_TASKS = {"slow": 10, "list_2000": 8, STREAM: 1}

# Which of the counts that `databases.py` takes afterwards must have grown by one for each operation.
WRITES = {"create": "created", "atomic": "counted", "run": "counted"}
