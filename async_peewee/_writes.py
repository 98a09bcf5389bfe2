"""Whether a call writes: asked of its name, its query, its SQL text, the lock type of its transaction.

SQLite has one writer at a time. A call that is known to write waits for the write lock before it
has a worker; whatever else turns out to write takes the lock on its worker. A call too many
in the queue does no harm.
"""

from __future__ import annotations

import re
from typing import Any

import peewee

# The methods of models and databases that only ever write, in one statement or a few at once.
METHODS = frozenset(
    "create save delete_instance bulk_create bulk_update set_by_id delete_by_id "
    "create_table drop_table truncate_table create_tables drop_tables rekey".split()
)

# Those of queries: of a many-to-many relation.
QUERY_METHODS = frozenset("add remove clear".split())

# The first words, eight letters of them, of statements that write nothing.
HARMLESS = ("SELECT", "PRAGMA", "EXPLAIN", "SAVEPOIN", "ROLLBACK", "RELEASE")

# Those of statements that surely change rows or tables. Many others are neither: SET, SHOW, FETCH.
CHANGING = ("INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "TRUNCATE", "CREATE", "ALTER", "DROP")

# A WITH may stand before any statement; with none of these words in it, it only reads.
READS = re.compile(r"(?!.*\b(insert|update|delete|replace)\b)", re.IGNORECASE | re.DOTALL)

# The lock types with which a transaction is a writer from its first moment.
WRITERS_LOCKS = ("IMMEDIATE", "EXCLUSIVE")


def method_writes(name: str) -> bool | None:
    """Return True for a method that always writes, None for one of which the name does not tell."""
    return name in METHODS or None


def query_writes(query: Any, name: str) -> bool:
    """Return True if a method of a query writes."""
    return isinstance(query, peewee._WriteQuery) or name in QUERY_METHODS


def statement_writes(sql: str) -> bool:
    """Return True if a statement may write."""
    word = sql.lstrip()[:8].upper()
    return not word.startswith(HARMLESS) and not (word.startswith("WITH") and READS.match(sql))


def statement_changes_rows(sql: str) -> bool:
    """Return True if a statement surely changes rows or tables."""
    word = sql.lstrip()[:8].upper()
    return word.startswith(CHANGING) or (word.startswith("WITH") and not READS.match(sql))


def lock_type_writes(lock_type: str) -> bool:
    """Return True if a transaction begun with this lock type is a writer from its first moment."""
    return lock_type.upper() in WRITERS_LOCKS
