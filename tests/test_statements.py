"""What is remembered of an SQL text: its traces, and how long it takes."""

from __future__ import annotations

import pytest

from async_peewee._drivers import statement_profiles
from async_peewee._drivers.statement_profiles import StatementProfile, StatementProfiles


def test_a_short_execution_is_believed_at_once_and_a_long_one_by_and_by() -> None:
    statement = StatementProfile(changes_session=False, may_write=False, seconds=0.008)
    statement.took(0.001)
    assert statement.seconds == 0.001
    statement.took(0.005)
    assert statement.seconds == pytest.approx(0.002)
    for _ in range(50):
        statement.took(0.005)
    assert statement.seconds == pytest.approx(0.005, rel=0.01)


def test_a_text_is_classified_once_by_who_wrote_it() -> None:
    asked: list[tuple[str, bool]] = []

    def classify(sql: str, is_generated: bool) -> StatementProfile:
        asked.append((sql, is_generated))
        return StatementProfile(not is_generated, False, 0)

    statements = StatementProfiles(classify)
    first = statements.find("SELECT 1", False)
    assert statements.find("SELECT 1", False) is first
    assert first.changes_session
    assert not statements.find("SELECT 1", True).changes_session
    assert asked == [("SELECT 1", False), ("SELECT 1", True)]


def test_so_many_texts_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statement_profiles, "MOST", 10)
    statements = StatementProfiles(lambda sql, is_generated: StatementProfile(False, False, 0))
    for number in range(1000):
        statements.find(f"SELECT {number}", True)
        assert len(statements._known[True]) <= 10
