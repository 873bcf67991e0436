# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From files, the hub or Python's own documentation to blocks of tokens of equal length."""

import hashlib
import os
import pydoc_data.topics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase

from geo_accel.sites.credentials import read_key_file
from geo_accel.sites.invitation import KEYS_VARIABLE
from geo_accel.topology import SITE_VARIABLE, machine_label
from recipes.arguments import DataTrainingArguments

FORMATS = {"txt": "text", "csv": "csv", "json": "json", "jsonl": "json", "parquet": "parquet"}

LONGEST_DEFAULT_BLOCK = 1024

_SHORTEST_TELLING_PARAGRAPH = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Texts to train and to evaluate on."""

    train: Sequence[str] | Dataset
    """A list of documents, or a data set whose only column is `text`."""
    validation: Sequence[str] | Dataset | None
    """The same for evaluation; None if there is no such text."""


def load_default_corpus(validation_split_percentage: float = 5) -> Corpus:
    """The documentation topics inside Python (`pydoc_data.topics`) as two lists of documents, one per topic.

    Deterministic for one version of Python. Topics quote each other at length, so a paragraph counts only where it
    comes first in the order of names; whole topics are then held out, spread over the alphabet, up to the share asked
    for. No held-out paragraph is thus seen in training.
    """
    train, validation, seen = [], [], set()
    all_characters = held_characters = 0
    for name in sorted(pydoc_data.topics.topics):
        document = _unseen_paragraphs(pydoc_data.topics.topics[name], seen)
        if not document:
            continue
        all_characters += len(document)
        if held_characters + len(document) <= all_characters * validation_split_percentage / 100:
            held_characters += len(document)
            validation.append(document)
        else:
            train.append(document)
    return Corpus(train=train, validation=validation)


def _unseen_paragraphs(text: str, seen: set[str]) -> str:
    kept = []
    for paragraph in text.split("\n\n"):
        words = " ".join(paragraph.split())
        if words in seen:
            continue
        if len(words) >= _SHORTEST_TELLING_PARAGRAPH:
            seen.add(words)
        kept.append(paragraph)
    return "\n\n".join(kept).strip("\n")


def load_corpus(
    arguments: DataTrainingArguments, *, private: bool = False, cache_dir: str | None = None, token: str | None = None
) -> Corpus:
    """The texts that the arguments name, validation text held out of the training text where none is given.

    With `private` nothing is held out: a site's text must not become what all sites are judged by.

    Raises ValueError for files that are missing, empty, of an unknown kind or without a text column, and for data sets
    that cannot be had.
    """
    share = arguments.validation_split_percentage
    if arguments.dataset_name:
        splits = _load(arguments.dataset_name, arguments.dataset_config_name, cache_dir=cache_dir, token=token or None)
    elif arguments.train_file or arguments.validation_file:
        splits = _load_files(arguments, cache_dir)
    elif private:
        raise ValueError("--private_data needs --train_file: the built-in text is the same everywhere.")
    else:
        default = load_default_corpus(share)
        return Corpus(train=default.train, validation=default.validation)
    train = splits.get("train")
    validation = splits.get("validation")
    if train is None and validation is None:
        raise ValueError(f"{arguments.dataset_name}: no split called train or validation, only {', '.join(splits)}.")
    if validation is None and train is not None and not private:
        if len(train) < 2:
            source = arguments.train_file or arguments.dataset_name
            raise ValueError(
                f"{source}: too small to hold out evaluation text ({len(train)} rows): pass --validation_file."
            )
        train, validation = _hold_out(train, share)
    return Corpus(train=[] if train is None else train, validation=validation)


def site_file(path: str) -> str:
    """`path` with `{site}` replaced by this process's site: GEO_ACCEL_SITE, else whose key file GEO_ACCEL_KEYS is,
    else the machine's number.

    Raises ValueError for a key file that cannot be read.
    """
    if "{site}" not in path:
        return path
    name, keys = os.environ.get(SITE_VARIABLE), os.environ.get(KEYS_VARIABLE)
    if not name:
        name = read_key_file(keys).about.site if keys else machine_label()
    return path.replace("{site}", name)


def _load_files(arguments: DataTrainingArguments, cache_dir: str | None) -> dict[str, Dataset]:
    given = {"train": arguments.train_file, "validation": arguments.validation_file}
    splits = {}
    for split, name in given.items():
        if name is None:
            continue
        path = Path(site_file(name))
        kind = FORMATS.get(path.suffix.lower().removeprefix("."))
        if kind is None:
            known = ", ".join(f".{suffix}" for suffix in FORMATS)
            raise ValueError(
                f"--{split}_file {path}: unknown kind of file {path.suffix!r}; the known ones are {known}."
            )
        if not path.is_file():
            raise ValueError(f"--{split}_file {path}: no such file.")
        if path.stat().st_size == 0:
            raise ValueError(f"--{split}_file {path}: the file is empty.")
        options = {"keep_linebreaks": arguments.keep_linebreaks} if kind == "text" else {}
        splits |= _load(kind, data_files={split: str(path)}, cache_dir=cache_dir, **options)
    return splits


def _load(name: str, *arguments: str | None, **options: object) -> dict[str, Dataset]:
    source = next(iter(options["data_files"].values())) if "data_files" in options else name
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong is said once, below
    try:
        splits: DatasetDict = load_dataset(name, *arguments, **options)
    except (OSError, ValueError, DatasetGenerationError) as error:
        reason = error.__cause__ or error
        raise ValueError(f"{source}: cannot be read: {' '.join(str(reason).split())}") from error
    finally:
        datasets.logging.set_verbosity(verbosity)
    return {split: _text_only(rows, source) for split, rows in splits.items()}


def _text_only(rows: Dataset, source: str) -> Dataset:
    column = "text" if "text" in rows.column_names else next(iter(rows.column_names), None)
    kind = getattr(rows.features.get(column), "dtype", None)
    if kind not in ("string", "large_string"):
        found = ", ".join(rows.column_names) or "none"
        raise ValueError(f"{source}: no text column; columns found: {found}. Name the column with the text 'text'.")
    rows = rows.select_columns([column])
    return rows if column == "text" else rows.rename_column(column, "text")


def _hold_out(rows: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """The first rows, at least one of them, become validation text, as in run_clm."""
    held = min(max(1, round(len(rows) * share / 100)), len(rows) - 1)
    return rows.select(range(held, len(rows))), rows.select(range(held))


def choose_block_size(asked: int | None, context: int | None) -> int:
    """Tokens per block: what was asked for, else the model's context up to 1024.

    Raises ValueError if the model cannot see that many tokens (`context`, None for unlimited).
    """
    if asked is None:
        return min(context or LONGEST_DEFAULT_BLOCK, LONGEST_DEFAULT_BLOCK)
    if context is not None and asked > context:
        raise ValueError(
            f"--block_size {asked} is longer than the model's context of {context} tokens: use at most that."
        )
    return asked


def build_blocks(
    texts: Sequence[str] | Dataset,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    *,
    what: str = "training",
    num_proc: int | None = None,
    overwrite_cache: bool = False,
) -> Dataset:
    """Tokenize texts, join them and cut them into blocks: a data set of `input_ids` and equal `labels`.

    As in run_clm, 1000 texts are joined at a time and what is left after their last full block is dropped. Lists stay
    in memory; data sets that lie on disk are cached there under a name made from text, tokenizer and block size (a
    temporary file is renamed at the end, so ranks that share a file system may do this at the same time).

    Raises ValueError, calling the text `what`, if it does not fill a single block.
    """
    rows = texts if isinstance(texts, Dataset) else Dataset.from_dict({"text": list(texts)})
    name = hashlib.sha256(f"{rows._fingerprint} {tokenizer_digest(tokenizer)} {block_size}".encode()).hexdigest()[:32]

    def to_blocks(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        tokens = list(chain.from_iterable(tokenizer(batch["text"], verbose=False)["input_ids"]))
        blocks = [tokens[i : i + block_size] for i in range(0, len(tokens) - block_size + 1, block_size)]
        return {"input_ids": blocks, "labels": blocks}

    blocks = rows.map(
        to_blocks,
        batched=True,
        remove_columns=rows.column_names,
        num_proc=num_proc,
        load_from_cache_file=not overwrite_cache,
        new_fingerprint=name,
        desc=f"Tokenizing the {what} text",
    )
    if len(blocks) == 0:
        characters = sum(len(text) for text in rows["text"])
        raise ValueError(
            f"the {what} text ({characters} characters) does not fill one block of {block_size} tokens: give more "
            "text or a smaller --block_size."
        )
    return blocks


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash over all that decides which tokens a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    description = backend.to_str() if backend is not None else str(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(description.encode()).hexdigest()


def blocks_digest(blocks: Dataset) -> str:
    """A hash over the number of blocks and up to 256 of them, evenly spaced: enough to tell two data sets apart."""
    spaced = range(0, len(blocks), max(1, len(blocks) // 256))
    sample = blocks.select(spaced)["input_ids"]
    return hashlib.sha256(str((len(blocks), list(sample))).encode()).hexdigest()
