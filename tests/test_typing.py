"""What type checkers are told, in the .pyi files, is what the library has when it runs.

Peewee's own methods are the measure: a name or a parameter that a new Peewee brings fails here.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest

import async_peewee
from async_peewee import AsyncModel, AsyncTable, pwasyncio
from async_peewee._orm import transactions
from async_peewee._orm.database import DATABASE_METHODS, SESSION_METHODS
from async_peewee._orm.models import MODEL_METHODS, QUERY_BUILDERS
from async_peewee._orm.queries import QUERY_METHODS
from async_peewee._orm.transactions import TRANSACTION_METHODS
from tests.kinds import ALL, IMPORTABLE, class_of

FOLDER = Path(async_peewee.__file__).parent
TREES = [ast.parse(path.read_text()) for path in (*FOLDER.glob("_typing/*.pyi"), Path(transactions.__file__))]

# The methods of each class that a checker sees, with their overloads.
Methods = dict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]]


def methods_of(tree: ast.ClassDef) -> Methods:
    methods: Methods = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            methods.setdefault(node.name, []).append(node)
    return methods


CLASSES = {
    node.name: methods_of(node) for tree in TREES for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
}

# Typed in part as the row itself, which may be awaited as well, or as the D of a write.
ROWS = {"create", "get", "get_by_id", "execute"}

QUERIES = ["RowsQuery", "SelectCalls", "AsyncModelSelect", "AsyncManyToManyQuery", "WriteCalls"]
DATABASES = ["TypedDatabase", "TypedSqlite", "TypedPostgresql", "AsyncCySqliteDatabase"]
DATABASES += ["AsyncSqlCipherDatabase", "AsyncCockroachDatabase"]
TABLES = {
    "models": (MODEL_METHODS, ["TypedModel"]),
    "queries": (QUERY_METHODS, QUERIES),
    "databases": (DATABASE_METHODS + SESSION_METHODS, DATABASES),
    "transactions": (TRANSACTION_METHODS, ["AsyncTransaction"]),
    "savepoints": (TRANSACTION_METHODS, ["AsyncSavepoint"]),
}


def dual_names(cls: str) -> Iterator[str]:
    for name, overloads in CLASSES[cls].items():
        returned = {ast.unparse(node.returns) for node in overloads if node.returns}
        if name in ROWS or any(annotation.startswith("Dual") for annotation in returned):
            yield name


@pytest.mark.parametrize("table", TABLES)
def test_checkers_are_told_of_each_dual_method_and_of_no_other(table: str) -> None:
    names, classes = TABLES[table]
    assert {name for cls in classes for name in dual_names(cls)} == set(names)


def test_checkers_are_told_of_each_builder_of_queries() -> None:
    awaitable = {
        name
        for name, overloads in CLASSES["TypedModel"].items()
        if all(ast.unparse(node.returns or node).startswith("Async") for node in overloads)
    }
    # The others call these.
    assert awaitable == {*QUERY_BUILDERS, "filter", "insert_from", "replace", "replace_many"}
    assert CLASSES["SourceCalls"].keys() | CLASSES["TypedTable"].keys() <= set(dir(AsyncTable))


def test_checkers_are_told_of_the_names_with_a_prefix() -> None:
    model = {*pwasyncio.MODEL_NAMES, *pwasyncio.INSTANCE_NAMES}
    assert set(CLASSES["PrefixedModel"]) == {f"a{name}" for name in model}
    assert set(CLASSES["PrefixedTransaction"]) == {f"a{name}" for name in pwasyncio.TRANSACTION_NAMES}
    prefixed = {f"a{name}" for name in pwasyncio.DATABASE_NAMES} | {*pwasyncio.QUERY_NAMES}
    written = {"run", "list", "iterate", "aexecute", "aprefetch"}
    assert set(CLASSES["PrefixedDatabase"]) == prefixed | written
    assert written <= vars(pwasyncio.AsyncDatabaseMixin).keys()


# -- parameters ------------------------------------------------------------------------------

# The class at run time of each that a checker sees. Those of optional drivers, where these are.
AT_RUN_TIME: dict[str, Any] = {
    "TypedModel": AsyncModel,
    "TypedTable": peewee.Table,
    "AsyncCTE": peewee.CTE,
    "RowsQuery": peewee.ModelSelect,
    "SelectCalls": peewee.ModelSelect,
    "AsyncModelSelect": peewee.ModelSelect,
    "AsyncModelCompoundSelectQuery": peewee.ModelCompoundSelectQuery,
    "AsyncManyToManyQuery": peewee.ManyToManyQuery,
    "AsyncModelRaw": peewee.ModelRaw,
    "AsyncModelUpdate": peewee.ModelUpdate,
    "AsyncModelInsert": peewee.ModelInsert,
    "AsyncTransaction": peewee._transaction,
    "AsyncSavepoint": peewee._savepoint,
    "TypedDatabase": peewee.PostgresqlDatabase,
    "TypedSqlite": peewee.SqliteDatabase,
    "TypedPostgresql": peewee.PostgresqlDatabase,
    "PrefixedModel": AsyncModel,
}
AT_RUN_TIME |= {ALL[kind].database: class_of(kind) for kind in IMPORTABLE if ALL[kind].database in DATABASES}


def typed_parameters(overloads: list[Any]) -> tuple[set[str], bool]:
    """Return the names of a method's parameters, and whether it takes others by name."""
    lists = [node.args for node in overloads]
    names = {each.arg for args in lists for each in (*args.args, *args.kwonlyargs)}
    return names - {"self", "cls"}, any(args.kwarg or args.posonlyargs for args in lists)


def real_parameters(method: Any) -> tuple[set[str], bool]:
    parameters = inspect.signature(method).parameters.values()
    named = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    return named - {"self", "cls"}, any(each.kind is each.VAR_KEYWORD for each in parameters)


@pytest.mark.parametrize("cls", AT_RUN_TIME)
def test_checkers_are_told_of_the_parameters_that_the_methods_have(cls: str) -> None:
    """By their names; one that a method takes without naming it may have a name to a checker, or none."""
    for name, overloads in CLASSES[cls].items():
        real = AT_RUN_TIME[cls]
        method = getattr(real, name.removeprefix("a") if cls == "PrefixedModel" else name, None)
        if name.startswith("__") or method is None:
            continue
        (typed, takes_more), (named, names_more) = typed_parameters(overloads), real_parameters(method)
        assert (name, typed - named if not names_more else set()) == (name, set())
        assert (name, named - typed if not takes_more else set()) == (name, set())


# -- names -----------------------------------------------------------------------------------


def test_each_public_name_is_there_and_says_what_it_is() -> None:
    for name in async_peewee.__all__:
        assert getattr(async_peewee, name).__doc__, name


def test_names_for_annotations_are_declared() -> None:
    """`__init__` re-exports, for checkers only, classes that the .pyi files have."""
    tree = ast.parse(Path(async_peewee.__file__).read_text())
    branches = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for branch in branches for node in branch.body if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names}
    assert names
    assert names <= CLASSES.keys()
