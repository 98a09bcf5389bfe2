"""model_to_dict() of playhouse.shortcuts, which follows relations, and so queries, on a worker."""

from __future__ import annotations

from typing import Any

import peewee
from playhouse import shortcuts

from .._bridge.calls import call_on_worker
from .._bridge.connections import connections_of
from .._bridge.detaching import detached
from .._bridge.places import on_loop_thread
from .._typing.results import DualValue


def model_to_dict(model: peewee.Model, *args: Any, **options: Any) -> DualValue[dict[str, Any]]:
    """Make a dict of a model instance and of the rows that it is related to.

        playhouse.shortcuts.model_to_dict(tweet)   ->   await model_to_dict(tweet)

    Runs on one worker as one call, inside the task's transaction if there is one. Takes what
    playhouse's takes (`recurse`, `backrefs`, `only`, `exclude`, `max_depth`, `manytomany`, ...); the
    rows that it loads stay in the instance. Cancellation interrupts the query that runs.
    """
    if not on_loop_thread():
        return shortcuts.model_to_dict(model, *args, **options)  # type: ignore[no-any-return]
    function = detached(shortcuts.model_to_dict, model, *args, **options)
    label = f"model_to_dict({type(model).__name__})"
    return call_on_worker(label, connections_of(model._meta.database), function, writes=False)
