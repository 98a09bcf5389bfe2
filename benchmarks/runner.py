"""Do a run: databases and processes are made, each cell is asked for once a round, rows are counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import DATABASES, Cell
from benchmarks.contenders import CONTENDERS
from benchmarks.databases import Target, delayed, postgresql_target, sqlite_target
from benchmarks.environments import NotInstallableError, python_with, versions_in
from benchmarks.processes import Process
from benchmarks.results import Results
from benchmarks.workloads import WRITES

# Beyond what a cell is to take: a thousand tasks of a slow contender need many seconds to come to an end.
PATIENCE_SECONDS = 90


class Run:
    """Everything that a run keeps open."""

    def __init__(self, options: dict[str, Any], log: Path) -> None:
        self.results = Results()
        self.versions: dict[str, dict[str, str]] = {}
        self.left_out: dict[str, str] = {}
        self._options = options
        self._log = log
        self._processes: dict[str, Process] = {}
        self._targets: dict[str, Target] = {}
        self._addresses: dict[str, dict[str, Any]] = {}
        self._stack = contextlib.ExitStack()

    def prepare(self, databases: Sequence[str], url: str | None) -> None:
        """Make the databases and fill them."""
        servers = dict.fromkeys(DATABASES[name] for name in databases)
        if "sqlite" in servers:
            self._targets["sqlite"] = self._stack.enter_context(sqlite_target())
        if any(name.startswith("postgresql") for name in servers):
            self._targets["postgresql"] = self._stack.enter_context(postgresql_target(url))
        for name, target in self._targets.items():
            target.read_all(self._options["stream_rows"])
            self._addresses[name] = target.address
        if "postgresql-1ms" in servers:
            address = delayed(self._targets["postgresql"].address)
            self._addresses["postgresql-1ms"] = self._stack.enter_context(address)

    def prepare_contender(self, name: str) -> bool:
        """Make a contender's environment; return whether it can take part."""
        try:
            python = python_with(name, CONTENDERS[name].packages)
        except NotInstallableError as error:
            self.left_out[name] = str(error)
            return False
        self.versions[name] = versions_in(python)
        self._processes[name] = Process(python, name, self._log)
        self._stack.callback(self._processes[name].close)
        return True

    def rounds(self, cells: Sequence[Cell], count: int) -> Iterator[Cell]:
        """Measure all cells so many times; each is yielded before it is measured."""
        for number in range(count):
            # So that nobody always comes after the same neighbour.
            for cell in cells if number % 2 == 0 else reversed(cells):
                yield cell
                self.results.add(cell, number, self.measure(cell))

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Have one cell measured by its process, and count what it has written."""
        server = DATABASES.get(cell.database, cell.database)
        target = self._targets[server.removesuffix("-1ms")]
        count = WRITES.get(cell.operation)
        if count is not None:
            target.clean()
        request = {
            "address": self._addresses[server],
            "driver": cell.database.removesuffix("-1ms"),
            "operation": cell.operation,
            "tasks": CONTENDERS[cell.contender].clients(cell.tasks, self._options["pool_size"]),
            "loop": cell.loop,
            "options": self._options,
        }
        seconds = max(self._options["seconds"], self._options["stream_seconds"]) * 2
        figures = self._processes[cell.contender].ask(request, seconds + PATIENCE_SECONDS)
        if count is not None and "error" not in figures and target.counts()[count] != figures["done"]:
            return {"error": f"{target.counts()[count]} of {figures['done']} writes are in the database"}
        return figures

    def close(self) -> None:
        self._stack.close()


@contextlib.contextmanager
def opened(options: dict[str, Any], log: Path) -> Iterator[Run]:
    run = Run(options, log)
    try:
        yield run
    finally:
        run.close()
