"""AsyncModel: its metaclass and its metadata."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from types import GenericAlias
from typing import TYPE_CHECKING, Any, TypeVar

import peewee

from .._bridge.calls import refuse_async
from .._bridge.dual import install_dual, pend_method, refuse_bind_ctx
from .._bridge.places import guard
from .._typing.results import Self
from .queries import AsyncQuery, make_awaitable
from .relations import AsyncBackrefAccessor, AsyncForeignKeyAccessor, AsyncManyToManyAccessor
from .signals import with_checked_signals

if TYPE_CHECKING:
    from .._typing.models import AsyncModelAlias, TypedModel
else:
    TypedModel = peewee.Model

    class AsyncModelAlias(peewee.ModelAlias):
        """An alias of a model whose queries can be awaited."""

        __class_getitem__ = classmethod(GenericAlias)

        def select(self, *selection: Any) -> Any:
            return make_awaitable(super().select(*selection))


T = TypeVar("T")


MODEL_METHODS = (
    "create bulk_create bulk_update get get_or_none get_by_id set_by_id delete_by_id get_or_create "
    "table_exists create_table drop_table truncate_table save delete_instance"
).split()


# Methods of playhouse's FTSModel and FTS5Model that run SQL.
SEARCH_METHODS = (
    "optimize rebuild integrity_check merge automerge set_pgsz set_rank delete_all delete_command"
).split()


# The builders of queries, with their kind: delete is an attribute of the class only.
QUERY_BUILDERS = "select update insert insert_many insert_from raw noop".split()


def _table(metadata: Any) -> Any:
    # Asked for several times for each query, so it is made awaitable only when it is made.
    made = metadata._table
    return made if made is not None else make_awaitable(peewee.Metadata.table.__get__(metadata))


class AsyncMetadata(peewee.Metadata):
    """Metadata that gives the model's fields the asynchronous accessors, the fields that come late too."""

    table = vars(peewee.Metadata)["table"].getter(_table)

    def add_field(self, field_name: str, field: Any, set_attribute: bool = True) -> None:
        refuse_async(field.default, f"the default of {field_name}", "which Peewee calls for each new row")
        # On the field, not on its class: plain models use the same classes.
        if isinstance(field, peewee.ForeignKeyField):
            if field.accessor_class is peewee.ForeignKeyAccessor:
                field.accessor_class = AsyncForeignKeyAccessor
            if field.backref_accessor_class is peewee.BackrefAccessor:
                field.backref_accessor_class = AsyncBackrefAccessor
        elif isinstance(field, peewee.ManyToManyField):
            field.accessor_class = AsyncManyToManyAccessor
            field._create_through_model = partial(  # type: ignore[attr-defined]
                _make_through_model, field
            )
        super().add_field(field_name, field, set_attribute)


def _make_through_model(field: Any) -> Any:
    """Return Peewee's table between two models, as an asynchronous model."""
    first, second = field.get_models()
    options = {"on_delete": field._on_delete, "on_update": field._on_update}
    meta = {
        "database": field.model._meta.database,
        "schema": field.model._meta.schema,
        "table_name": f"{first._meta.table_name}_{second._meta.table_name}_through",
        "indexes": (((first._meta.name, second._meta.name), True),),
    }
    attributes = {
        first._meta.name: peewee.ForeignKeyField(first, **options),
        second._meta.name: peewee.ForeignKeyField(second, **options),
        "Meta": type("Meta", (), meta),
    }
    return AsyncModelBase(f"{first.__name__}{second.__name__}Through", (AsyncModel,), attributes)


def _metadata_class(meta: Any, bases: tuple[type, ...]) -> Any:
    """Return the class that a model has its metadata made of: its own Meta's, or the first base's."""
    for options in (meta, *(getattr(base, "_meta", None) for base in bases)):
        metadata = getattr(options, "model_metadata_class", None)
        if metadata is not None:
            return metadata
    return None


def _refuse_thread_local(metadata: type, name: str) -> None:
    shortcuts = sys.modules.get("playhouse.shortcuts")
    if shortcuts is not None and issubclass(metadata, shortcuts.ThreadSafeDatabaseMetadata):
        raise TypeError(
            f"{name} cannot have {metadata.__name__}: it keeps the database that was chosen for each thread, "
            "and a call runs on another thread than the one that has chosen. Name the database where it is "
            "another one, await query.execute(database), or give each database a model: "
            f"class Other({name}), with its database and table_name in its Meta"
        )


