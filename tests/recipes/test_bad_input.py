# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a new user gets wrong, in both recipes; test_scripts.py starts two of these as processes."""

import datasets
import pytest

from recipes import finetune_clm, finetune_clm_no_trainer
from recipes.exits import run_recipe

FRESH = "--model_type gpt2 --config_overrides n_layer=1,n_embd=32,n_head=2 --vocab_size 300"


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("a few\nshort\nlines\n")
    (tmp_path / "typo.json").write_text('{"sync": {"perod": 4}}')
    (tmp_path / "nothing").mkdir()
    yield
    datasets.enable_progress_bars()


COMMON = [
    ("--block_size 32 --model_type gpt3", "no model configuration called gpt3"),
    ("--model_type gpt2 --config_overrides n_layr=2", "did you mean n_layer?"),
    (f"{FRESH} --train_file empty.txt", "the file is empty"),
    (f"{FRESH} --train_file text.docx", "unknown kind of file '.docx'"),
    (f"{FRESH} --train_file short.txt --dataset_name x", "keep one"),
    (f"{FRESH} --train_file short.txt --cache_dir cache", "does not fill one block of 1024 tokens"),
    (f"{FRESH} --validation_file short.txt --cache_dir cache", "no training text"),
    (f"{FRESH} --dataset_name nobody/nothing", "nobody/nothing: cannot be read"),
    (f"{FRESH} --lora_r 4 --lora_target_modules q_proj", "q_proj matches no layer"),
    (f"{FRESH} --block_size 32 --geo_config typo.json", "the nearest is sync.period"),
    (f"{FRESH} --resume_from_checkpoint nothing", "no checkpoint there"),
    ("--model_name_or_path nothing", "no tokenizer at nothing"),
    (f"{FRESH} --private_data", "--private_data"),
]
TRAINER_ONLY = [
    (f"{FRESH} --resume_from_checkpoint true", "no checkpoint in out"),
    (f"{FRESH} --push_to_hub", "--push_to_hub is not supported"),
    (f"{FRESH} --private_data --train_file short.txt --do_eval", "nothing to evaluate on"),
]
NO_TRAINER_ONLY = [
    (f"{FRESH} --checkpointing_steps often --output_dir out", "give a number of steps or 'epoch'"),
    (f"{FRESH} --checkpointing_steps 5", "needs --output_dir"),
    (f"{FRESH} --per_device_train_batch_size 0", "--per_device_train_batch_size is 0"),
    (f"{FRESH} --private_data --train_file short.txt --cache_dir cache", "one tokenizer for all sites"),
]


def complaint_of(recipe, arguments, capfd):
    code = run_recipe(recipe.run, arguments.split())
    lines = capfd.readouterr().err.splitlines()
    assert code == 2, lines
    assert [line.startswith("error: ") for line in lines] == [True], lines
    return lines[0]


@pytest.mark.parametrize(("arguments", "complaint"), COMMON + TRAINER_ONLY)
def test_trainer_recipe(arguments, complaint, capfd):
    assert complaint in complaint_of(finetune_clm, f"{arguments} --do_train --use_cpu --output_dir out", capfd)


@pytest.mark.parametrize(("arguments", "complaint"), COMMON + NO_TRAINER_ONLY)
def test_accelerate_recipe(arguments, complaint, capfd):
    assert complaint in complaint_of(finetune_clm_no_trainer, arguments, capfd)


def test_the_trainer_recipe_wants_something_to_do(capfd):
    assert "nothing to do" in complaint_of(finetune_clm, f"{FRESH} --output_dir out", capfd)
