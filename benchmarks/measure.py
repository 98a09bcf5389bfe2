"""Measure one contender in one cell: rate, latency, processor time, the loop's lag, memory."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import anyio

from benchmarks.workloads import HOLD, STREAM, WORKLOADS, Work, expect

TIMER_SECONDS = 0.001
clock = time.perf_counter


async def repeat(contender: Any, work: Work, task: int, tasks: int, end: float, took: list[float]) -> None:
    """Do the work one after another until the clock says `end`: what every client is."""
    number, before = task, clock()
    try:
        while before < end:
            async with contender.client():
                for _ in range(HOLD):
                    await work(contender, task, number)
                    now = clock()
                    took.append(now - before)
                    number, before = number + tasks, now
                    if now >= end:
                        break
    finally:
        await contender.leave()


def drive(coroutine: Coroutine[Any, Any, None], errors: list[BaseException]) -> None:
    """Run a coroutine that never suspends, on the calling thread."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    except BaseException as error:
        errors.append(error)
        return
    errors.append(RuntimeError("a synchronous contender suspended"))


async def stretch(contender: Any, work: Work, tasks: int, seconds: float) -> tuple[list[float], float, float]:
    """Let all clients work for a while; return the latencies, the seconds, and the processor's seconds."""
    took: list[float] = []
    began, used = clock(), time.process_time()
    clients = [repeat(contender, work, task, tasks, began + seconds, took) for task in range(tasks)]
    if contender.is_synchronous:
        errors: list[BaseException] = []
        threads = [threading.Thread(target=drive, args=(client, errors)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in errors:
            raise error
    else:
        async with anyio.create_task_group() as group:
            for client in clients:
                group.start_soon(_given, client)
    return took, clock() - began, time.process_time() - used


async def _given(client: Coroutine[Any, Any, None]) -> None:
    await client


async def watch(lags: list[float]) -> None:
    """Note how many seconds late each millisecond's timer fires, until cancelled."""
    while True:
        before = clock()
        await anyio.sleep(TIMER_SECONDS)
        lags.append(clock() - before - TIMER_SECONDS)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Memory:
    """The highest resident size that this process has while it is measured, in MB."""

    def __init__(self) -> None:
        gc.collect()
        # Linux: begin anew with the peak. Where there is no such file, there is no figure.
        self._has_peak = Path("/proc/self/clear_refs").exists()
        if self._has_peak:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> float | None:
        if not self._has_peak:
            return None
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return None


async def measure_operation(contender: Any, operation: str, tasks: int, seconds: float) -> dict[str, Any]:
    """Measure an operation; `done` counts every one, those to warm up included."""
    work = WORKLOADS[operation]
    warm, _, _ = await stretch(contender, work, tasks, seconds / 4)
    memory = Memory()
    took, elapsed, used = await stretch(contender, work, tasks, seconds)
    figures: dict[str, Any] = {
        "rate": len(took) / elapsed,
        "p50_ms": percentile(took, 0.5) * 1e3,
        "p99_ms": percentile(took, 0.99) * 1e3,
        "cpu_us": used / len(took) * 1e6,
        "memory_mb": memory.peak(),
        "done": len(warm) + len(took),
    }
    if not contender.is_synchronous:
        lags: list[float] = []
        async with anyio.create_task_group() as group:
            group.start_soon(watch, lags)
            again, _, _ = await stretch(contender, work, tasks, seconds / 2)
            group.cancel_scope.cancel()
        figures["done"] += len(again)
        # The loop may have been too busy for a single one.
        lags = lags or [seconds / 2]
        figures |= {"lag_p50_ms": percentile(lags, 0.5) * 1e3, "lag_p99_ms": percentile(lags, 0.99) * 1e3}
    return figures


async def measure_stream(contender: Any, seconds: float, wanted: int) -> dict[str, Any]:
    """Stream the large table, for so many seconds at most; the rate is in rows per second."""
    memory, rows = Memory(), 0
    began, used = clock(), time.process_time()
    async with contender.client():
        stream = contender.stream()
        async for _ in stream:
            rows += 1
            if clock() - began > seconds:
                break
        else:
            expect(rows, wanted)
        elapsed, used = clock() - began, time.process_time() - used
        await stream.aclose()
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
            return await measure_stream(contender, options["stream_seconds"], options["stream_rows"])
        return await measure_operation(contender, operation, tasks, options["seconds"])
    finally:
        await contender.close()
