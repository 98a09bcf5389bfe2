"""The codes of errors: they are the same in every language, and what a message says is not."""

from __future__ import annotations

from typing import Any


def number_of(error: BaseException) -> Any:
    """Return the number of a MySQL error, the server's or the driver's own; None without one."""
    own = getattr(error, "orig", error)
    number = getattr(own, "errno", None) or (own.args[0] if own.args else None)
    return number if isinstance(number, int) else None


def sqlstate_of(error: BaseException) -> str:
    """Return the SQLSTATE of an error of psycopg2 or psycopg; "" without one."""
    own = getattr(error, "orig", error)
    return getattr(own, "pgcode", None) or getattr(own, "sqlstate", None) or ""
