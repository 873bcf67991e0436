# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One table, for the terminal and for docs/."""

from collections.abc import Sequence

from rich.table import Table


def as_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], words: str) -> Table:
    """For the terminal; the column headed `words` is aligned to the left, figures to the right."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == words else "right")
    for row in rows:
        table.add_row(*row)
    return table


def as_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """For docs/."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
