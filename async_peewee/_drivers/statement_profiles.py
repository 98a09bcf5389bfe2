"""What is known of each SQL text: what it leaves behind, whether it writes, how long it takes."""

from __future__ import annotations

from collections.abc import Callable

from .._pool.gil import ExpectedTime

# How many texts are remembered; a program that makes more of them (lists of values in the
# text) begins anew.
MOST = 2000


class StatementProfile(ExpectedTime):
    """What is known of one SQL text."""

    __slots__ = ("changes_session", "may_write")
    changes_session: bool
    may_write: bool

    def __init__(self, changes_session: bool, may_write: bool, seconds: float) -> None:
        super().__init__(seconds)
        self.changes_session = changes_session
        self.may_write = may_write


class StatementProfiles:
    """Remember the statements of one database, for all its workers."""

    def __init__(self, classify: Callable[[str, bool], StatementProfile]) -> None:
        self._classify = classify
        # By whether Peewee wrote it. One dict operation is atomic, and two threads that add
        # the same text at once lose nothing but a measurement.
        self._known: tuple[dict[str, StatementProfile], dict[str, StatementProfile]] = ({}, {})

    def find(self, sql: str, is_generated: bool) -> StatementProfile:
        """Return what is known of a statement. `is_generated`: Peewee wrote it."""
        known = self._known[is_generated]
        statement = known.get(sql)
        if statement is None:
            if len(known) >= MOST:
                known.clear()
            statement = known[sql] = self._classify(sql, is_generated)
        return statement
