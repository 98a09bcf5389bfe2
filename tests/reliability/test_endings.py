"""The end of a program whose tasks still write: it is done, or a named error says why not; and it exits.

The programs, one for each ending, are in `tests/endings.py`.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.endings import BY_HAND, TASKS
from tests.support import Maker, on_databases

# Far less than what has to be ended would take, and more than a busy machine needs, in seconds.
SOON = 20.0

# How a process ends that Ctrl-C has ended; 1 where what it has raised is not KeyboardInterrupt alone.
BY_SIGINT = (-signal.SIGINT, 1)

CODES = {"fails": (1,), "exits": (3,), "interrupted": BY_SIGINT, "exits_by_hand": (3,)}
ENDS = ("returns", "fails", "exits", "interrupted", "terminated", "cancels")
WRITES = (
    "in_a_block shielded in_a_task_of_its_own gathered late streamed in_a_group in_two_databases generator"
).split()
# Here nobody cancels the tasks, and nobody lets them go on.
UNCANCELLED = [name for name in BY_HAND if name not in ("by_hand", "run_twice")]

on_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


class Ended:
    """What a program has said and done."""

    def __init__(self, make_database: Maker, ending: str, loop: str, opening: str = "never") -> None:
        key = "INTEGER PRIMARY KEY" if make_database.server is None else "SERIAL PRIMARY KEY"
        self._query(make_database, f"CREATE TABLE row (id {key}, text TEXT NOT NULL)")
        with self._start(make_database, ending, opening, loop) as self.process:
            try:
                out, self.errors = self.process.communicate(timeout=SOON)
            finally:
                self.process.kill()
        self.said = Counter(out.split())
        assert not re.search(r"\bInterrupted\b", out + self.errors)
        ((self.rows,),) = self._query(make_database, "SELECT count(*) FROM row")

    def _query(self, make_database: Maker, sql: str) -> list[Any]:
        database = make_database.plain()
        with database.connection_context():
            cursor = database.execute_sql(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def _start(self, make_database: Maker, *way: str) -> subprocess.Popen[str]:
        server = make_database.server
        url, schema = f"sqlite:///{make_database.path}", ""
        if server is not None:
            url, schema = server.url, server.name
        command = [sys.executable, "-m", "tests.endings", *way, url, schema]
        root = Path(__file__).parents[2]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)


@pytest.mark.parametrize("ending", ENDS)
@on_loops
@on_databases("sqlite", "psycopg2")
def test_what_tasks_write_when_the_program_ends_is_done(make_database: Maker, ending: str, loop: str) -> None:
    """Whatever has ended it."""
    ended = Ended(make_database, ending, loop)
    assert (ended.said, ended.rows) == ({"done": TASKS}, TASKS), ended.errors
    assert ended.process.returncode in CODES.get(ending, (0,))


@pytest.mark.parametrize("way", [*WRITES, "by_hand"])
@on_loops
@on_databases("sqlite", "psycopg2")
def test_in_whatever_they_write_it_is_done(make_database: Maker, way: str, loop: str) -> None:
    """In blocks, groups and tasks of their own, and in a generator that the loop closes."""
    ended = Ended(make_database, way, loop)
    count = 1 if way == "generator" else TASKS
    assert (ended.said, ended.rows) == ({"done": count}, count), ended.errors
    assert ended.process.returncode == 0


@pytest.mark.parametrize("ending", ["returns", "interrupted", "cancels"])
@on_loops
@on_databases("sqlite", "psycopg2")
def test_what_they_write_after_the_database_was_closed_is_refused(
    make_database: Maker, ending: str, loop: str
) -> None:
    """In a program inside `async with db`; what is written before is done."""
    ended = Ended(make_database, ending, loop, "opened")
    assert ended.said.keys() <= {"done", "PoolClosed"}, ended.errors
    assert (ended.said.total(), ended.rows) == (TASKS, ended.said["done"])
    assert ended.process.returncode in CODES.get(ending, (0,))


@on_loops
@on_databases("sqlite", "psycopg2")
def test_one_of_them_closes_while_others_write(make_database: Maker, loop: str) -> None:
    """Each write is done or refused, and not both."""
    ended = Ended(make_database, "beside_close", loop)
    assert ended.said.keys() <= {"done", "PoolClosed"}, ended.errors
    assert (ended.said.total(), ended.rows) == (TASKS, ended.said["done"])


@on_loops
@on_databases("sqlite", "psycopg2")
def test_a_loop_that_runs_twice_serves_its_tasks_in_both(make_database: Maker, loop: str) -> None:
    """They go on while it does not run, and end with the second run."""
    ended = Ended(make_database, "run_twice", loop)
    assert (ended.said, ended.rows) == ({"done": 2 * TASKS}, 2 * TASKS), ended.errors


@pytest.mark.parametrize("way", UNCANCELLED)
@on_loops
@on_databases("sqlite", "psycopg2")
def test_a_loop_that_nobody_winds_up_keeps_no_program_from_ending(
    make_database: Maker, way: str, loop: str
) -> None:
    """Nor does a thread that its loop has told nothing; what runs is interrupted, nothing is committed."""
    ended = Ended(make_database, way, loop)
    assert (ended.said, ended.rows) == ({}, 0), ended.errors
    assert ended.process.returncode in CODES.get(way, (0,))


@pytest.mark.parametrize("ending", ["returns", "fails", "exits", "interrupted"])
@on_databases("sqlite", "psycopg2")
def test_on_trio_what_tasks_write_when_the_program_ends_is_done(make_database: Maker, ending: str) -> None:
    """Its system tasks, which ours are, end after all others."""
    pytest.importorskip("trio")
    ended = Ended(make_database, ending, "trio")
    assert (ended.said, ended.rows) == ({"done": TASKS}, TASKS), ended.errors
    assert (ended.process.returncode == 0) == (ending == "returns")


@on_databases("sqlite", "psycopg2")
def test_what_a_generator_writes_that_trio_closes_is_refused(make_database: Maker) -> None:
    """It closes them when nothing else runs any more, and takes no new tasks, so there are no workers."""
    pytest.importorskip("trio")
    ended = Ended(make_database, "generator", "trio")
    assert (ended.said, ended.rows) == ({"PoolClosed": 1}, 0), ended.errors
    assert ended.process.returncode == 0


@on_loops
@on_databases("sqlite", "psycopg2")
def test_ctrl_c_ends_a_program_that_writes_at_its_end(make_database: Maker, loop: str) -> None:
    """What runs is interrupted, although the loop is closed under it and nobody has cancelled it."""
    ended = Stuck(make_database, "stuck", loop)
    assert ended.process.returncode in BY_SIGINT, ended.errors
    assert ended.rows == 0


class Stuck(Ended):
    """A program that is interrupted when all its tasks are at work in their `finally`."""

    def _start(self, make_database: Maker, *way: str) -> subprocess.Popen[str]:
        process = super()._start(make_database, *way)
        assert process.stdout is not None
        for _ in range(TASKS):
            assert process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGINT)
        return process


@pytest.mark.parametrize(("ending", "rows"), [("thread", 3), ("daemon", 1)])
@on_databases("sqlite", "psycopg2")
def test_a_loop_in_a_thread_that_outlives_the_main_thread(
    make_database: Maker, ending: str, rows: int
) -> None:
    """It is served, unless the thread is a daemon, which ends with the process."""
    ended = Ended(make_database, ending, "asyncio")
    assert (ended.said["done"], ended.rows) == (rows - 1, rows), ended.errors
    assert ended.process.returncode == 0
