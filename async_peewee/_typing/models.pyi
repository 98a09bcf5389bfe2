"""What type checkers are told of AsyncModel; no part of it exists when the program runs."""

# A dual method returns something to await where Peewee's returns None.
# mypy: disable-error-code="override"

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import peewee
from typing_extensions import Self

from .queries import (
    AsyncModelDelete,
    AsyncModelInsert,
    AsyncModelRaw,
    AsyncModelSelect,
    AsyncModelUpdate,
)
from .results import AwaitableModel, DualAny, DualBool, DualInt, DualPair, DualValue

A = TypeVar("A", bound=AwaitableModel)

class AsyncModelAlias(peewee.ModelAlias[A]):
    """`User.alias()`."""

    def select(self, *selection: Any) -> AsyncModelSelect[A]: ...

class TypedModel(AwaitableModel):
    """The base of AsyncModel to a type checker; when the program runs, that is Peewee's Model."""

    DoesNotExist: ClassVar[type[peewee.DoesNotExist]]

    # These are instances to a checker, which an AwaitableModel lets be awaited.
    @classmethod
    def create(cls, **query: Any) -> Self: ...
    @classmethod
    def get(cls, *query: Any, **filters: Any) -> Self: ...
    @classmethod
    def get_by_id(cls, pk: Any) -> Self: ...

    # `object` and not Any for the parameters: mypy, choosing between the overloads of aio() and
    # db.run(), gives up at a function that takes Any.
    @classmethod
    def get_or_none(cls, *query: object, **filters: object) -> DualValue[Self | None]: ...
    @classmethod
    def get_or_create(cls, **kwargs: object) -> DualPair[Self, bool]: ...
    @classmethod
    def set_by_id(cls, key: object, value: Mapping[Any, object]) -> DualAny: ...
    @classmethod
    def delete_by_id(cls, pk: object) -> DualInt: ...
    @classmethod
    def bulk_create(cls, model_list: Iterable[Self], batch_size: int | None = None) -> DualValue[None]: ...
    @classmethod
    def bulk_update(
        cls,
        model_list: Iterable[Self],
        fields: Iterable[peewee.Node | str],
        batch_size: int | None = None,
    ) -> DualInt: ...
    @classmethod
    def table_exists(cls) -> DualBool: ...
    @classmethod
    def create_table(cls, safe: bool = True, **options: object) -> DualValue[None]: ...
    @classmethod
    def drop_table(
        cls, safe: bool = True, drop_sequences: bool = True, **options: object
    ) -> DualValue[None]: ...
    @classmethod
    def truncate_table(cls, **options: object) -> DualValue[None]: ...
    def save(self, force_insert: bool = False, only: Iterable[object] | None = None) -> DualInt: ...
    def delete_instance(self, recursive: bool = False, delete_nullable: bool = False) -> DualInt: ...

    # -- queries ----------------------------------------------------------------------

    @classmethod
    def select(cls, *fields: Any) -> AsyncModelSelect[Self]: ...
    @classmethod
    def filter(cls, *dq_nodes: Any, **filters: Any) -> AsyncModelSelect[Self]: ...
    @classmethod
    def noop(cls) -> AsyncModelSelect[Self]: ...
    @classmethod
    def raw(cls, sql: str, *params: Any) -> AsyncModelRaw[Self]: ...
    @classmethod
    def update(cls, data: Any = None, /, **update: Any) -> AsyncModelUpdate: ...
    @classmethod
    def insert(cls, data: Any = None, /, **insert: Any) -> AsyncModelInsert[Any, DualAny]: ...
    @classmethod
    def insert_many(cls, rows: Iterable[Any], fields: Any = None) -> AsyncModelInsert[Any, DualAny]: ...
    @classmethod
    def insert_from(cls, query: Any, fields: Iterable[Any]) -> AsyncModelInsert[Any, DualAny]: ...
    @classmethod
    def replace(cls, data: Any = None, /, **insert: Any) -> AsyncModelInsert[Any, DualAny]: ...
    @classmethod
    def replace_many(cls, rows: Iterable[Any], fields: Any = None) -> AsyncModelInsert[Any, DualAny]: ...

    # Of type[Model] and not of type[Self], for the reason that Peewee's stubs give.
    delete: peewee.classmethod_only[peewee.Model, AsyncModelDelete]
