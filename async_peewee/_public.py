"""Where public classes and functions say that they come from: the module that users import."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable
from types import FunctionType
from typing import Any


def name_module(namespace: dict[str, Any]) -> None:
    """Make a public module the `__module__` of what its `__all__` has out of private ones.

    Tracebacks, pickles and documentation then name what can be imported.
    """
    module = namespace["__name__"]
    for thing in map(namespace.get, namespace["__all__"]):
        if not isinstance(thing, (type, FunctionType)) or not thing.__module__.startswith(f"{module}."):
            continue
        if isinstance(thing, type):
            # Strings are evaluated in the module of their class, where the names would be missing.
            thing.__annotations__ = inspect.get_annotations(thing, eval_str=True)
        else:
            _move_overloads(thing, module)
        thing.__module__ = module


def _move_overloads(function: Callable[..., Any], module: str) -> None:
    # Python finds them by the module of their function.
    if sys.version_info >= (3, 11):
        for each in typing.get_overloads(function):
            each.__module__ = module
            typing.overload(each)
