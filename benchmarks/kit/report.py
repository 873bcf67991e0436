# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a study says: tables for the terminal and in Markdown, a file of figures, pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.kit.environment import provenance
from benchmarks.kit.store import write_json


@dataclass(slots=True, kw_only=True)
class Table:
    """One table. A column that is empty in every row is left out: a quick study shows only what it can show."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[str] = field(default_factory=lambda: ("method", "case", "codec", "target"))
    """Headings of columns that are aligned to the left."""

    def __post_init__(self) -> None:
        told = [any(row[column] for row in self.rows) for column in range(len(self.headings))]
        kept = [column for column, any_row in enumerate(told) if any_row] or range(len(self.headings))
        self.headings = [self.headings[column] for column in kept]
        self.rows = [[row[column] for column in kept] for row in self.rows]

    def rich(self) -> RichTable:
        """For the terminal."""
        table = RichTable(title=self.title, title_justify="left")
        for heading in self.headings:
            table.add_column(heading, justify="left" if heading in self.words else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For docs/."""
        return as_markdown(self.headings, self.rows)


def as_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(value: float | None, form: str) -> str:
    """A figure as text; what is not known stays empty."""
    return "" if value is None else format(value, form)


def report(folder: Path, command: str, figures: object, tables: Sequence[Table], console: Console) -> list[Path]:
    """Prints `tables` and writes them with their `figures` into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        console.print(table.rich())
    write_json(folder / "results.json", {"provenance": provenance(command), "figures": figures}, indent=1)
    (folder / "table.md").write_text("\n".join(f"**{table.title}**\n\n{table.markdown()}" for table in tables))
    return [folder / "results.json", folder / "table.md"]
