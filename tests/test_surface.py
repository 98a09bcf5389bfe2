"""The whole surface: each public name of Peewee's classes is dual, or known to be pure, or refused.

A name that a new Peewee brings is in none of the lists below, and fails the first test here.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import peewee
import pytest
from playhouse.sqlite_ext import FTS5Model, FTSModel

from async_peewee import (
    AsyncDatabase,
    AsyncModel,
    AsyncSqliteDatabase,
    AsyncTable,
    BlockingCallError,
    PendingCall,
)
from async_peewee._bridge.dual import is_dual
from async_peewee._orm.database import DATABASE_METHODS, SESSION_METHODS
from async_peewee._orm.models import MODEL_METHODS, SEARCH_METHODS
from async_peewee._orm.queries import QUERY_METHODS
from tests.support import Models

# Peewee's database classes, each with the module that it comes from; those of playhouse need
# drivers, and are looked at where these can be imported.
DATABASES = {
    "SqliteDatabase": "peewee",
    "PostgresqlDatabase": "peewee",
    "MySQLDatabase": "peewee",
    "CockroachDatabase": "playhouse.cockroachdb",
    "PostgresqlExtDatabase": "playhouse.postgres_ext",
    "Psycopg3Database": "playhouse.postgres_ext",
    "MySQLConnectorDatabase": "playhouse.mysql_ext",
    "MariaDBConnectorDatabase": "playhouse.mysql_ext",
    "SqlCipherDatabase": "playhouse.sqlcipher_ext",
    "APSWDatabase": "playhouse.apsw_ext",
    "CySqliteDatabase": "playhouse.cysqlite_ext",
}

# -- what is pure, for each class of Peewee's, its subclasses included ------------------
# Builders of SQL and what describes them: nothing of it touches a connection.

PURE = {
    "Node": "clone coerce copy is_alias unwrap",
    "Source": "alias apply_alias apply_column c cte get_sort_key join left_outer_join select",
    "Table": "bind bind_ctx clone delete insert replace select update",
    "Join": "on",
    "ValuesList": "columns",
    "CTE": "select_from union union_all",
    "BaseQuery": "bind clone default_row_type dicts namedtuples objects sql tuples",
    "Query": "limit offset order_by order_by_extend orwhere paginate where with_cte",
    "SelectQuery": "except_ intersect select_from union union_all",
    "Select": """
        columns distinct for_update from_ group_by group_by_extend having join lateral
        left_outer_join select select_extend selected_columns window
    """,
    "_WriteQuery": "apply_returning cte handle_result returning",
    "Insert": """
        DefaultValuesException MULTI QUERY SIMPLE as_rowcount get_default_columns get_default_data
        on_conflict on_conflict_ignore on_conflict_replace where
    """,
    "Update": "from_",
    "_ModelQueryHelper": "models objects",
    "BaseModelSelect": "group_by with_related",
    "ModelSelect": "convert_dict_to_node ensure_join filter join_from switch",
    "Model": """
        add_index alias bind bind_ctx delete dependencies dirty_field_names dirty_fields filter get_id
        index insert insert_from insert_many is_dirty noop raw replace replace_many select update
        validate_model
    """,
    "VirtualModel": "clean_options DoesNotExist",
    "BaseFTSModel": "clean_options DoesNotExist",
    # fts5_installed() asks a database in memory, once, and none of ours.
    "FTSModel": """
        bm25 bm25f lucene match rank rowid search search_bm25 search_bm25f search_lucene DoesNotExist
    """,
    "FTS5Model": """
        VocabModel bm25 clean_query fts5_installed match rank rowid search search_bm25 validate_model
        validate_query web_query DoesNotExist
    """,
    "ModelAlias": "get_field_aliases select",
    "SchemaManager": "database",
    "Database": """
        Model bind bind_ctx compound_select_parentheses conflict_statement conflict_update context_class
        default_values_insert extract_date field_types for_update from_timestamp get_context_options
        get_noop_select get_sql_context index_schema_prefix index_using_precedes_table
        index_value_literals json_methods last_insert_id limit_max nulls_ordering operations param quote
        random returning_clause rows_affected safe_create_index safe_drop_index sequences server_version
        to_timestamp truncate_date truncate_table use_concat_function
    """,
    "SqliteDatabase": "get_binary_type",
    "PostgresqlDatabase": "get_binary_type interval psycopg2_adapter psycopg3_adapter set_isolation_level",
    "MySQLDatabase": "get_binary_type mariadb sql_mode",
}

# Neither pure nor in the way of the loop: these answer for the task that asks, open or describe
# a block, or are awaited in a form of their own. The tests of each are in the module named.
ANSWERS = {
    "BaseQuery": "aexecute iterator",  # test_queries, test_streams
    "BaseModelSelect": "iterator",
    "Database": """
        after_commit in_transaction is_closed top_transaction transaction_depth
        atomic connection_context manual_commit savepoint transaction
        connect close init dispose
    """,  # test_connections, test_transactions, tests/pool; dispose() is about the thread's own connection
    # Kept for the connections to come; those that are open take it when they are next used, or
    # the call is refused while some are.
    "SqliteDatabase": """
        aggregate collation func window_function
        register_aggregate register_collation register_function register_window_function
        unregister_aggregate unregister_collation unregister_function unregister_window_function
        timeout unload_extension
    """,
    "CockroachDatabase": "retry_transaction",
    "_SqlCipherDatabase": "set_passphrase",
    "APSWDatabase": "register_module unregister_module",
    "CySqliteDatabase": """
        authorizer on_commit on_rollback on_update progress slow_query_log table_function trace
        register_table_function unregister_table_function
        cache_hit cache_miss cache_used cache_write lookaside_hit lookaside_miss lookaside_miss_full
        lookaside_used malloc_count malloc_size memory_used pagecache_overflow pagecache_size
        pagecache_used schema_used scratch_overflow scratch_size scratch_used statement_used
    """,  # the figures are the library's own, or those of the thread's connection
}

PRAGMAS = """
    application_id cache_size data_version foreign_keys journal_mode journal_size_limit mmap_size
    page_size read_uncommitted synchronous user_version wal_autocheckpoint
