"""What was not awaited yet, and refuses to be used as if it were the result."""

from __future__ import annotations

import dis
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from .._errors import BlockingCallError
from .places import is_peewee

# The methods that compare; most of them ask for the other's class first.
COMPARISONS = frozenset({"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"})


# The instruction of a pattern such as `case User():`.
MATCH_CLASS = dis.opmap.get("MATCH_CLASS")


class Unawaited:
    """Refuse everything that only makes sense of the result of a call not awaited yet.

    With an error that says so, and not with AttributeError, which getattr() with a default
    and template engines swallow. Even str(): a text field would store it otherwise.
    """

    __slots__ = ()

    def _describe(self) -> str:
        raise NotImplementedError

    def _instead(self) -> str:
        return f"await it first, as in (await {self._describe()})"

    def _misused(self, *_: Any) -> NoReturn:
        raise BlockingCallError(
            f"using {self._describe()} before it was awaited", self._instead(), "finds no result"
        )

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            self._misused()
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> NoReturn:
        # Names of introspection are asked for by debuggers, copy and asyncio's own repr.
        if name.startswith(("_", "cr_", "gi_", "ag_")):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._misused()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._describe()}, not awaited>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._describe()} was not awaited, and cannot be pickled")

    def __hash__(self) -> int:
        # gather() and as_completed() put what they are to await into a dict and a set.
        if not sys._getframe(1).f_globals.get("__name__", "").startswith("asyncio."):
            self._misused()
        return object.__hash__(self)

    def _class(self) -> type:
        # What has its own answer to `==`, as Peewee's models have, never asks this side: it compares
        # classes, or isinstance() does, and both come here.
        if _takes_for_value(sys._getframe(1)):
            self._misused()
        return type(self)

    if not TYPE_CHECKING:  # a checker that does not see them reports their use
        __class__ = property(_class)
        __bool__ = __str__ = __int__ = __float__ = __index__ = __len__ = __iter__ = _misused
        __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _misused
        __getitem__ = __contains__ = __format__ = __add__ = __sub__ = _misused


def _takes_for_value(frame: FrameType) -> bool:
    """Return True if code that asks for an object's class means to use the object as a value.

    Peewee, which makes SQL of it, a comparison, and a class pattern of `match`. Others may ask
    whether it can be awaited.
    """
    code = frame.f_code
    return code.co_name in COMPARISONS or is_peewee(frame) or code.co_code[frame.f_lasti] == MATCH_CLASS


# Past the guard above, for what is our own.
set_attribute = object.__setattr__
