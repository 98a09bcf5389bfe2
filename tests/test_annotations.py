"""The public names when the program runs: annotations can be evaluated, and names say where they are from."""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys
import typing
from collections.abc import Callable, Coroutine, Iterator
from functools import cache
from types import FunctionType
from typing import Any

import peewee
import pytest

import async_peewee
from async_peewee import (
    AsyncManyToManyQuery,
    AsyncModel,
    AsyncModelSelect,
    AsyncTable,
    Rows,
    pwasyncio,
)
from async_peewee._orm.queries import make_awaitable
from tests.kinds import IMPORTABLE, class_of
from tests.support import Models

MODULES = ["async_peewee", "async_peewee.pwasyncio", "async_peewee.postgres_ext"]


@cache
def public(module: str) -> dict[str, Any]:
    """Return the classes and functions that a public module brings; pwasyncio hands on others, too."""
    names = vars(importlib.import_module(module))
    known = list(vars(peewee).values())
    if module != "async_peewee":
        known += public("async_peewee").values()
    # By identity: to some of Peewee's objects `==` is SQL.
    passed_on = set(map(id, known))
    things = {name: names[name] for name in names["__all__"] if id(names[name]) not in passed_on}
    return {name: thing for name, thing in things.items() if isinstance(thing, (type, FunctionType))}


def everything() -> dict[str, Any]:
    """Return all of them, with the methods that each class has, and those of optional drivers' classes."""
    found = {f"{module}.{name}": thing for module in MODULES for name, thing in public(module).items()}
    found |= {cls.__name__: cls for cls in map(class_of, IMPORTABLE)}
    methods = {f"{name}.{method}": each for name, cls in found.items() for method, each in methods_of(cls)}
    return found | methods


def methods_of(cls: Any) -> Iterator[tuple[str, Any]]:
    for name in dir(cls) if isinstance(cls, type) else []:
        member = inspect.getattr_static(cls, name, None)
        function = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
        if isinstance(function, FunctionType) and (name[0] != "_" or name.startswith("__")):
            yield name, function


def overloads_of(thing: Any) -> list[Any]:
    # Python keeps them from 3.11 on.
    is_function = isinstance(thing, FunctionType) and sys.version_info >= (3, 11)
    return [*typing.get_overloads(thing)] if is_function else []


def signature_of(thing: Any) -> None:
    inspect.signature(thing, eval_str=True)


def failures(evaluate: Callable[[Any], object]) -> list[str]:
    failed = []
    for name, thing in everything().items():
        try:
            for each in (thing, *overloads_of(thing)):
                evaluate(each)
        except Exception as error:
            failed.append(f"{name}: {error!r}")
    return failed


@pytest.mark.parametrize("evaluate", [typing.get_type_hints, signature_of])
def test_annotations_of_public_names_can_be_evaluated(evaluate: Callable[[Any], object]) -> None:
    assert failures(evaluate) == []
    assert sys.version_info < (3, 11) or overloads_of(async_peewee.aio), "their overloads, too"
    assert len(everything()) > 500, "the methods are found"


def test_annotations_say_what_a_call_gives() -> None:
    hints = typing.get_type_hints(async_peewee.AsyncDatabase.connect)
    assert hints["return"] == typing.Union[Coroutine[Any, Any, bool], bool]  # noqa: UP007
    hints = typing.get_type_hints(async_peewee.AsyncDatabase.atomic)
    assert issubclass(pwasyncio.async_atomic, hints["return"])
    assert typing.get_origin(typing.get_type_hints(AsyncModel.alias)["return"]) is type(AsyncModel.alias())


class Student(AsyncModel):
    """As a user declares what Peewee adds."""

    courses: AsyncManyToManyQuery[Course]
    marks: AsyncModelSelect[Mark]


class Course(AsyncModel):
    students = peewee.ManyToManyField(Student, backref="courses")


class Mark(AsyncModel):
    student = peewee.ForeignKeyField(Student, backref="marks")


def test_names_for_annotations_can_be_evaluated() -> None:
    hints = typing.get_type_hints(Student)
    assert hints["courses"] == AsyncManyToManyQuery[Course]
    assert hints["marks"] == AsyncModelSelect[Mark]
    assert AsyncModelSelect["Mark"] == AsyncModelSelect["Mark"]
    assert typing.get_args(Rows[Student]) == (Student,)
    assert typing.get_origin(Rows[Student]) is Rows


def test_queries_are_instances_of_the_names_for_them() -> None:
    student = Student(id=1)
    for query in (Student.select(), student.marks, Student.alias().select(), Student.noop()):
        assert isinstance(query, AsyncModelSelect)
    for query in (student.courses, student.courses.where(Course.id == 1)):
        assert type(query) is AsyncManyToManyQuery
        assert isinstance(query, AsyncModelSelect)
    assert type(Student.select()) is AsyncModelSelect
    others = (
        Student.update(id=1),
        Student.raw(""),
        AsyncTable("x").select(),
        peewee.ModelSelect(Student, []),
    )
    assert not [query for query in others if isinstance(query, AsyncModelSelect)]


async def test_filled_results_are_instances_of_rows(sqlite_models: Models) -> None:
    User = sqlite_models.User
    query = User.select()
    selects = [query, User.select().dicts(), User.select().tuples(), User.raw("SELECT * FROM users")]
    returning = User.insert(name="Huey").returning(User.id)
    for each in (*selects, returning):
        assert isinstance(await each, Rows)
    assert not isinstance(query, Rows)
    assert not isinstance(list(query), Rows)
    unfilled = await User._meta.database.run(lambda: isinstance(User.select().execute(), Rows))
    assert not unfilled


async def test_the_methods_of_a_query_class_of_ones_own_are_awaited(sqlite_models: Models) -> None:
    class Doubled(peewee.ModelSelect):
        def count(self, database: Any = None, clear_limit: bool = False) -> int:
            return 2 * super().count(database, clear_limit)

    User = sqlite_models.User
    await User.create(name="Huey")
    query = make_awaitable(Doubled(User, [User.id]))
    assert isinstance(query, AsyncModelSelect)
    assert await query.count() == 2


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_from_the_module_that_they_are_imported_from(module: str) -> None:
    names = public(module)
    assert {name: thing.__module__ for name, thing in names.items()} == dict.fromkeys(names, module)
    assert names


@pytest.mark.parametrize("module", MODULES)
def test_public_names_can_be_pickled(module: str) -> None:
    for name, thing in public(module).items():
        assert pickle.loads(pickle.dumps(thing)) is thing, name


def test_public_objects_can_be_pickled() -> None:
    stats = async_peewee.PoolStats(4)
    assert pickle.loads(pickle.dumps(stats)) == stats
