"""What names of results.pyi stand for when the program runs; type checkers read that file instead.

They are here to be evaluated: FastAPI, pydantic, Sphinx and typing.get_type_hints() do that
with annotations.
"""

import sys
from collections.abc import Awaitable, Coroutine
from types import GenericAlias
from typing import Any, TypeVar, Union

import peewee

if sys.version_info >= (3, 11):
    from typing import Self as Self
else:
    from typing_extensions import Self as Self

T = TypeVar("T")

# On an event loop something to await, on a worker and any other thread the result itself.
# With `|` a name in quotes could not be put in the place of T.
DualValue = Union[Coroutine[Any, Any, T], T]  # noqa: UP007
DualBool = DualValue[bool]
DualInt = DualValue[int]
DualList = DualValue[list[T]]
Returned = Awaitable[T]


class _RowsType(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, peewee.CursorWrapper) and value.populated


class Rows(peewee.CursorWrapper, metaclass=_RowsType):
    """The filled result of a SELECT, or of RETURNING; in annotations with its rows: `Rows[User]`.

    Whatever class of Peewee's a result has, it is an instance of this one once it is filled, as
    each is that was awaited.
    """

    __class_getitem__ = classmethod(GenericAlias)
