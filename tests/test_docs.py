# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Pages say what is: links, anchors, pictures, files and commands exist, and nothing is told as history."""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from geo_accel.commands.main import build_parser

ROOT = Path(__file__).parents[1]
USER_DOCS = sorted(ROOT.glob("docs/*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *USER_DOCS,
    ROOT / "recipes/README.md",
    ROOT / "ds_configs/README.md",
]
RESULTS = sorted(ROOT.glob("benchmarks/results/*.md"))
ALL = [*PAGES, ROOT / "CHANGELOG.md", *RESULTS, *sorted(ROOT.glob("findings/*.md"))]

MOST_README_LINES, MOST_DOC_LINES, LONGEST_LINE = 100, 750, 160
HISTORY = re.compile(
    r"the (evening|morning|day|week) before|yesterday|standstill|stood still|the wish was|\bwanted:"
    r"|as of now|not (been )?run again|DESIGN \d",
    re.IGNORECASE,
)
"""Words of diaries, which belong into `benchmarks/results` or the changelog."""
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"(?<![\w/.-])(?:recipes|ds_configs|tests|geo_accel|benchmarks|docs|findings)/[\w./*-]*\w\.\w+")
FOLDERS_OF_SOURCE = ("geo_accel", "benchmarks", "recipes", "tests")


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def each_page(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", paths, ids=ids(paths))


def prose(text: str) -> str:
    """Without fenced and indented code, and without code in a line."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


@cache
def anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    found: dict[str, int] = {}
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#{1,6} (.+)$", text, flags=re.MULTILINE):
        plain = LINK.sub(lambda link: link.group()[1:].split("]")[0], heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {slug if number == 0 else f"{slug}-{number}" for slug, last in found.items() for number in range(last + 1)}


def broken(page: Path, target: str) -> str | None:
    """What is wrong with a relative link of a page; None if nothing is."""
    place, _, anchor = target.partition("#")
    path = (page.parent / unquote(place)).resolve() if place else page
    if not path.is_relative_to(ROOT) or not path.exists():
        return f"{target}: there is no such file"
    if anchor and anchor not in anchors(path):
        return f"{target}: no such heading; there are {', '.join(sorted(anchors(path)))}"
    return None


def commands(page: Path) -> Iterator[list[str]]:
    """The `geo-accel` commands in a page's code, as lists of words."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^    .*\n)+", text, flags=re.MULTILINE)
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    for line in lines:
        at = re.search(r"(?:^|(?<=\s))geo-accel (?=[a-z])", line)
        if at:
            yield shlex.split(line[at.end() :], comments=True)


@each_page(ALL)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(prose(page.read_text("utf-8"))) if "://" not in target]
    assert [problem for target in targets if (problem := broken(page, target))] == []


def test_the_test_of_links_finds_what_is_wrong() -> None:
    page = ROOT / "README.md"
    assert broken(page, "docs/how-it-works.md#the-algorithm") is None
    assert "no such file" in broken(page, "docs/nothing.md")
    assert "no such file" in broken(page, "../outside.md")
    assert "no such heading" in broken(page, "docs/how-it-works.md#nothing")


@each_page(PAGES)
def test_files_and_commands_on_a_page_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    names = [name for name in FILE.findall(text) if not re.search("[A-Z]-[A-Z]|NAME", name)]  # STUDY-MACHINE-DATE.md
    assert [name for name in names if not any(ROOT.glob(name))] == []
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = re.findall(r"`(?:[A-Z_]+=\S+ )?make ([a-z-]+)`", text) + re.findall(
        r"^(?: {4})?make ([a-z-]+)", text, re.M
    )
    assert [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
    for words in commands(page):
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
            build_parser().parse_args(words)
        assert not said.getvalue(), words


def test_pages_show_commands() -> None:
    assert sum(len(list(commands(page))) for page in PAGES) > 15


def test_source_names_pages_that_exist() -> None:
    mentions = re.compile(r"\b(?:docs|benchmarks/results)/[\w./-]+\.(?:md|png)\b")
    sources = [
        path for folder in FOLDERS_OF_SOURCE for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)
    ]
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources
        for name in mentions.findall(path.read_text("utf-8"))
        if not (ROOT / name).exists()
    }
    assert not missing


def test_messages_that_are_explained_are_said() -> None:
    """But for what the interpreter says at its end."""
    source = "".join(
        path.read_text("utf-8") for folder in ("geo_accel", "recipes") for path in (ROOT / folder).rglob("*.py")
    )
    said = re.sub(r'"\s*\n\s*f?"', "", source)
    table = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/when-it-fails.md").read_text("utf-8"), flags=re.MULTILINE)
    fragments = [part for message in table for part in message.split(" of ... ")]
    assert len(fragments) > 8
    assert [fragment for fragment in fragments if fragment not in said] == []


@each_page(PAGES)
def test_pages_say_what_is(page: Path) -> None:
    assert [found.group() for found in HISTORY.finditer(page.read_text("utf-8"))] == []


@each_page([*PAGES, ROOT / "CHANGELOG.md"])
def test_lines_are_no_longer_than_people_read(page: Path) -> None:
    lines = page.read_text("utf-8").splitlines()
    assert [f"{number}: {len(line)}" for number, line in enumerate(lines, 1) if len(line) > LONGEST_LINE] == []


def test_pages_are_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= MOST_README_LINES
    assert sum(len(page.read_text("utf-8").splitlines()) for page in USER_DOCS) <= MOST_DOC_LINES


@each_page([page for page in RESULTS if page.name != "README.md"])
def test_results_say_study_machine_date_and_commit(page: Path) -> None:
    text = page.read_text("utf-8")
    day = re.fullmatch(r"[a-z0-9]+-[a-z0-9]+-(\d{4}-\d\d-\d\d)\.md", page.name)
    assert day and day.group(1) in text
    assert re.search(r"\bcommit\b|\brecorded at [0-9a-f]{7}\b", text)
    assert page.name in (ROOT / "benchmarks/results/README.md").read_text("utf-8")
