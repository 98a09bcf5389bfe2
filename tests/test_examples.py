"""The examples run as a newcomer runs them, and README and CHANGELOG say what is so."""

from __future__ import annotations

import ast
import contextlib
import inspect
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import anyio
import pytest

import async_peewee
from tests.support import Server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)

LOOPS = ["asyncio", "uvloop", "trio"]
# A call that was never awaited, a connection that was never closed.
NO_WARNINGS = ["-W", "error::RuntimeWarning", "-W", "error::ResourceWarning"]


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    """Return the name of an event loop; the test runs on each."""
    pytest.importorskip(request.param)
    return str(request.param)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of a database, which must be as empty afterwards as it was."""
    if request.param == "sqlite":
        path = tmp_path / "example.db"
        yield f"sqlite:///{path}"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == []
        return
    server: Server = request.getfixturevalue("server")
    schema = f"options=-csearch_path%3D{server.name}"
    yield f"{server.url}{'&' if '?' in server.url else '?'}{schema}"
    assert server.query("SELECT tablename FROM pg_tables WHERE schemaname = %s", server.name) == []


def run_example(name: str, *arguments: str, loop: str = "asyncio", **environment: str) -> str:
    """Run an example to its end and return what it printed; a warning fails it."""
    flags = [] if loop == "asyncio" else [f"--{loop}"]
    command = [sys.executable, *NO_WARNINGS, str(ROOT / "examples" / name), *arguments, *flags]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def check_quickstart(output: str) -> None:
    assert "'The Dispossessed' has 4 copies now" in output
    assert "4 sales, 0 copies left" in output
    assert "Eve came too late for The Dispossessed: still 4 sales" in output
    assert "best customers: Ada (1), Bo (1), Cy (1)" in output
    assert re.search(r"100 sales, each a transaction, take .* s; 0 copies left", output)
    assert "10,000 rows" in output
    assert "0 busy, 0 leased, 0 waiting" in output


def check_walkthrough(output: str) -> None:
    assert [line.split()[0] for line in output.splitlines()] == [
        *("create", "get", "save", "delete", "aio", "tasks", "commit", "rollback")
    ]
    assert "the table says 'new_value'" in output
    assert "1 row deleted, 0 left" in output
    assert "6 notes are done" in output
    assert "second thoughts: 6 notes are still there" in output


def test_the_quick_start_runs_on_every_loop_and_database(url: str, loop: str) -> None:
    output = run_example("quickstart.py", url, loop=loop)
    assert output.splitlines()[0].endswith(f"Database on {loop}")
    check_quickstart(output)


def test_the_walkthrough_runs_on_every_loop_and_database(url: str, loop: str) -> None:
    check_walkthrough(run_example("crud_walkthrough.py", url, loop=loop))


def test_without_arguments_both_run_on_sqlite() -> None:
    assert run_example("quickstart.py").startswith("AsyncSqliteDatabase on asyncio")
    check_walkthrough(run_example("crud_walkthrough.py"))


def test_the_walkthrough_takes_a_plain_database_name(server: Server) -> None:
    """libpq finds the server by its own variables, as for any of its programs."""
    from psycopg2.extensions import parse_dsn

    given = {f"PG{key.upper()}": value for key, value in parse_dsn(server.url).items()}
    [(name,)] = server.query("SELECT current_database()")
    misleading = {"PGDATABASE": "does_not_exist", "PGOPTIONS": f"-csearch_path={server.name}"}
    check_walkthrough(run_example("crud_walkthrough.py", name, **(given | misleading)))


def compiled(block: str) -> CodeType:
    """Compile a block of README; `await` may stand outside of a function there."""
    code = compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(code, CodeType)
    return code


def run_first_block(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run the quick start of README and return its names."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compiled(BLOCKS[0]), names)
    assert capsys.readouterr().out.splitlines() == ["Huey! says meow", "1 users", "Huey!", "meow"]
    return names


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_block_of_readme_runs(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first is a program of its own; the others go on with its names, database and rows."""
    monkeypatch.chdir(tmp_path)
    names = run_first_block(capsys)

    async def run_others() -> None:
        async with names["db"]:
            for block in BLOCKS[1:]:
                code = compiled(block)
                result = eval(code, names)
                if code.co_flags & inspect.CO_COROUTINE:
                    await result

    anyio.run(run_others, backend=backend)
    check_rows(names, capsys.readouterr().out)


def check_rows(names: dict[str, Any], output: str) -> None:
    """Compare with what README says about its blocks; here, as there, in a plain thread."""
    user, tweet = names["User"], names["Tweet"]
    with names["db"].connection_context():
        assert {row.name for row in user.select()} == {"Huey!", "Zaizee", "Felix", "from a script"}
        texts = {row.text for row in tweet.select()}
    assert texts == {"meow", "from a child", "made here, awaited there"}  # "a draft" was rolled back
    assert "write instead: async for row in query, or await query.execute()" in output
    assert output.count("committed\n") == 1


def test_the_version_is_the_same_everywhere() -> None:
    """In pyproject.toml, in the first entry of CHANGELOG.md, and in the package where it is installed."""
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    newest = re.search(
        r"^## \[(.+)\] - \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert declared is not None
    assert newest is not None
    assert newest[1] == declared[1]
    assert async_peewee.__version__ in (declared[1], "0")  # "0": not installed
