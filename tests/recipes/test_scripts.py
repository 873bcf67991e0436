# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Both recipes as a user starts them: whole runs, in processes of their own, whose results load and generate."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.data import build_blocks
from recipes.model import fresh_model
from recipes.tokenizer import train_byte_level_bpe
from tests.workers.launch import run_workers

ROOT = Path(__file__).parents[2]
TRAINER, NO_TRAINER = "finetune_clm", "finetune_clm_no_trainer"
TINY = (
    "--model_type gpt2 --config_overrides n_layer=2,n_embd=32,n_head=2 --vocab_size 300 --block_size 32 "
    "--max_train_samples 96 --max_eval_samples 21 --learning_rate 1e-3 --output_dir out"
)
STEPS = {
    TRAINER: "--do_train --do_eval --use_cpu --disable_tqdm true --max_steps",
    NO_TRAINER: "--max_train_steps",
}
LAST_CHECKPOINT = {TRAINER: "--save_steps 4", NO_TRAINER: "--checkpointing_steps 4"}
FIXED_PLAN = '{"sync": {"period": 2, "delay": 1, "schedule": "equal"}, "compression": {"codec": "fp32"}}'


def start(script, arguments, folder):
    """Run a script as a file, from another directory; its exit code and errors."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / "recipes" / f"{script}.py"), *arguments.split()]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return ended.returncode, ended.stderr


def start_sites(script, arguments, folder, monkeypatch, sites=(1, 1), per_rank=None, jobs=False, **environ):
    """Run a script on two sites; exit codes and outputs by rank."""
    monkeypatch.chdir(folder)
    ended = run_workers(
        [f"recipes.{script}", *arguments.split()],
        sites=sites,
        per_rank=per_rank,
        timeout_s=150,
        environ=environ,
        jobs=jobs,
    )
    return [process.returncode for process in ended], [process.output for process in ended]


def save_base(folder):
    """A model with its tokenizer, for runs that start from one."""
    tokenizer = train_byte_level_bpe(["some text to learn from"], vocab_size=270)
    fresh_model("gpt2", "n_layer=2,n_embd=32,n_head=2", tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def generated(folder):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("The class", return_tensors="pt")
    tokens = model.generate(**prompt, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert tokens.shape[1] == prompt["input_ids"].shape[1] + 5
    return tokenizer.decode(tokens[0])


def loss_over_predicted_tokens(folder, text, block_size, batch):
    """Of a saved model over the blocks of a file, which do not fill the last of all ranks' batches."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokens = torch.tensor(build_blocks(text.read_text().splitlines(), tokenizer, block_size)["input_ids"][:])
    assert len(tokens) % batch not in (0, batch // 2)
    with torch.no_grad():
        logits = model(input_ids=tokens).logits[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()


@pytest.mark.parametrize("script", [TRAINER, NO_TRAINER])
def test_one_process_trains_evaluates_and_saves(tmp_path, script):
    code, errors = start(script, f"{TINY} {STEPS[script]} 6", tmp_path)
    assert code == 0, errors
    assert "geo_accel is off" in errors
    assert generated(tmp_path / "out").startswith("The class")
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert 3 < results["eval_loss"] < 6 and results["perplexity"] == pytest.approx(
        2.71828 ** results["eval_loss"], 1e-3
    )
    assert "eval_accuracy" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_both_recipes_are_the_same_training(tmp_path, monkeypatch):
    """Without dropout and shuffling differences there is one step to compare: the first, and its evaluation."""
    losses = []
    for script in (TRAINER, NO_TRAINER):
        arguments = TINY.replace("n_head=2", "n_head=2,resid_pdrop=0,embd_pdrop=0,attn_pdrop=0")
        arguments = arguments.replace("--max_train_samples 96", "--max_train_samples 8")
        codes, outputs = start_sites(script, f"{arguments} {STEPS[script]} 1", tmp_path, monkeypatch, sites=(1,))
        assert codes == [0], outputs
        results = json.loads((tmp_path / "out" / "all_results.json").read_text())
        losses.append((results["train_loss"], results["eval_loss"], results["eval_accuracy"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("script", [TRAINER, NO_TRAINER])
def test_two_sites_train_on_private_text_with_lora(tmp_path, monkeypatch, script):
    save_base(tmp_path / "base")
    words = ["alpha beta gamma ", "one two three "]
    for site, text in enumerate(words):
        (tmp_path / f"train-{site}.txt").write_text((text * 20 + "\n") * (20 + 20 * site))
    (tmp_path / "validation.txt").write_text("".join(words) * 60)
    arguments = (
        "--model_name_or_path base --private_data --train_file train-{site}.txt --validation_file validation.txt "
        f"--lora_r 2 --block_size 32 --output_dir out {STEPS[script]} 6"
    )
    codes, outputs = start_sites(script, arguments, tmp_path, monkeypatch)
    assert codes == [0, 0], outputs
    assert generated(tmp_path / "out") and (tmp_path / "out" / "adapter" / "adapter_config.json").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| sites | site0, site1 |" in card and "| steps | 6 |" in card
    # No block counts twice, though the last batches of the ranks are evened out.
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    loss = loss_over_predicted_tokens(tmp_path / "out", tmp_path / "validation.txt", 32, batch=16)
    assert results["eval_loss"] == pytest.approx(loss, rel=1e-5)
    assert results["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("script", [TRAINER, NO_TRAINER])
def test_a_resumed_run_ends_bit_for_bit_like_one_that_went_on(tmp_path, monkeypatch, script):
    (tmp_path / "geo.json").write_text(FIXED_PLAN)
    # 96 blocks over 2 ranks in batches of 8 are epochs of 6 steps: the run goes over an epoch's end.
    arguments = f"{TINY} --geo_config geo.json {STEPS[script]} 8 {LAST_CHECKPOINT[script]}"
    codes, outputs = start_sites(script, arguments, tmp_path, monkeypatch)
    assert codes == [0, 0], outputs
    (tmp_path / "out").rename(tmp_path / "whole")
    checkpoint = "whole/checkpoint-4" if script == TRAINER else "whole/step_4"
    codes, outputs = start_sites(script, f"{arguments} --resume_from_checkpoint {checkpoint}", tmp_path, monkeypatch)
    assert codes == [0, 0], outputs
    whole, resumed = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "out"))
    assert whole == resumed


@pytest.mark.slow
@pytest.mark.parametrize("script", [TRAINER, NO_TRAINER])
def test_a_job_per_site_trains_and_resumes_each_from_its_own_folder(tmp_path, monkeypatch, script):
    """The same command as for one job; two processes at one site."""
    (tmp_path / "geo.json").write_text(FIXED_PLAN)
    arguments = f"{TINY}-{{site}} --geo_config geo.json {STEPS[script]} 6 {LAST_CHECKPOINT[script]}"
    codes, outputs = start_sites(script, arguments, tmp_path, monkeypatch, sites=(2, 1), jobs=True)
    assert codes == [0, 0, 0], outputs
    own = [tmp_path / f"out-site{site}" for site in range(2)]
    whole = [(folder / "model.safetensors").read_bytes() for folder in own]
    assert whole[0] == whole[1]
    # Each site has judged the same model by the whole text.
    losses = [json.loads((folder / "all_results.json").read_text())["eval_loss"] for folder in own]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert all("| sites | site0, site1 |" in (folder / "README.md").read_text() for folder in own)
    resumed = arguments.replace("out-", "resumed-") + " --resume_from_checkpoint out-{site}/"
    resumed += "checkpoint-4" if script == TRAINER else "step_4"
    codes, outputs = start_sites(script, resumed, tmp_path, monkeypatch, sites=(2, 1), jobs=True)
    assert codes == [0, 0, 0], outputs
    assert [(tmp_path / f"resumed-site{site}" / "model.safetensors").read_bytes() for site in range(2)] == whole


@pytest.mark.slow
def test_jobs_with_private_text_take_the_steps_of_the_smallest(tmp_path, monkeypatch):
    save_base(tmp_path / "base")
    for site in range(2):
        (tmp_path / f"train-site{site}.txt").write_text(f"site {site} has this line\n" * (200 + 200 * site))
    arguments = (
        "--model_name_or_path base --private_data --train_file train-{site}.txt --block_size 32 --num_train_epochs 1 "
        "--output_dir out-{site}"
    )
    codes, outputs = start_sites(NO_TRAINER, arguments, tmp_path, monkeypatch, jobs=True)
    assert codes == [0, 0], outputs
    steps = [re.findall(r"\| steps \| (\d+) \|", (tmp_path / f"out-site{i}/README.md").read_text()) for i in (0, 1)]
    assert steps[0] == steps[1] != []
    whole = [(tmp_path / f"out-site{site}" / "model.safetensors").read_bytes() for site in range(2)]
    assert whole[0] == whole[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of_one", "complaint"),
    [
        ("--output_dir out", "error: site0 and site1 share the folder out"),
        ("--max_train_steps 5", "error: the number of steps of site1 (rank 1) differs from that of site0 (rank 0)"),
        ("--block_size 16", "error: the block size of site1 (rank 1) differs from that of site0 (rank 0)"),
    ],
)
def test_jobs_that_do_not_go_together_stop_before_the_first_step(tmp_path, monkeypatch, of_one, complaint):
    arguments = f"{TINY}-{{site}} --max_train_steps 4"
    both = {0: ["--output_dir", "out"], 1: of_one.split()} if "out" in of_one else {1: of_one.split()}
    codes, outputs = start_sites(NO_TRAINER, arguments, tmp_path, monkeypatch, per_rank=both, jobs=True)
    assert codes == [2, 2], outputs
    assert all(complaint in output and "Traceback" not in output for output in outputs)


@pytest.mark.slow
@pytest.mark.deepspeed
@pytest.mark.parametrize(("script", "stage"), [(TRAINER, 3), (NO_TRAINER, 1)])
def test_with_deepspeed_a_llama_trains_and_is_saved_whole(tmp_path, monkeypatch, script, stage):
    pytest.importorskip("deepspeed")
    told = json.loads((ROOT / "ds_configs" / f"geo_zero{stage}.json").read_text())
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(told | {"geo_accel": json.loads(FIXED_PLAN)}))
    arguments = TINY.replace("gpt2", "llama").replace(
        "n_layer=2,n_embd=32,n_head=2", "num_hidden_layers=2,hidden_size=32,intermediate_size=48,num_attention_heads=2"
    )
    arguments += f" {STEPS[script].replace('--use_cpu', f'--deepspeed {file}')} 6"
    environ = {"ACCELERATE_USE_CPU": "false", "DS_ACCELERATOR": "cpu", "LOCAL_SIZE": "1"}
    if script == NO_TRAINER:  # as accelerate launch says it
        environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
    codes, outputs = start_sites(script, arguments, tmp_path, monkeypatch, **environ)
    assert codes == [0, 0], outputs
    assert generated(tmp_path / "out")
    assert "| sites | site0, site1 |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="what is shown is a start without one")
def test_started_by_torchrun_on_cpus_the_ranks_of_a_site_reduce_gradients(tmp_path, monkeypatch):
    arguments = f"{TINY} {STEPS[NO_TRAINER]} 4"
    codes, outputs = start_sites(
        NO_TRAINER, arguments, tmp_path, monkeypatch, sites=(2, 1), ACCELERATE_USE_CPU="false"
    )
    assert codes == [0, 0, 0], outputs
    assert "| sites | site0, site1 |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="what is shown is a start without one")
def test_a_trainer_that_knows_of_no_other_process_is_refused(tmp_path, monkeypatch):
    arguments = f"{TINY} {STEPS[TRAINER].replace('--use_cpu', '')} 4"
    codes, outputs = start_sites(TRAINER, arguments, tmp_path, monkeypatch, ACCELERATE_USE_CPU="false")
    assert codes == [2, 2], outputs
    assert all("TrainingArguments knows of 1 process(es), but 2 were launched" in output for output in outputs)


@pytest.mark.slow
def test_sites_that_were_given_different_text_stop_before_the_first_step(tmp_path, monkeypatch):
    for site in range(2):
        (tmp_path / f"train-{site}.txt").write_text(f"site {site} has this line\n" * 200)
    save_base(tmp_path / "base")
    arguments = "--model_name_or_path base --train_file train-{site}.txt --block_size 32 --max_train_steps 4"
    codes, outputs = start_sites(NO_TRAINER, arguments, tmp_path, monkeypatch)
    assert codes == [2, 2]
    for output in outputs:
        assert "error: the training data of rank 1 differs from that of rank 0" in output
        assert "Traceback" not in output


@pytest.mark.parametrize(
    ("script", "arguments", "complaint"),
    [
        (TRAINER, "--model_type gpt2 --do_train --use_cpu --train_file none.txt", "none.txt: no such file"),
        (NO_TRAINER, "--model_type gpt2 --block_size 2000", "longer than the model's context of 1024 tokens"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(tmp_path, monkeypatch, script, arguments, complaint):
    codes, (said,) = start_sites(script, arguments, tmp_path, monkeypatch, sites=(1,))
    assert codes == [2]
    assert said.startswith("error: ") and said.count("\n") == 1 and complaint in said
