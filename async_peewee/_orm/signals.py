"""Signals: handlers of playhouse.signals that are async, which it would call and not await."""

from __future__ import annotations

import sys
from typing import Any

from .._bridge.calls import gives_coroutine, name_of


class CheckedSignals:
    """The base, before playhouse's, of models with signals.

    Nothing of Peewee is patched, so that what is connected there is seen here at its first use:
    before anything is done.
    """

    _meta: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        refuse_async_handlers(type(self), "pre_init")
        super().__init__(*args, **kwargs)

    def save(self, *args: Any, **kwargs: Any) -> Any:
        refuse_async_handlers(type(self), "pre_save", "post_save")
        return super().save(*args, **kwargs)  # type: ignore[misc]

    def delete_instance(self, *args: Any, **kwargs: Any) -> Any:
        refuse_async_handlers(type(self), "pre_delete", "post_delete")
        return super().delete_instance(*args, **kwargs)  # type: ignore[misc]


def with_checked_signals(bases: tuple[type, ...]) -> tuple[type, ...]:
    """Return the bases of a model, with the check where playhouse's signals are among them."""
    signals = sys.modules.get("playhouse.signals")
    if signals is None or not any(issubclass(base, signals.Model) for base in bases):
        return bases
    if any(issubclass(base, CheckedSignals) for base in bases):
        return bases
    return (CheckedSignals, *bases)


def refuse_async_handlers(model: type, *names: str) -> None:
    """Raise TypeError if one of these signals of a model would go to a handler that is async."""
    for name in names:
        signal = getattr(sys.modules["playhouse.signals"], name)
        for _, receiver, sender in signal._receiver_list:
            if gives_coroutine(receiver) and (sender is None or issubclass(model, sender)):
                raise TypeError(
                    f"{name_of(receiver)} is connected to {name} of {model.__name__} and is async: Peewee "
                    "calls handlers itself, on a worker, and awaits none. Write a plain function, which may "
                    "use the database there; what is to be awaited, on the event loop after the commit, it "
                    "gives to db.after_commit(functools.partial(async_function, instance))"
                )
