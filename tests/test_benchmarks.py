"""The benchmarks' own logic: what is compared, ratios, the proxy's delay, tables. Nothing is timed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import schema
from benchmarks.cells import Cell, Choice, plan
from benchmarks.chart import draw
from benchmarks.child import describe
from benchmarks.clients import drive, drive_all
from benchmarks.contenders import load
from benchmarks.databases import sqlite_target
from benchmarks.latency_proxy import start
from benchmarks.measure import measure, measure_rate, percentile
from benchmarks.processes import Process
from benchmarks.report import markdown, tables, verdicts
from benchmarks.results import Results, Spread
from benchmarks.targets import check
from benchmarks.workloads import WRITES
from tests.support import wait_until

GET = Cell("sqlite", "get", 10, "ours")
OPTIONS = {"seconds": 0.02, "stream_seconds": 5.0, "stream_rows": 500, "pool_size": 2}


def results_of(**rates: list[float]) -> Results:
    """Return results with the rates of each contender, by round, in the cell GET."""
    results = Results()
    for contender, values in rates.items():
        for number, rate in enumerate(values):
            results.add(GET.of(contender.replace("_", "-")), number, {"rate": rate})
    return results


def test_ratios_are_taken_within_a_round() -> None:
    """A round in which the machine was slow slows both, and changes no ratio."""
    results = results_of(ours=[100, 10, 60], plain=[200, 20, 60])
    assert results.ratio(GET, GET.of("plain")) == Spread(0.5, 0.5, 1.0)


def test_a_round_that_only_one_of_them_has_is_not_compared() -> None:
    results = results_of(ours=[100, 300], plain=[200])
    assert results.ratio(GET, GET.of("plain")) == Spread(0.5, 0.5, 0.5)
    assert results.ratio(GET, GET.of("threads")) is None


def test_results_come_back_from_json() -> None:
    results = results_of(ours=[100, 300], plain=[200, 100])
    results.add(GET.of("threads"), 0, {"error": "no"})
    again = Results.from_json(json.loads(json.dumps(results.to_json())))
    assert again.ratio(GET, GET.of("plain")) == Spread(1.75, 0.5, 3.0)
    assert again.errors == results.errors


def test_peers_are_compared_with_each_of_our_drivers() -> None:
    ours = Cell("psycopg3", "get", 100, "ours", "trio")
    assert ours.of("plain") == Cell("psycopg3", "get", 100, "plain", "")
    assert ours.of("threads") == Cell("psycopg3", "get", 0, "threads", "")
    assert ours.of("peewee-aio") == Cell("postgresql", "get", 100, "peewee-aio", "asyncio")


def test_each_cell_is_planned_once_and_those_compared_follow_one_another() -> None:
    names = ["ours", "plain", "pwasyncio-held"]
    cells = plan(Choice(names, ["psycopg2", "psycopg3"], ["get", "slow"], [1, 10], ["asyncio", "trio"]))
    assert len(cells) == len(set(cells))
    assert [cell.tasks for cell in cells] == [1] * 5 + [10] * 7
    assert not any(cell.operation == "slow" for cell in cells)
    assert sum(cell.contender == "pwasyncio-held" for cell in cells) == 2
    assert [(cell.tasks, cell.contender) for cell in cells if cell.loop == "trio"] == [(10, "ours")] * 2


def test_percentile_of_few_values_is_one_of_them() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0


def test_table_is_padded_to_its_widest_cells() -> None:
    assert markdown(["a", "rate"], [["long", "1"]]) == "| a    | rate |\n| ---- | ---: |\n| long |    1 |"


def test_report_shows_ratios_errors_and_whether_a_target_is_reached() -> None:
    results = results_of(ours=[90, 100], plain=[100, 100], pwasyncio_held=[80, 80])
    results.add(GET.of("peewee-aio"), 0, {"error": "no"})
    table = tables(results)
    assert "95 (0.95)" in table
    assert "error" in table
    checked = list(check(results))
    assert [verdict.is_reached for verdict in checked if verdict.cells] == [True, False]
    assert "NO, 0 of 1" in verdicts(checked)
    assert "not measured" in verdicts(checked)


def test_a_lag_must_be_low_and_a_rate_high() -> None:
    results, cell = Results(), Cell("sqlite", "list_2000", 8, "ours")
    results.add(cell, 0, {"lag_p99_ms": 1.0, "rate": 1.0})
    results.add(cell.of("pwasyncio-held"), 0, {"lag_p99_ms": 5.0, "rate": 5.0})
    assert [verdict.is_reached for verdict in check(results) if verdict.cells] == [True, False]


def test_the_free_threaded_target_is_for_runs_without_the_gil_only() -> None:
    for gil in (True, False):
        results, cell = Results(), Cell("sqlite", "list_2000", 8, "ours")
        for contender in ("ours", "plain"):
            results.add(cell.of(contender), 0, {"rate": 1.0, "gil": gil})
        titles = [verdict.target.title for verdict in check(results) if verdict.cells]
        assert any("free-threaded" in title for title in titles) is not gil


def test_chart_has_a_bar_for_each_contender() -> None:
    drawn = draw(results_of(ours=[90], plain=[100], pwasyncio_held=[20]))
    assert "<title>0.90</title>" in drawn
    assert "<title>0.20</title>" in drawn
    assert "Rate with 10 tasks" in drawn


@pytest.mark.parametrize("contender", ["ours", "plain"])
@pytest.mark.parametrize("operation", ["get", "create", "list_100", "atomic", "run", "slow"])
async def test_every_operation_that_is_counted_was_done(operation: str, contender: str) -> None:
    """On each loop; a contender's writes are all in the database afterwards."""
    with sqlite_target() as target:
        target.read_all(500)
        subject = load(contender)(target.address, "sqlite", 2)
        measured = measure(subject, operation, 3, OPTIONS)
        figures = drive(measured) if subject.is_synchronous else await measured
        assert figures["done"] > 0
        if operation in WRITES:
            assert target.counts()[WRITES[operation]] == figures["done"]
            target.clean()
            assert target.counts() == {"created": 0, "counted": 0}