""".split()
SCHEMA = """
    create_all create_foreign_key create_indexes create_sequence create_sequences create_table
    create_table_as drop_all drop_index drop_indexes drop_sequence drop_sequences drop_table
    truncate_table
""".split()


class Document(FTS5Model, AsyncModel):
    """A model with a playhouse class first in its bases."""


class OldDocument(AsyncModel, FTSModel):
    """A model with a playhouse class second in its bases."""


class Refused(NamedTuple):
    """A line of code that raises on the loop, and what its error says to write instead."""

    line: Callable[[Any], Any]
    instead: str


# -- what is refused on the loop, with the line that is refused --------------------------

REFUSED: dict[str, dict[str, Refused]] = {
    "_WriteQuery": {
        "execute_returning": Refused(
            lambda t: t.User.insert(name="x").execute_returning(t.db), "await aio(query)"
        ),
    },
    "SchemaManager": {
        name: Refused(lambda t, name=name: t.schema(name), "await db.run(function") for name in SCHEMA
    },
    "Database": {
        "cursor": Refused(lambda t: t.db.cursor(), "await db.execute_sql(...)"),
        "connection": Refused(lambda t: t.db.connection(), "await db.run(function)"),
        "batch_commit": Refused(lambda t: list(t.db.batch_commit([1], 1)), "async with db.atomic()"),
        "push_transaction": Refused(lambda t: t.db.push_transaction(None), "async with db.atomic()"),
        "pop_transaction": Refused(lambda t: t.db.pop_transaction(), "async with db.atomic()"),
    },
    "SqliteDatabase": {
        name: Refused(lambda t, name=name: getattr(t.db, name), "await db.pragma(...)") for name in PRAGMAS
    },
    "CySqliteDatabase": {
        "autocommit": Refused(lambda t: t.db.autocommit, "await db.run(function)"),
        "blob_open": Refused(lambda t: t.db.blob_open("a", "b", 1), "await db.run(function)"),
    },
}


# -- the walk ------------------------------------------------------------------------------


def peewee_database(name: str) -> Any:
    """Return a database class of Peewee's, None where its driver is not installed."""
    try:
        return getattr(importlib.import_module(DATABASES[name]), name)
    except ImportError:
        return None


def asynchronous(cls: type) -> Any:
    return type(f"Async{cls.__name__}", (AsyncDatabase, cls), {})


def subjects() -> Iterator[Any]:
    """Give every class whose names users call: models, queries, sources, the schema, databases."""
    User = Models(AsyncSqliteDatabase(None)).User  # type: ignore[arg-type]
    Group: Any = type("Group", (AsyncModel,), {"users": peewee.ManyToManyField(User)})
    select, table = User.select(), User._meta.table
    values = peewee.ValuesList([(1,)], columns=["n"])
    yield from (User, Document, OldDocument)
    writes = (User.insert(), User.update(age=1), User.delete())
    selects = (select, select | select, select.select_from(User.id), User.noop(), Group(id=1).users)
    plain = (
        table.select(),
        table.insert(),
        table.update(name="x"),
        table.delete(),
        table.select() | table.select(),
    )
    sources = (table, AsyncTable("x"), table.join(table), select.cte("x"), values, User.alias(), User._schema)
    yield from {type(thing) for thing in (*writes, *selects, *plain, *sources, User.raw(""))}
    yield from (asynchronous(cls) for cls in map(peewee_database, DATABASES) if cls is not None)


def names_of(cls: type) -> set[str]:
    """Return the public names that a class of Peewee's defines itself."""
    if cls.__module__ != "peewee" and not cls.__module__.startswith("playhouse."):
        return set()
    return {name for name in vars(cls) if name[0] != "_"}


