"""Every snippet of docs/extensions.md runs, and its table names tests that exist."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from tests.support import Server

pytest.importorskip("pydantic")

HERE = Path(__file__).parent
PAGE = (HERE.parent.parent / "docs" / "extensions.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


async def test_every_snippet_runs(
    contrib_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One after another, in one program."""
    monkeypatch.chdir(tmp_path)
    schema = f"options=-csearch_path%3D{contrib_server.name}"
    url = f"{contrib_server.url}{'&' if '?' in contrib_server.url else '?'}{schema}"
    names: dict[str, Any] = {"__name__": "__main__", "url": url}
    try:
        for block in BLOCKS:
            code = compile(block, "extensions.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            assert isinstance(code, CodeType)
            result = eval(code, names)
            if code.co_flags & inspect.CO_COROUTINE:
                await result
    finally:
        await names["db"].close()
    hint = "write instead: await db.run(function, ...), or await Tweet.user first"
    assert [line.endswith(hint) for line in capsys.readouterr().out.splitlines()] == [True, False]
    assert (tmp_path / "copy.db").stat().st_size > 0


def test_the_table_names_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", PAGE))
    assert named - {"test_docs.py"} == {path.name for path in HERE.glob("test_*.py")} - {"test_docs.py"}
