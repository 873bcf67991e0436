# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Text to blocks: what is held out, what is joined, what is refused."""

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.arguments import DataTrainingArguments
from recipes.data import (
    blocks_digest,
    build_blocks,
    choose_block_size,
    load_corpus,
    load_default_corpus,
    site_file,
)
from recipes.tokenizer import train_byte_level_bpe
from tests.workers.launch import keys


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(["some text to learn from, some more text"], vocab_size=270)


def load(tmp_path, **arguments):
    return load_corpus(DataTrainingArguments(**arguments), cache_dir=str(tmp_path / "cache"))


def test_the_default_corpus_is_the_same_each_time_and_holds_out_whole_topics():
    corpus, again = load_default_corpus(), load_default_corpus()
    assert corpus == again
    characters = [sum(map(len, documents)) for documents in (corpus.train, corpus.validation)]
    assert 0.04 < characters[1] / sum(characters) <= 0.05
    assert characters[0] > 200_000


def test_no_held_out_paragraph_is_trained_on():
    corpus = load_default_corpus()
    trained = {" ".join(part.split()) for document in corpus.train for part in document.split("\n\n")}
    held = {" ".join(part.split()) for document in corpus.validation for part in document.split("\n\n")}
    assert not [paragraph for paragraph in trained & held if len(paragraph) >= 40]


def test_a_larger_share_holds_out_more():
    small, large = load_default_corpus(2), load_default_corpus(20)
    assert sum(map(len, small.validation)) < sum(map(len, large.validation))


@settings(max_examples=30)
@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=30), st.integers(2, 9))
def test_blocks_are_the_joined_tokens_in_order(tokenizer, texts, block_size):
    tokens = [token for text in texts for token in tokenizer(text)["input_ids"]]
    full = len(tokens) // block_size
    if full == 0:
        with pytest.raises(ValueError, match="does not fill one block"):
            build_blocks(texts, tokenizer, block_size)
        return
    blocks = build_blocks(texts, tokenizer, block_size)
    assert [len(block) for block in blocks["input_ids"]] == [block_size] * full
    assert [token for block in blocks["input_ids"] for token in block] == tokens[: full * block_size]
    assert list(blocks["labels"]) == list(blocks["input_ids"])


def test_what_does_not_fill_a_block_says_how_much_there_is(tokenizer):
    with pytest.raises(ValueError, match=r"evaluation text \(2 characters\).*one block of 512 tokens"):
        build_blocks(["hi"], tokenizer, 512, what="evaluation")


def test_blocks_on_disk_follow_the_tokenizer_and_the_block_size(tmp_path, tokenizer):
    path = tmp_path / "text.txt"
    path.write_text("some text\n" * 50)
    rows = load(tmp_path, train_file=str(path)).train
    first = build_blocks(rows, tokenizer, 8)
    assert first.cache_files and first.cache_files == build_blocks(rows, tokenizer, 8).cache_files
    assert len(build_blocks(rows, tokenizer, 4)["input_ids"][0]) == 4
    other = build_blocks(rows, train_byte_level_bpe(["quite different"], 260), 8)
    assert blocks_digest(other) != blocks_digest(first)


def test_digests_tell_data_sets_apart():
    blocks = [[i, i + 1] for i in range(1000)]
    changed = [*blocks[:-1], [5, 5]]
    dataset = Dataset.from_dict({"input_ids": blocks})
    assert blocks_digest(dataset) == blocks_digest(Dataset.from_dict({"input_ids": blocks}))
    assert blocks_digest(dataset) != blocks_digest(dataset.select(range(999)))
    assert blocks_digest(dataset.select(range(1, 1000))) != blocks_digest(
        Dataset.from_dict({"input_ids": changed[:-1]})
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\ntwo\n"),
        ("a.json", '[{"text": "one"}, {"text": "two"}]'),
        ("a.jsonl", '{"id": 3, "text": "one"}\n{"id": 4, "text": "two"}\n'),
        ("a.csv", "title,body\none,x\ntwo,y\n"),
    ],
)
def test_files_of_each_kind_become_text(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    corpus = load(
        tmp_path, train_file=str(tmp_path / name), validation_file=str(tmp_path / name), keep_linebreaks=False
    )
    assert list(corpus.train["text"]) == list(corpus.validation["text"]) == ["one", "two"]


def test_parquet_becomes_text(tmp_path):
    Dataset.from_dict({"n": [1, 2, 3], "text": ["one", "two", "three"]}).to_parquet(tmp_path / "a.parquet")
    corpus = load(tmp_path, train_file=str(tmp_path / "a.parquet"), validation_split_percentage=34)
    assert (list(corpus.validation["text"]), list(corpus.train["text"])) == (["one"], ["two", "three"])


def test_private_text_is_never_held_out(tmp_path):
    (tmp_path / "a.txt").write_text("line\n" * 100)
    arguments = DataTrainingArguments(train_file=str(tmp_path / "a.txt"))
    corpus = load_corpus(arguments, private=True, cache_dir=str(tmp_path / "cache"))
    assert corpus.validation is None and len(corpus.train) == 100


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.doc", "text", "unknown kind of file '.doc'; the known ones are .txt"),
        ("a.txt", "", "the file is empty"),
        ("a.txt", "one line\n", "too small to hold out"),
        ("a.json", "{broken", "cannot be read"),
        ("a.csv", "a,b\n1,2\n", "no text column; columns found: a, b"),
        (None, None, "no such file"),
    ],
)
def test_files_that_cannot_work_are_named(tmp_path, name, content, complaint):
    path = tmp_path / (name or "missing.txt")
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        load(tmp_path, train_file=str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_site_is_filled_into_file_names(monkeypatch):
    for variable in ("RANK", "GROUP_RANK", "NODE_RANK", "LOCAL_WORLD_SIZE", "GEO_ACCEL_SITE", "GEO_ACCEL_KEYS"):
        monkeypatch.delenv(variable, raising=False)
    assert site_file("train-{site}.txt") == "train-0.txt"
    monkeypatch.setenv("GROUP_RANK", "1")
    assert site_file("train-{site}.txt") == "train-1.txt"
    monkeypatch.setenv("GEO_ACCEL_KEYS", str(keys() / "site2.pem"))
    assert site_file("train-{site}.txt") == "train-site2.txt"
    monkeypatch.setenv("GEO_ACCEL_SITE", "berlin")
    assert site_file("train-{site}.txt") == "train-berlin.txt"


def test_block_sizes():
    assert choose_block_size(None, 512) == 512
    assert choose_block_size(None, 4096) == choose_block_size(None, None) == 1024
    assert choose_block_size(2048, 4096) == 2048
    with pytest.raises(ValueError, match="--block_size 2048 is longer than the model's context of 1024"):
        choose_block_size(2048, 1024)
