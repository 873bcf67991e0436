# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Text that every machine with this package has, of four kinds unlike each other."""

import hashlib
import sysconfig
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import torch

KINDS = ("documentation", "source", "headers", "packages")
"""Python's documentation, its standard library, torch's C++ headers, what installed packages say of themselves."""

PRETRAINED_ON = ("source", "headers", "packages")
"""Kinds of which half the documents are kept for pretraining."""

# Of each part of a kind, in characters.
_MOST = 1_500_000
_HELD_OUT = 0.08
_SHORTEST_TELLING_PARAGRAPH = 40
_NOT_SOURCE = {"test", "tests", "idle_test", "site-packages", "pydoc_data", "__pycache__"}


def load(kind: str) -> dict[str, list[str]]:
    """The documents of one kind, as `divide` has them: the same ones for one version of Python and of the installed
    packages."""
    if kind == "documentation":
        from recipes.data import load_default_corpus

        corpus = load_default_corpus(100 * _HELD_OUT)
        return {"train": list(corpus.train), "held_out": list(corpus.validation)}
    documents = _packages() if kind == "packages" else _files(kind)
    return divide(without_repeats(documents), halves=kind in PRETRAINED_ON)


def divide(documents: Iterable[str], *, halves: bool) -> dict[str, list[str]]:
    """Whole documents "held_out", the others to "train", and with `halves` as many "earlier", for pretraining.

    Stops when every part is full.
    """
    parts, sizes, total = {"train": [], "held_out": [], "earlier": []}, {"train": 0, "held_out": 0, "earlier": 0}, 0
    for document in documents:
        total += len(document)
        if sizes["held_out"] + len(document) <= _HELD_OUT * total:
            part = "held_out"
        else:
            part = "earlier" if halves and sizes["earlier"] <= sizes["train"] else "train"
        parts[part].append(document)
        sizes[part] += len(document)
        if sizes["train"] >= _MOST and (sizes["earlier"] >= _MOST or not halves):
            break
    return parts


def without_repeats(documents: Iterable[str]) -> Iterable[str]:
    """The documents without paragraphs that came before, such as licences: none held out is seen in training."""
    seen: set[str] = set()
    for document in documents:
        kept = []
        for paragraph in document.split("\n\n"):
            words = " ".join(paragraph.split())
            if len(words) >= _SHORTEST_TELLING_PARAGRAPH:
                if words in seen:
                    continue
                seen.add(words)
            kept.append(paragraph)
        rest = "\n\n".join(kept).strip("\n")
        if rest:
            yield rest


def _files(kind: str) -> Iterable[str]:
    if kind == "source":
        root = Path(sysconfig.get_path("stdlib"))
        paths = [path for path in root.rglob("*.py") if not _NOT_SOURCE & set(path.parts)]
    else:
        root = Path(torch.__file__).parent / "include"
        paths = [path for folder in ("c10", "torch") for path in (root / folder).rglob("*.h")]
    for path in sorted(paths, key=lambda path: _place(str(path.relative_to(root)))):
        yield path.read_text(encoding="utf-8", errors="ignore")


def _packages() -> Iterable[str]:
    found = {one.metadata["Name"]: one for one in metadata.distributions() if one.metadata["Name"]}
    for name in sorted(found, key=_place):
        text = found[name].read_text("METADATA")
        if text and name.replace("_", "-") != "geo-accel":
            yield text


def _place(name: str) -> str:
    """Sorts names as if shuffled, always alike: neighbours in a folder resemble each other."""
    return hashlib.sha256(name.encode()).hexdigest()
