"""Rows: what a driver has fetched, made into Peewee's rows, on the worker or where they are used.

What is made on one processor and used on another has to travel between their caches, which
takes a third of the time that Peewee needs to make a plain row. So the event loop's thread
makes the rows that are made quickly, a few hundred at a time; the worker makes all others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import peewee

from ._turnstile import turns

# After so many rows, a millisecond or two of Python, a worker lets go of the interpreter for a
# moment, in seconds: the loop's thread, asking for it, would have to wait for five
# milliseconds, and that again for each timer and socket. Nor does the loop make more of a list.
SLICE = 200
MOMENT = 1e-6

# So many rows a worker makes in any case, to see how long that takes.
SAMPLE = 10

# A row that takes more processor time than this, in seconds, is not made on the loop's
# thread. A plain one takes three to five microseconds, and a query in a converter a hundred.
QUICK = 1.5e-5


def convert(wrapper: Any, rows: Sequence[Any]) -> list[Any]:
    """Make of a driver's rows what a Peewee CursorWrapper makes of them one by one, which costs more."""
    if rows:
        _initialize(wrapper)
    wrapper.count += len(rows)
    process_row = wrapper.process_row
    if len(rows) <= SLICE:
        return [process_row(row) for row in rows]
    converted: list[Any] = []
    for start in range(0, len(rows), SLICE):
        if start:
            time.sleep(MOMENT)
        converted += [process_row(row) for row in rows[start : start + SLICE]]
    return converted


def convert_sample(wrapper: Any, rows: Sequence[Any]) -> tuple[list[Any], bool]:
    """Make some rows on a worker; return them, and whether the loop's thread is to make those that follow."""
    if not rows or turns() > 1 or not _is_peewees_alone(wrapper):
        return convert(wrapper, rows), False
    _initialize(wrapper)
    began = time.thread_time()
    made = convert(wrapper, rows)
    return made, time.thread_time() - began <= QUICK * len(rows)


def _initialize(wrapper: Any) -> None:
    # On a worker: it asks the driver for the names of the columns.
    if not wrapper.initialized:
        wrapper.initialize()
        wrapper.initialized = True


def _is_peewees_alone(wrapper: Any) -> bool:
    """Return False if a function of the user's, given to objects(), makes the rows.

    It may be meant for one thread, and count on the order of the rows.
    """
    is_own = isinstance(wrapper, peewee.ObjectCursorWrapper)
    return bool(getattr(wrapper, "is_model", not is_own))
