"""A contender's own process: it reads a cell as a line of JSON and answers with its figures."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

import anyio

from benchmarks.clients import drive
from benchmarks.contenders import load
from benchmarks.measure import measure


def run_cell(name: str, request: dict[str, Any]) -> dict[str, Any]:
    """Measure one cell on the loop that it names; without one, on this thread."""
    contender = load(name)(request["address"], request["driver"], request["options"]["pool_size"])
    arguments = (contender, request["operation"], request["tasks"], request["options"])
    if contender.is_synchronous:
        return drive(measure(*arguments))
    loop = request["loop"]
    backend = "trio" if loop == "trio" else "asyncio"
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    return anyio.run(measure, *arguments, backend=backend, backend_options=options)


def has_gil() -> bool:
    """Return whether only one thread runs Python at a time; a library may have switched that back on."""
    is_enabled = getattr(sys, "_is_gil_enabled", None)
    return is_enabled is None or is_enabled()


def describe(error: BaseException) -> str:
    """Return the first error itself, not the group of them that a task group raises."""
    while inner := getattr(error, "exceptions", None):
        error = inner[0]
    return f"{type(error).__name__}: {error}"


def main() -> None:
    # What a library prints goes to standard error, so that it cannot mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = {**run_cell(sys.argv[1], json.loads(line)), "gil": has_gil()}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": describe(error)}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
