# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The command line: names as in run_clm, JSON files, and contradictions found before anything is loaded."""

import json

import pytest

from recipes.arguments import DataTrainingArguments, GeoArguments, ModelArguments, parse_arguments

SHARED = (ModelArguments, DataTrainingArguments, GeoArguments)


def test_arguments_from_the_command_line():
    line = (
        "--model_type gpt2 --config_overrides n_layer=2,n_embd=32 --block-size 64 --no_keep_linebreaks "
        "--lora_r 4 --lora_target_modules c_attn c_proj --private_data --train_file t-{site}.txt"
    )
    model, data, geo = parse_arguments(SHARED, line.split())
    assert (model.model_type, model.config_overrides) == ("gpt2", "n_layer=2,n_embd=32")
    assert model.lora_target_modules == ["c_attn", "c_proj"]
    assert (data.block_size, data.keep_linebreaks, data.train_file) == (64, False, "t-{site}.txt")
    assert geo == GeoArguments(private_data=True)


def test_arguments_from_a_json_file(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"model_type": "llama", "block_size": 32, "no_geo": True}))
    assert parse_arguments(SHARED, [str(path)]) == parse_arguments(
        SHARED, ["--model_type", "llama", "--block_size", "32", "--no_geo"]
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"model_typ": "gpt2"}', "unknown argument 'model_typ': did you mean model_type?"),
        ("{", "not valid JSON"),
        ("[1]", "expected one JSON object"),
        (None, "no such file"),
    ],
)
def test_json_files_that_cannot_work_are_named(tmp_path, content, complaint):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_arguments(SHARED, [str(path)])
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "no model given"),
        ("--model_type gpt2 --blok_size 8", "unknown argument '--blok_size': did you mean --block_size"),
        ("--model_type gpt2 --block 8", "unknown argument '--block'"),
        ("--model_type gpt2 --block_size many", "--block_size"),
        ("--model_type gpt2 --block_size 1", "--block_size is 1: give at least 2"),
        ("--model_type gpt2 --model_name_or_path x", "both name the model"),
        ("--model_type gpt2 --config_name llama", "both describe a fresh model"),
        ("--model_name_or_path x --config_overrides n_layer=2", "only shapes a fresh model"),
        ("--model_name_or_path x --vocab_size 300", "--vocab_size only applies"),
        ("--model_type gpt2 --tokenizer_name x --vocab_size 300", "--vocab_size only applies"),
        ("--model_type gpt2 --lora_r -1", "--lora_r is -1"),
        ("--model_type gpt2 --lora_target_modules c_attn", "no effect without --lora_r"),
        ("--model_type gpt2 --dtype int8", "invalid choice"),
        ("--model_type gpt2 --dataset_name x --train_file y.txt", "both give the data"),
        ("--model_type gpt2 --dataset_config_name x", "needs --dataset_name"),
        ("--model_type gpt2 --validation_split_percentage 100", "between 0 and 100"),
        ("--model_type gpt2 --no_geo --geo_config x.json", "contradict"),
        ("--model_type gpt2 --no_geo --private_data", "needs geo_accel"),
        ("--model_type gpt2 --geo_config missing.json", "missing.json: no such file"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(arguments, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_arguments(SHARED, arguments.split())
    assert "\n" not in str(caught.value)


def test_a_job_per_site_is_no_plain_data_parallel_training(monkeypatch):
    monkeypatch.setenv("GEO_ACCEL_MEET", "a.example.org:29400")
    with pytest.raises(ValueError, match="each site would train alone"):
        parse_arguments(SHARED, ["--model_type", "gpt2", "--no_geo"])
