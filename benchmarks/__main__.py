"""The command line: choose, measure with a progress bar, write the report.

python -m benchmarks                                everything: under 20 minutes
python -m benchmarks --quick                        everybody, fewer cells: about 2 minutes
python -m benchmarks --contenders ours plain pwasyncio-held --databases sqlite --operations get list_100
python -m benchmarks --check benchmarks/results/benchmarks.json      report an earlier run again
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.cells import DATABASES, LOOPS, Choice, plan
from benchmarks.chart import draw
from benchmarks.contenders import CONTENDERS
from benchmarks.environments import FOLDER
from benchmarks.report import tables, verdicts
from benchmarks.results import Results
from benchmarks.runner import Run, opened
from benchmarks.schema import STREAM_ROWS
from benchmarks.targets import check
from benchmarks.workloads import OPERATIONS

try:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
except ImportError:
    sys.exit("rich is missing. Run: pip install -e '.[test]' -r benchmarks/requirements.txt")

DEFAULTS: dict[str, Any] = {
    "databases": ["sqlite", "psycopg2", "psycopg3", "psycopg2-1ms"],
    "tasks": [1, 10, 100, 1000],
    "loops": list(LOOPS),
    "rounds": 3,
    "seconds": 0.25,
    "stream_seconds": 5.0,
}
QUICK: dict[str, Any] = {
    "databases": ["sqlite", "psycopg2"],
    "tasks": [1, 100],
    "loops": ["asyncio"],
    "rounds": 2,
    "seconds": 0.2,
    "stream_seconds": 1.0,
}
PACKAGES = ("async-peewee", "peewee", "peewee-async", "peewee-aio", "anyio", "uvloop", "trio")


def parse(arguments: list[str]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer databases, tasks, loops and rounds")
    add(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=list(CONTENDERS),
        metavar="NAME",
        help=", ".join(CONTENDERS),
    )
    add("--databases", nargs="+", choices=DATABASES, metavar="NAME", help=", ".join(DATABASES))
    add(
        "--operations",
        nargs="+",
        choices=OPERATIONS,
        default=list(OPERATIONS),
        metavar="NAME",
        help=", ".join(OPERATIONS),
    )
    add("--tasks", nargs="+", type=int, metavar="N", help="how many tasks work at a time")
    add("--loops", nargs="+", choices=LOOPS, metavar="NAME", help="the first one fully, others in some cells")
    add("--rounds", type=int, help="how often each cell is measured")
    add("--seconds", type=float, help="how long an operation is repeated in a cell")
    add("--stream-seconds", type=float, help="when streaming is broken off")
    add("--stream-rows", type=int, default=STREAM_ROWS)
    add("--pool-size", type=int, default=10, help="everybody's, and the number of threads of plain Peewee")
    add("--postgresql", metavar="URL", help="a server to measure on; without it one is started from a wheel")
    add("--output", type=Path, default=Path(__file__).parent / "results", help="a folder")
    add("--check", type=Path, metavar="JSON", help="report an earlier run, measure nothing")
    chosen = parser.parse_args(arguments)
    for name, value in (QUICK if chosen.quick else DEFAULTS).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    return chosen


def measure(chosen: argparse.Namespace) -> tuple[Results, dict[str, Any]]:
    """Measure what was chosen; return the results, and the conditions under which they came about."""
    names = ("seconds", "stream_seconds", "stream_rows", "pool_size")
    options = {name: getattr(chosen, name) for name in names}
    FOLDER.mkdir(exist_ok=True)
    log = FOLDER / "contenders.log"
    log.write_text("")
    with opened(options, log) as run:
        contenders = [name for name in chosen.contenders if run.prepare_contender(name)]
        for name, why in run.left_out.items():
            print(f"left out: {name}: {why}", file=sys.stderr)
        run.prepare(chosen.databases, chosen.postgresql)
        choice = Choice(contenders, chosen.databases, chosen.operations, chosen.tasks, chosen.loops)
        show_progress(run, choice, chosen.rounds)
        versions = {
            name: {package: found[package] for package in PACKAGES if package in found}
            for name, found in run.versions.items()
        }
    conditions = {
        "python": sys.version,
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "rounds": chosen.rounds,
        "loop": chosen.loops[0],
        "left_out": run.left_out,
        "versions": versions,
        **options,
    }
    return run.results, conditions


def show_progress(run: Run, choice: Choice, rounds: int) -> None:
    cells = plan(choice)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=len(cells) * rounds)
        for done, cell in enumerate(run.rounds(cells, rounds)):
            words = f"{cell.database}: {cell.operation}, {cell.tasks} tasks, {cell.contender} {cell.loop}"
            progress.update(bar, completed=done, description=words)
        progress.update(bar, completed=len(cells) * rounds, description="done")


def report(results: Results, conditions: dict[str, Any], output: Path) -> None:
    """Write what was measured as JSON, Markdown and SVG; print the check against the targets."""
    checked = verdicts(check(results, conditions["loop"]))
    facts = "\n".join(f"- {name}: {value}" for name, value in conditions.items())
    whole = f"# Benchmarks\n\n{facts}\n\n## Targets\n\n{checked}\n\n{tables(results)}\n"
    stored = {"conditions": conditions, "cells": results.to_json()}
    (output / "benchmarks.json").write_text(json.dumps(stored, indent=1))
    (output / "benchmarks.md").write_text(whole)
    (output / "benchmarks.svg").write_text(draw(results))
    print(f"\n{checked}\n\nThe tables are in {output / 'benchmarks.md'}")
    for cell, error in results.errors.items():
        print(f"error: {cell}: {error}", file=sys.stderr)


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    chosen.output.mkdir(parents=True, exist_ok=True)
    if chosen.check:
        stored = json.loads(chosen.check.read_text())
        results, conditions = Results.from_json(stored["cells"]), stored["conditions"]
    else:
        results, conditions = measure(chosen)
    report(results, conditions, chosen.output)
    return 1 if results.errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
