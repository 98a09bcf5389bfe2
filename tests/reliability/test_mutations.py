"""The list of guards and of the edits that remove them fits the source."""

from __future__ import annotations

from pathlib import Path

import pytest

import async_peewee
from tests.reliability.mutations import MUTATIONS, Mutation

PACKAGE = Path(async_peewee.__file__).parent


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.guard for mutation in MUTATIONS])
def test_each_edit_fits_one_place_of_the_source(mutation: Mutation) -> None:
    """`python tests/reliability/mutations.py` makes the edits, and sees a test fail for each."""
    assert (PACKAGE / mutation.file).read_text().count(mutation.old) == 1
