"""The pages in docs name tests that exist, link to what is there, and leave no public name out."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import async_peewee

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in PAGES}

# `test_module::test_name`, with a class between them if there is one; `test_module`, all of it;
# `test_name` or `..._end_of_its_name` in a row that has named the module before.
NAMED = re.compile(r"`((?:test_|\.\.\.)\w*(?:::\w+)*)`")
LINK = re.compile(r"\[[^]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def names_in(body: list[ast.stmt], prefix: str) -> set[str]:
    """Return the names of the tests in a module, those in a class as `Class::test_name`."""
    names = set()
    for node in body:
        if isinstance(node, ast.ClassDef):
            names |= names_in(node.body, f"{node.name}::")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
            names.add(prefix + node.name)
    return names


MODULES = {path.stem: names_in(ast.parse(path.read_text()).body, "") for path in TESTS.rglob("test_*.py")}


def missing_in(row: str) -> list[str]:
    """Return what a row of a table names and is no test."""
    module, missing = "", []
    for name in NAMED.findall(row):
        first, _, test = name.partition("::")
        if first in MODULES:
            module = first
        else:
            test = name
        tests = MODULES.get(module, set())
        if test.startswith("..."):
            found = any(known.endswith(test[3:]) for known in tests)
        else:
            found = test in tests or (not test and bool(tests))
        if not found:
            missing.append(name)
    return missing


@pytest.mark.parametrize("page", ["features.md", "reliability.md"])
def test_the_tests_that_a_page_names_exist(page: str) -> None:
    rows = [row for row in TEXTS[page].splitlines() if row.startswith("| ")]
    assert len([row for row in rows if NAMED.search(row)]) > 30
    assert [name for row in rows for name in missing_in(row)] == []


def test_each_feature_is_shown_by_a_test() -> None:
    """Whatever has a yes names one in its last column."""
    rows = [row.strip("| ").split(" | ") for row in TEXTS["features.md"].splitlines() if "::" in row]
    assert len(rows) > 70
    table = TEXTS["features.md"].partition("## ")[2]
    assert [
        line for line in table.splitlines() if re.search(r"\| +y +\|", line) and "`test_" not in line
    ] == []
    assert [row[0] for row in rows if "y" not in row[1:-1]] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in LINK.findall(TEXTS[page.name]) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", async_peewee.__all__)
def test_each_public_name_is_on_a_page(name: str) -> None:
    pages = [text for page, text in TEXTS.items() if page != "CHANGELOG.md"]
    assert any(re.search(rf"\b{name}\b", text) for text in pages)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_variables_of_the_environment_are_read_somewhere(page: Path) -> None:
    code = "".join(path.read_text() for path in [*ROOT.glob("async_peewee/*.py"), *TESTS.rglob("*.py")])
    settings = set(re.findall(r"ASYNC_PEEWEE_[A-Z_]*[A-Z]", TEXTS[page.name]))
    prefix = "ASYNC_PEEWEE_"
    known = {name for name in settings if name in code or name.removeprefix(prefix).lower() in code}
    assert settings == known


@pytest.mark.parametrize(("page", "leaves"), [("databases.md", "notes.db"), ("deploying.md", "jobs.db")])
async def test_the_snippets_of_a_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, leaves: str
) -> None:
    """One after another; `await` may stand outside of a function there."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in re.findall(r"^```python\n(.*?)^```$", TEXTS[page], re.DOTALL | re.MULTILINE):
        code = compile(block, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        assert isinstance(code, CodeType)
        result = eval(code, names)
        if code.co_flags & inspect.CO_COROUTINE:
            await result
    if "is_ready" in names:
        assert await names["is_ready"]()
        await names["db"].close()
    assert (tmp_path / leaves).exists()