class AsyncModelBase(peewee.ModelBase):
    """Make the blocking methods of every model class dual, the user's overrides included."""

    def __new__(cls, name: str, bases: Any, attrs: dict[str, Any], **kwargs: Any) -> Any:
        metadata = _metadata_class(attrs.get("Meta"), bases)
        if metadata is not None and not issubclass(metadata, AsyncMetadata):
            _refuse_thread_local(metadata, name)
            # In the class's own Meta: Peewee does not look into those that it inherits.
            meta = attrs.setdefault("Meta", type("Meta", (), {}))
            meta.model_metadata_class = type(f"Async{metadata.__name__}", (AsyncMetadata, metadata), {})
        model = super().__new__(cls, name, with_checked_signals(bases), attrs, **kwargs)
        install_dual(model, MODEL_METHODS, pend_method)
        install_dual(model, SEARCH_METHODS, pend_method)
        return model

    # What a class does without a call by name. Peewee's __getitem__ would call get_by_id
    # from Peewee's own code, which the dual wrapper refuses.

    def __getitem__(cls: type[T], key: Any) -> T:
        return cls.get_by_id(key)  # type: ignore[attr-defined, no-any-return]

    def __iter__(cls) -> Iterator[Any]:
        guard(f"for x in {cls.__name__}", f"async for x in {cls.__name__}.select()")
        return iter(super().__iter__())

    def __len__(cls) -> int:
        guard(f"len({cls.__name__})", f"await {cls.__name__}.select().count()")
        return super().__len__()

    def __contains__(cls, key: Any) -> bool:
        guard(f"x in {cls.__name__}", f"await {cls.__name__}.get_or_none(...) is not None")
        return super().__contains__(key)

    def __setitem__(cls, key: Any, value: Any) -> None:
        guard(f"{cls.__name__}[key] = ...", f"await {cls.__name__}.set_by_id(key, ...)")
        super().__setitem__(key, value)

    def __delitem__(cls, key: Any) -> None:
        guard(f"del {cls.__name__}[key]", f"await {cls.__name__}.delete_by_id(key)")
        super().__delitem__(key)


class AsyncModel(TypedModel, metaclass=AsyncModelBase):
    """A Peewee model whose blocking methods are awaited on an event loop.

        User.create(name="Huey")   ->   await User.create(name="Huey")
        user.save()                ->   await user.save()

    Each call runs Peewee's own method on a worker thread, in one hop, inside the task's
    transaction if there is one. On a worker and on a thread without an event loop the
    same names are Peewee's own methods. Results and errors are Peewee's. Cancelling the task
    interrupts the statement on the server; a call still in the queue never runs.
    """

    if not TYPE_CHECKING:  # to a checker, the Meta of every model would override this one

        class Meta:
            model_metadata_class = AsyncMetadata

    @classmethod
    def alias(cls, alias: str | None = None) -> AsyncModelAlias[Self]:
        return AsyncModelAlias(cls, alias)

    @classmethod
    def bind_ctx(cls, database: Any, bind_refs: bool = True, bind_backrefs: bool = True) -> Any:
        refuse_bind_ctx()
        return super().bind_ctx(database, bind_refs, bind_backrefs)

    def __eq__(self, other: object) -> Any:
        if isinstance(other, AsyncQuery):
            other.refuse_comparison()
        return super().__eq__(other)

    # A class that says what is equal has to say what its hash is, too.
    if TYPE_CHECKING:

        def __hash__(self) -> int: ...
    else:
        __hash__ = peewee.Model.__hash__

    def __sql__(self, ctx: Any) -> Any:
        # Peewee's own reads the primary key by its name, which is a query where the
        # primary key is a foreign key: hidden, and in the middle of building SQL.
        key = self._meta.primary_key
        if not isinstance(key, peewee.ForeignKeyField):
            return super().__sql__(ctx)
        return ctx.sql(peewee.Value(getattr(self, key.safe_name), converter=key.db_value))


def _awaitable_builder(name: str) -> Any:
    def build(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return make_awaitable(getattr(super(AsyncModel, cls), name)(*args, **kwargs))

    build.__name__ = name
    build.__doc__ = getattr(peewee.Model, name).__doc__
    return classmethod(build)


def _delete(cls: Any) -> Any:
    return make_awaitable(peewee.Model.__dict__["delete"].__get__(None, cls)())


for _name in QUERY_BUILDERS:
    setattr(AsyncModel, _name, _awaitable_builder(_name))


AsyncModel.delete = peewee.classmethod_only(_delete)

# Peewee's Model has no fields, so a model with a key of its own has no `id`; this one is a class
# like any other, and would hand its automatic key's name down to all.
del AsyncModel.id  # type: ignore[attr-defined]