def known(subject: Any, lists: dict[str, Any]) -> set[str]:
    words = [lists.get(cls.__name__, "") for cls in subject.__mro__]
    return {name for some in words for name in (some.split() if isinstance(some, str) else some)}


SUBJECTS = sorted(subjects(), key=lambda subject: subject.__name__)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.__name__)
def test_every_public_name_is_accounted_for(subject: Any) -> None:
    """It is dual, or in exactly one of the lists above, so that a new Peewee cannot add a hole unseen."""
    names = {name for cls in subject.__mro__ for name in names_of(cls)}
    lists = [known(subject, lists) for lists in (PURE, ANSWERS, REFUSED)]
    dual = {name for name in names if is_dual(inspect.getattr_static(subject, name, None))}
    for name in sorted(names):
        places = [name in dual, *(name in some for some in lists)]
        assert (name, places.count(True)) == (name, 1), places


def test_the_lists_name_nothing_that_is_not_there() -> None:
    """Each name in the lists and in the tables of dual methods is one of Peewee's."""
    there = {cls.__name__: set(dir(cls)) for subject in SUBJECTS for cls in subject.__mro__}
    for lists in (PURE, ANSWERS, REFUSED):
        for cls in there.keys() & lists.keys():
            some: Any = lists[cls]
            assert set(some.split() if isinstance(some, str) else some) <= there[cls], cls
    absent = {name for name in DATABASES if peewee_database(name) is None}
    optional = {"SqlCipherDatabase": {"rekey"}, "CySqliteDatabase": {"backup", "backup_to_file"}}
    tables = {*DATABASE_METHODS, *SESSION_METHODS, *QUERY_METHODS, *MODEL_METHODS, *SEARCH_METHODS}
    missing = tables - {name for names in there.values() for name in names}
    assert missing == {name for cls in absent for name in optional.get(cls, ())}


# -- on the loop -----------------------------------------------------------------------------


class Target:
    """What the refused lines work on."""

    def __init__(self, db: Any) -> None:
        models = Models(db)
        self.db, self.User, self.Tweet = db, models.User, models.Tweet

    def schema(self, name: str) -> None:
        """Call a method of the schema manager with what it needs."""
        model = type(
            "Indexed", (self.Tweet,), {"number": peewee.IntegerField(index=True, sequence="numbers")}
        )
        field = model._meta.fields["number"]
        arguments = {
            "create_table_as": ("x", self.User.select()),
            "create_foreign_key": (model.user,),
            "create_sequence": (field,),
            "drop_sequence": (field,),
            "drop_index": (field,),
        }
        getattr(model._schema, name)(*arguments.get(name, ()))


LINES = [
    (cls, name)
    for cls, lines in REFUSED.items()
    for name in lines
    if cls not in DATABASES or peewee_database(cls) is not None
]


@pytest.mark.parametrize(("cls", "name"), LINES, ids=[f"{cls}.{name}" for cls, name in LINES])
async def test_a_refused_name_says_what_to_write_instead(cls: str, name: str, tmp_path: Path) -> None:
    """Really called on the loop, it raises BlockingCallError with the right form, before any connection."""
    wanted = cls if cls in DATABASES else "PostgresqlDatabase" if cls == "SchemaManager" else "SqliteDatabase"
    refused = REFUSED[cls][name]
    db = asynchronous(peewee_database(wanted))(tmp_path / "test.db" if "Sqlite" in wanted else "nowhere")
    with pytest.raises(BlockingCallError, match=rf"write instead:.*{re.escape(refused.instead)}"):
        refused.line(Target(db))


async def test_a_dual_name_is_pending_on_the_loop(sqlite_models: Models) -> None:
    """Whatever its arguments, it makes a call that bears its name, and nothing happens."""
    arguments = {"execute_sql": ["SELECT 1"]}  # looked at, for whether it writes
    User, db = sqlite_models.User, sqlite_models.database
    Group: Any = type("Group", (AsyncModel,), {"users": peewee.ManyToManyField(User, backref="groups")})
    Group._meta.set_database(db)
    called = set()
    for thing in (User, User(id=1), User.select(), Group(id=1).users, db):
        for name in {*MODEL_METHODS, *QUERY_METHODS, *DATABASE_METHODS}:
            method = getattr(thing, name, None)
            if not is_dual(method) or not inspect.ismethod(method):
                continue
            pending = method(*arguments.get(name, []))
            assert isinstance(pending, PendingCall)
            assert f".{name}" in repr(pending)
            pending.close()
            called.add(name)
    assert called >= {*MODEL_METHODS, *QUERY_METHODS, "execute_sql", "pragma", "is_connection_usable"}


async def test_a_connection_says_whether_it_is_usable(db: Any) -> None:
    """Asked of a worker's connection, in a block of the block's own."""
    assert await db.is_connection_usable()
    async with db.atomic():
        assert await db.is_connection_usable()
