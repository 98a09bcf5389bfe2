"""The chart: bars of the rates, as parts of what plain Peewee does on one thread, drawn as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.cells import Cell
from benchmarks.contenders import CONTENDERS
from benchmarks.results import Results

COLOURS = {
    "ours": "#2563eb",
    "pwasyncio-held": "#f59e0b",
    "pwasyncio-call": "#fcd34d",
    "peewee-async": "#10b981",
    "peewee-aio": "#a78bfa",
}
TITLES = {
    "sqlite": "SQLite",
    "psycopg2": "PostgreSQL, psycopg2",
    "psycopg3": "PostgreSQL, psycopg 3",
    "psycopg2-1ms": "PostgreSQL, psycopg2, 1 ms away",
    "psycopg3-1ms": "PostgreSQL, psycopg 3, 1 ms away",
}
OPERATIONS = ("get", "create", "list_100", "run", "atomic")
BAR, GAP, PANEL_HEIGHT, LEFT, TOP = 13, 16, 190, 46, 64
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#475569}.title{font-weight:600;font-size:14px;fill:#0f172a}"
    ".line{stroke:#94a3b8;stroke-dasharray:4 3}"
)


def text(x: float, y: float, words: str, extra: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {extra}>{escape(words)}</text>'


def bars(
    results: Results, database: str, tasks: int, names: Sequence[str]
) -> list[tuple[str, list[float | None]]]:
    """Return for each operation what each contender reaches of plain Peewee on one thread."""
    found = []
    for operation in OPERATIONS:
        row = Cell(database, operation, tasks, "ours")
        spreads = [results.ratio(row.of(name), row.of("plain")) for name in names]
        if any(spreads):
            found.append((operation, [spread.median if spread else None for spread in spreads]))
    return found


def panel(title: str, found: list[tuple[str, list[float | None]]], names: Sequence[str]) -> list[str]:
    """Draw the bars of one database, with a line where plain Peewee is."""
    highest = max([1.0, *(ratio for _, ratios in found for ratio in ratios if ratio)])
    scale, bottom = (PANEL_HEIGHT - 66) / highest, PANEL_HEIGHT - 30
    drawn = [text(LEFT, 14, title, 'class="title"')]
    x = float(LEFT + 10)
    for operation, ratios in found:
        begin = x
        for name, ratio in zip(names, ratios, strict=True):
            if ratio is not None:
                drawn.append(bar(x, bottom, ratio, scale, COLOURS[name]))
                x += BAR
        drawn.append(text((begin + x) / 2, bottom + 16, operation, 'text-anchor="middle"'))
        x += GAP
    y = bottom - scale
    drawn.append(f'<line class="line" x1="{LEFT}" x2="{x - GAP:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>')
    drawn.append(text(LEFT - 6, y + 4, "1.0", 'text-anchor="end"'))
    return drawn


def bar(x: float, bottom: float, ratio: float, scale: float, colour: str) -> str:
    height = ratio * scale
    place = f'x="{x:.0f}" y="{bottom - height:.1f}" width="{BAR - 2}" height="{height:.1f}"'
    return f'<rect {place} fill="{colour}"><title>{ratio:.2f}</title></rect>'


def legend(names: Sequence[str]) -> list[str]:
    drawn = []
    for place, name in enumerate(names):
        x = LEFT + place * 140
        drawn.append(f'<rect x="{x}" y="32" width="10" height="10" fill="{COLOURS[name]}"/>')
        drawn.append(text(x + 15, 41, CONTENDERS[name].title))
    return drawn


def draw(results: Results) -> str:
    """Return the chart of one number of tasks, 100 if it was measured: a panel for each database."""
    ours = [cell for cell in results.cells if cell.contender == "ours"]
    measured = {cell.tasks for cell in ours if cell.operation in OPERATIONS}
    tasks = 100 if 100 in measured else max(measured, default=0)
    names = [name for name in COLOURS if any(cell.contender == name for cell in results.cells)]
    databases = dict.fromkeys(cell.database for cell in ours)
    panels = [(name, found) for name in databases if (found := bars(results, name, tasks, names))]
    drawn = [text(LEFT, 20, f"Rate with {tasks} tasks; 1.0 is plain Peewee on one thread", 'class="title"')]
    drawn += legend(names)
    column = LEFT + 20 + len(OPERATIONS) * (len(names) * BAR + GAP)
    for place, (name, found) in enumerate(panels):
        x, y = place % 2 * column, TOP + place // 2 * PANEL_HEIGHT
        lines = "\n".join(panel(TITLES[name], found, names))
        drawn.append(f'<g transform="translate({x} {y})">\n{lines}\n</g>')
    width, height = max(2 * column, 780), TOP + (len(panels) + 1) // 2 * PANEL_HEIGHT
    body = "\n".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}">\n<style>{STYLE}</style>\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )
