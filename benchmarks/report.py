"""What a run comes to, in words: tables in Markdown, and the check against the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.cells import DATABASES, Cell
from benchmarks.contenders import CONTENDERS
from benchmarks.results import Results
from benchmarks.targets import Verdict

# What is shown of each cell: the heading, the measure, the format.
MEASURES = (
    (
        "Rate, operations (or streamed rows) per second, and the ratio to plain Peewee on 1 thread",
        "rate",
        "{:,.0f}",
    ),
    ("Latency p50, milliseconds", "p50_ms", "{:.2f}"),
    ("Latency p99, milliseconds", "p99_ms", "{:.2f}"),
    ("Processor time per operation, microseconds", "cpu_us", "{:,.0f}"),
    ("Event-loop lag p99, milliseconds that a timer of 1 ms is late", "lag_p99_ms", "{:.1f}"),
    ("Peak memory, MB", "memory_mb", "{:.0f}"),
)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, its columns as wide as they must be: the first to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]
        for line in [lines[0], rule, *lines[1:]]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def rows_of(cells: Iterable[Cell]) -> list[Cell]:
    """Return one of our own cells for each row: what was measured on one database, in this order."""
    found = {
        Cell(cell.database, cell.operation, cell.tasks, "ours", cell.loop): None
        for cell in cells
        if cell.contender == "ours"
    }
    return list(found)


def show(results: Results, row: Cell, contender: str, measure: str, form: str) -> str:
    cell = row.of(contender)
    value = results.median(cell, measure) if cell.loop in ("", row.loop) else None
    if value is None:
        return "error" if cell in results.errors else ""
    text = form.format(value)
    ratio = results.ratio(cell, row.of("plain")) if measure == "rate" and contender != "plain" else None
    return f"{text} ({ratio.median:.2f})" if ratio else text


def table(results: Results, rows: Sequence[Cell], measure: str, form: str) -> str:
    """Return one measure of some rows, a column for each contender that has any."""
    contenders = [
        name
        for name in CONTENDERS
        if any(
            results.median(row.of(name), measure) is not None or row.of(name) in results.errors
            for row in rows
        )
    ]
    header = ["operation", *(CONTENDERS[name].title for name in contenders)]
    lines = [[label(row), *(show(results, row, name, measure, form) for name in contenders)] for row in rows]
    return markdown(header, lines)


def label(row: Cell) -> str:
    tasks = f"{row.tasks:,} task{'s' * (row.tasks != 1)}"
    return f"{row.operation}, {tasks}" + (f", {row.loop}" if row.loop != "asyncio" else "")


def tables(results: Results) -> str:
    """Return everything: for each database each measure."""
    parts: list[str] = []
    for database in DATABASES:
        rows = [row for row in rows_of(results.cells) if row.database == database]
        if rows:
            parts.append(f"## {database}")
        for heading, measure, form in MEASURES if rows else ():
            has_any = _any_of(results, rows, measure)
            chosen = [row for row in rows if has_any(row)]
            if chosen:
                parts += [f"### {heading}", table(results, chosen, measure, form)]
    return "\n\n".join(parts)


def _any_of(results: Results, rows: Sequence[Cell], measure: str) -> Callable[[Cell], bool]:
    return lambda row: results.median(row, measure) is not None


def verdicts(checked: Iterable[Verdict]) -> str:
    """Return the table of targets: the ratio in the worst cell, and whether all cells keep the limit."""
    lines = []
    for verdict in checked:
        target = verdict.target
        limit = f"{'<=' if target.at_most else '>='} {target.limit:g}"
        if verdict.worst is None:
            lines.append([target.title, limit, "", "", "not measured"])
            continue
        cell, spread = verdict.worst
        word = "yes" if verdict.is_reached else "NO"
        lines.append(
            [
                target.title,
                limit,
                str(spread),
                f"{label(cell)}, {cell.database}",
                f"{word}, {verdict.kept} of {verdict.cells}",
            ]
        )
    return markdown(["measure", "to reach", "worst cell", "which", "reached"], lines)
