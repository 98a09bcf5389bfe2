"""The figures of all rounds, and what they come to: medians, and ratios taken within a round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.cells import Cell


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1]) if ordered else None

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


class Results:
    """What was measured: the figures of each cell by round."""

    def __init__(self) -> None:
        self._rounds: dict[Cell, dict[int, dict[str, Any]]] = {}
        self.errors: dict[Cell, str] = {}

    def add(self, cell: Cell, round_number: int, figures: dict[str, Any]) -> None:
        if "error" in figures:
            self.errors[cell] = figures["error"]
        else:
            self._rounds.setdefault(cell, {})[round_number] = figures

    @property
    def cells(self) -> list[Cell]:
        return list(self._rounds)

    def by_round(self, cell: Cell, measure: str) -> dict[int, float]:
        rounds = self._rounds.get(cell, {})
        return {number: got[measure] for number, got in rounds.items() if got.get(measure) is not None}

    def median(self, cell: Cell, measure: str) -> float | None:
        spread = Spread.of(self.by_round(cell, measure).values())
        return spread.median if spread else None

    def ratio(self, cell: Cell, base: Cell, measure: str = "rate") -> Spread | None:
        """Compare two cells in each round that has both; None without any."""
        ours, theirs = self.by_round(cell, measure), self.by_round(base, measure)
        return Spread.of(ours[number] / theirs[number] for number in ours if theirs.get(number))

    def to_json(self) -> list[dict[str, Any]]:
        cells = [{**asdict(cell), "rounds": rounds} for cell, rounds in self._rounds.items()]
        return cells + [{**asdict(cell), "error": error} for cell, error in self.errors.items()]

    @classmethod
    def from_json(cls, rows: list[dict[str, Any]]) -> Results:
        results = cls()
        for row in rows:
            cell = Cell(**{name: row[name] for name in Cell.__dataclass_fields__})
            for number, figures in row.get("rounds", {}).items():
                results.add(cell, int(number), figures)
            if "error" in row:
                results.add(cell, 0, {"error": row["error"]})
        return results
