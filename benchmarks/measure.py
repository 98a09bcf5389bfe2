"""Measure one contender in one cell: rate, latency, processor time, the loop's lag, memory."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio

from benchmarks.clients import clock, work_for
from benchmarks.workloads import STREAM, WORKLOADS, Work, expect

TIMER_SECONDS = 0.001
# The lag is not measured with more tasks: it would take a contender many seconds.
MOST_TASKS_WATCHED = 100


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Memory:
    """The highest resident size of this process from now on."""

    _reset, _status = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def __init__(self) -> None:
        gc.collect()
        if self._reset.exists():
            self._reset.write_text("5")

    def peak(self) -> float | None:
        """Return it in MB; None where it cannot be had: not on Linux."""
        if not self._reset.exists():
            return None
        (line,) = (line for line in self._status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024


async def measure_rate(contender: Any, work: Work, tasks: int, seconds: float) -> dict[str, Any]:
    """Measure how fast the clients work, and what it takes."""
    memory = Memory()
    stretch = await work_for(seconds, contender, work, tasks)
    took = stretch.took
    return {
        "rate": len(took) / stretch.seconds,
        "p50_ms": percentile(took, 0.5) * 1e3,
        "p99_ms": percentile(took, 0.99) * 1e3,
        "cpu_us": stretch.processor_seconds / len(took) * 1e6,
        "memory_mb": memory.peak(),
        "done": stretch.done,
    }


async def measure_lag(contender: Any, work: Work, tasks: int, seconds: float) -> dict[str, Any]:
    """Measure how late a timer fires while the clients work."""
    lags: list[float] = []

    async def watch() -> None:
        while True:
            before = clock()
            await anyio.sleep(TIMER_SECONDS)
            lags.append(clock() - before - TIMER_SECONDS)

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        stretch = await work_for(seconds, contender, work, tasks)
        group.cancel_scope.cancel()
    # It may not have fired at all: then it is late by the whole stretch.
    lags = lags or [stretch.seconds]
    return {
        "lag_p50_ms": percentile(lags, 0.5) * 1e3,
        "lag_p99_ms": percentile(lags, 0.99) * 1e3,
        "done": stretch.done,
    }


def count(stream: Iterator[Any], until: float) -> int:
    """Return how many rows come before the clock says so."""
    rows = 0
    for _ in stream:
        rows += 1
        if clock() > until:
            break
    return rows


async def count_async(stream: AsyncIterator[Any], until: float) -> int:
    """Return the same of an asynchronous stream."""
    rows = 0
    async for _ in stream:
        rows += 1
        if clock() > until:
            break
    return rows


async def measure_stream(contender: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Stream the large table, for so many seconds at most; the rate is in rows per second."""
    memory = Memory()
    began, used = clock(), time.process_time()
    async with contender.client():
        stream, until = contender.stream(), began + options["stream_seconds"]
        rows = count(stream, until) if contender.is_synchronous else await count_async(stream, until)
        elapsed, used = clock() - began, time.process_time() - used
        if elapsed < options["stream_seconds"]:
            expect(rows, options["stream_rows"])
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
    return {
        "rate": rows / elapsed,
        "cpu_us": used / rows * 1e6,
        "memory_mb": memory.peak(),
        "done": rows,
    }


async def measure(contender: Any, operation: str, tasks: int, options: dict[str, Any]) -> dict[str, Any]:
    """Open the contender's database, measure one cell, close it."""
    await contender.open()
    try:
        if operation == STREAM:
            return await measure_stream(contender, options)
        work, seconds = WORKLOADS[operation], options["seconds"]
        figures = await measure_rate(contender, work, tasks, seconds)
        if not contender.is_synchronous and tasks <= MOST_TASKS_WATCHED:
            lag = await measure_lag(contender, work, tasks, seconds / 2)
            figures = {**figures, **lag, "done": figures["done"] + lag["done"]}
        return figures
    finally:
        await contender.close()
