# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Logic has one home: no six literal lines stand in two folders.

Files of one folder may look alike, as recipes that users copy one by one do, and tests of one thing.
"""

import ast
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("geo_accel", "benchmarks", "recipes", "tests")
RUN = 6
"""So many lines are more than what happens to look alike."""


def code_lines(path: Path) -> list[tuple[int, str]]:
    """Number and text, without indentation, of the lines that say something.

    Imports do not: what is in one home is imported in many places. Nor do comments, the licence among them, blank
    lines, and lines of brackets.
    """
    text = path.read_text("utf-8")
    imports: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(range(node.lineno, node.end_lineno + 1))
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return [
        (number, line)
        for number, line in stripped
        if number not in imports and not line.startswith("#") and any(sign.isalnum() for sign in line)
    ]


def repeated(root: Path) -> list[str]:
    """The runs of lines below `root` that stand in two folders, each named once for every pair of places."""
    lines = {path: code_lines(path) for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))}
    starts: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path, numbered in lines.items():
        texts = [text for _, text in numbered]
        for i in range(len(texts) - RUN + 1):
            starts[tuple(texts[i : i + RUN])].append((path, i))
    found = []
    for places in starts.values():
        for (one, i), (other, j) in combinations(places, 2):
            earlier = i > 0 and j > 0 and lines[one][i - 1][1] == lines[other][j - 1][1]
            if one.parent != other.parent and not earlier:  # what begins earlier is named from its beginning
                length = _shared(lines[one][i:], lines[other][j:])
                here = _place(root, one, lines[one][i : i + length])
                found.append(f"{here} stands again in {_place(root, other, lines[other][j : j + length])}")
    return found


def _shared(one: list[tuple[int, str]], other: list[tuple[int, str]]) -> int:
    pairs = zip(one, other, strict=False)
    return next((n for n, ((_, a), (_, b)) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _place(root: Path, path: Path, run: list[tuple[int, str]]) -> str:
    return f"{path.relative_to(root)}:{run[0][0]}-{run[-1][0]}"


def test_no_six_lines_stand_in_two_folders():
    assert repeated(ROOT) == []


# ---- the check sees what it is meant to see

SIX = [
    "def total(values):",
    "    sum = 0",
    "    for value in values:",
    "        sum += value",
    "    print(sum)",
    "    return sum",
]
INSIDE = ["class Sums:", "    @staticmethod", *(f"    {line}" for line in SIX)]


def write(root: Path, files: dict[str, list[str]]) -> Path:
    for name, lines in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("\n".join([*lines, ""]))
    return root


@pytest.mark.parametrize(
    "one, other, places",
    [
        (SIX, SIX, ("1-6", "1-6")),
        (SIX, INSIDE, ("1-6", "3-8")),
        ([*SIX, "two = 2"], ["one = 1", *SIX, "two = 2"], ("1-7", "2-8")),
        (SIX, [*SIX[:4], "", "    # all of them", *SIX[4:]], ("1-6", "1-8")),
        (SIX, ["import a", *SIX[:2], "    import b", *SIX[2:]], ("1-6", "2-8")),
    ],
    ids=["as they are", "further in", "longer", "with a comment", "with imports"],
)
def test_six_lines_in_two_folders_are_named_with_both_places(tmp_path, one, other, places):
    root = write(tmp_path, {"geo_accel/sync/a.py": one, "tests/b.py": other})
    assert repeated(root) == [f"geo_accel/sync/a.py:{places[0]} stands again in tests/b.py:{places[1]}"]


def test_each_pair_of_places_is_named_but_not_those_in_one_folder(tmp_path):
    root = write(tmp_path, dict.fromkeys(("recipes/a.py", "recipes/b.py", "benchmarks/kit/a.py"), SIX))
    assert repeated(root) == [f"benchmarks/kit/a.py:1-6 stands again in recipes/{name}.py:1-6" for name in ("a", "b")]


@pytest.mark.parametrize(
    "lines",
    [
        SIX[:5],
        ["# Copyright"] * 6,
        ["from a import (", *(f"    {name}," for name in "bcdef"), ")", "import g", "import h"],
        ["x = [", *["    [", "    ],"] * 4, "]"],
    ],
    ids=["five lines", "comments", "imports", "brackets"],
)
def test_what_says_less_is_not_counted(tmp_path, lines):
    assert repeated(write(tmp_path, {"geo_accel/a.py": lines, "recipes/a.py": lines})) == []


def test_one_line_that_differs_ends_a_run(tmp_path):
    other = [line.replace("+=", "-=") for line in SIX]
    assert repeated(write(tmp_path, {"geo_accel/a.py": SIX, "recipes/a.py": other})) == []
