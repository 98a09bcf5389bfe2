"""What holds after every reliability test: the server's side is clean."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support import Maker


@pytest.fixture(autouse=True)
def no_connection_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test whose closed databases still have a connection two seconds later, open block or not."""
    maker = request.getfixturevalue("make_database") if "make_database" in request.fixturenames else None
    yield
    if not isinstance(maker, Maker) or maker.server is None:
        return
    end = time.monotonic() + 2
    while backends := maker.server.backends():
        if time.monotonic() > end:
            pytest.fail(f"connections left behind: {backends}")
        time.sleep(0.01)
