"""The list of guards and of the edits that remove them fits the source."""

from __future__ import annotations

from pathlib import Path

import pytest

import async_peewee
from tests.reliability.mutations import MUTATIONS, Mutation, share

PACKAGE = Path(async_peewee.__file__).parent


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.guard for mutation in MUTATIONS])
def test_each_edit_fits_one_place_of_the_source(mutation: Mutation) -> None:
    """`python tests/reliability/mutations.py` makes the edits, and sees a test fail for each."""
    assert (PACKAGE / mutation.file).read_text().count(mutation.old) == 1


def test_the_parts_together_are_the_whole_list() -> None:
    """CI makes one part of the edits each time."""
    parts = [share(f"{number}/4") for number in (1, 2, 3, 4)]
    assert sorted(mutation.guard for part in parts for mutation in part) == sorted(
        mutation.guard for mutation in MUTATIONS
    )


@pytest.mark.parametrize("part", ["0/4", "5/4", "x", ""])
def test_a_part_that_is_none_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="is no part like"):
        share(part)
