"""Accessors: what a model's relations give: the row, an awaitable reference to it, or a query."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NoReturn

import peewee

from .._bridge.calls import call_on_worker
from .._bridge.connections import connections_of
from .._bridge.entries import made_here
from .._bridge.places import guard, on_loop_thread
from .._bridge.unawaited import Unawaited
from .._errors import BlockingCallError
from .queries import make_awaitable


class RowNotLoaded(BlockingCallError, AttributeError):
    """Raised when code takes a reference for the row itself; to hasattr() it is a missing attribute."""


class RelatedReference(Unawaited):
    """A foreign key's row that is not loaded yet; `await` loads it.

    It can be awaited again, is silent when dropped, and is never stored in the instance:
    awaiting runs Peewee's own accessor, which stores the row itself.
    """

    __slots__ = ("_accessor", "_instance", "_made_in")

    def __init__(self, accessor: AsyncForeignKeyAccessor, instance: Any) -> None:
        self._accessor = accessor
        self._instance = instance
        self._made_in = made_here()

    def _describe(self) -> str:
        return f"{type(self._instance).__name__}.{self._accessor.name}"

    def _instead(self) -> str:
        key = f"{type(self._instance).__name__}.{self._accessor.field.object_id_name}"
        return f"{super()._instead()}; its key alone, {key}, needs no query"

    def __getattr__(self, name: str) -> NoReturn:
        if name == "_meta":  # asked for by code that takes it for the row: model_to_dict()
            row = self._describe()
            raise RowNotLoaded(f"following {row}", f"await db.run(function, ...), or await {row} first")
        super().__getattr__(name)

    def __await__(self) -> Generator[Any, Any, Any]:
        connections = connections_of(self._accessor.rel_model._meta.database)
        accessor, instance = self._accessor, self._instance

        def load() -> Any:
            return accessor.get_rel_instance(instance)

        return call_on_worker(self._describe(), connections, load, made_in=self._made_in).__await__()


class AsyncForeignKeyAccessor(peewee.ForeignKeyAccessor):
    """`tweet.user`: the row if it is loaded; on the loop's thread, else, a reference to await."""

    def get_rel_instance(self, instance: Any) -> Any:
        is_unloaded = (
            self.name not in instance.__rel__
            and instance.__data__.get(self.name) is not None
            and self.field.lazy_load
        )
        if is_unloaded and on_loop_thread():
            return RelatedReference(self, instance)
        return super().get_rel_instance(instance)

    def __set__(self, instance: Any, obj: Any) -> None:
        super().__set__(instance, obj)
        if isinstance(obj, self.rel_model):
            # By its safe name: the key of a row may be a foreign key itself, and not loaded.
            instance.__data__[self.name] = getattr(obj, self.field.rel_field.safe_name)


class AsyncBackrefAccessor(peewee.BackrefAccessor):
    """`user.tweets`: Peewee's query, built without loading a key that is itself a foreign key."""

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is None:
            return self
        key = getattr(instance, self.field.rel_field.safe_name)
        return self.rel_model.select().where(self.field == key)


class AsyncManyToManyAccessor(peewee.ManyToManyFieldAccessor):
    """`student.courses`: an awaitable query with awaitable add(), remove() and clear()."""

    def get_query(self, instance: Any) -> Any:
        # By safe names, for the reason given above; otherwise as Peewee's own.
        source, target = self.src_fk.rel_field.safe_name, self.dest_fk.rel_field.safe_name
        key = getattr(instance, source)
        if key is None and self.field._prevent_unsaved:
            raise ValueError(
                f"cannot access many-to-many {self.field.name!r} of an unsaved {self.model.__name__}"
            )
        query = peewee.ManyToManyQuery(instance, self, self.rel_model)
        query._src_attr, query._dest_attr = source, target  # type: ignore[attr-defined]
        return make_awaitable(query.join(self.through_model).join(self.model).where(self.src_fk == key))

    def __set__(self, instance: Any, value: Any) -> None:
        name = self.field.name
        guard(f"instance.{name} = [...]", f"await instance.{name}.add([...], clear_existing=True)")
        super().__set__(instance, value)