class Idle:
    """A contender that has nothing to do."""

    is_synchronous = True

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        yield

    async def leave(self) -> None:
        pass


def test_an_operation_is_measured_however_slow_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The while is over before the first client looks again: there are figures all the same."""
    monkeypatch.setattr("benchmarks.clients.clock", itertools.count(step=10.0).__next__)

    async def work(*args: object) -> None:
        pass

    figures = drive(measure_rate(Idle(), work, 1, 0.02))
    assert figures["done"] == 2
    assert figures["p50_ms"] > 0


async def test_streaming_counts_all_rows() -> None:
    with sqlite_target() as target:
        target.read_all(500)
        figures = await measure(load("ours")(target.address, "sqlite", 2), "stream", 1, OPTIONS)
        assert figures["done"] == 500
        assert figures["rate"] > 0


def test_a_contender_that_returns_wrong_rows_is_an_error() -> None:
    with sqlite_target() as target:
        target.read_all(500)
        target.query("DELETE FROM bench_item WHERE id > 50")
        measured = measure(load("plain")(target.address, "sqlite", 2), "list_100", 1, OPTIONS)
        with pytest.raises(Exception, match="50 came back, where 100 was expected"):
            drive_all([measured])


def test_a_child_process_answers_with_figures_or_the_error(tmp_path: Path) -> None:
    process = Process(sys.executable, "plain", tmp_path / "log")
    request = {"driver": "sqlite", "operation": "get", "tasks": 1, "loop": "", "options": OPTIONS}
    with sqlite_target() as target:
        target.read_all(schema.ITEMS)
        assert process.ask({**request, "address": target.address}, 60)["rate"] > 0
        target.drop()
        assert "no such table" in process.ask({**request, "address": target.address}, 60)["error"]
    process.close()


def test_the_error_inside_a_group_is_described() -> None:
    group = type("Group", (Exception,), {"exceptions": [ValueError("the cause")]})
    assert describe(group()) == "ValueError: the cause"


def test_synchronous_contenders_run_at_the_same_time() -> None:
    both = threading.Barrier(2)

    async def client() -> None:
        both.wait(5)

    drive_all([client(), client()])


class Upstream(asyncio.Protocol):
    """A server that answers with what it gets, and says when that was."""

    def __init__(self, received: list[bytes]) -> None:
        self.received = received

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received.append(data)
        self.transport.write(data)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_proxy_delays_replies_and_not_requests(anyio_backend: str) -> None:
    """With a delay that never ends a request still arrives; with one that ends its reply does, in order."""
    loop, received = asyncio.get_running_loop(), list[bytes]()
    server = await loop.create_server(lambda: Upstream(received), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for delay, has_reply in ((3_600.0, False), (0.001, True)):
        proxy = await start("127.0.0.1", port, delay)
        reader, writer = await asyncio.open_connection(*proxy.sockets[0].getsockname())
        received.clear()
        writer.write(b"first,")
        writer.write(b"second")
        await wait_until(lambda: b"".join(received) == b"first,second")
        if has_reply:
            assert await asyncio.wait_for(reader.readexactly(12), 5) == b"first,second"
        else:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.1)
        writer.close()
        proxy.close()
    server.close()
