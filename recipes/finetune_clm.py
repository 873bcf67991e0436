# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Fine-tune a causal language model across sites with Hugging Face's Trainer.

    accelerate launch recipes/finetune_clm.py --model_name_or_path gpt2 --do_train --do_eval --output_dir out

Arguments are those of run_clm.py, or one JSON file with them; README.md beside this file has whole commands.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import datasets
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, patch_environment
from peft import PeftModel
from transformers import Trainer, TrainingArguments, default_data_collator
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file also runs as a plain script

import geo_accel
from recipes.arguments import DataTrainingArguments, GeoArguments, ModelArguments, parse_arguments
from recipes.card import geo_summary, write_card
from recipes.data import site_file
from recipes.evaluation import load_metric, score_blocks, trainer_quality
from recipes.exits import awaiting_ranks, run_recipe, user_errors
from recipes.model import save_merged
from recipes.preparation import Prepared, prepare


@dataclass
class JoiningArguments(TrainingArguments):
    """TrainingArguments, which join the other processes, with --ddp_timeout also on CPU. {site} in a folder's name
    becomes the site's."""

    @awaiting_ranks()
    def __post_init__(self) -> None:
        for name in ("output_dir", "resume_from_checkpoint"):
            if (folder := getattr(self, name)) is not None:
                setattr(self, name, site_file(folder))
        timeout = timedelta(seconds=self.ddp_timeout)
        if self.use_cpu:
            # Its own start without a GPU forgets the timeout; it will find the processes joined already.
            PartialState(cpu=True, timeout=timeout)
        elif (self.deepspeed or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")) and not torch.cuda.is_available():
            # A rehearsal. Without a GPU it would choose no backend, and every process would train alone.
            with patch_environment(ACCELERATE_USE_DEEPSPEED="true"):
                PartialState(backend="gloo", timeout=timeout)
            self.accelerator_config = {"use_configured_state": True}
        super().__post_init__()


def run(arguments: Sequence[str]) -> None:
    """Parse, prepare, train, evaluate and save; errors as in `recipes.exits`."""
    with user_errors():
        # The joining arguments come last: whatever is wrong with the others is said before anybody waits.
        model_arguments, data_arguments, geo_arguments, training_arguments = parse_arguments(
            (ModelArguments, DataTrainingArguments, GeoArguments, JoiningArguments), arguments
        )
        resume_from = check(training_arguments)
        quieten(training_arguments)
        if training_arguments.deepspeed_plugin is not None and not geo_arguments.no_geo:
            # Before the model, which ZeRO-3 partitions while it is loaded.
            geo_accel.keep_deepspeed_in_site(geo_arguments.geo_config)
        prepared = prepare(
            model_arguments,
            data_arguments,
            geo_arguments,
            train=training_arguments.do_train,
            evaluate=training_arguments.do_eval,
            seed=training_arguments.seed,
        )
        trainer = build_trainer(training_arguments, prepared)

        # geo_accel: the one addition to a run_clm script.
        geo = None
        if training_arguments.do_train and not geo_arguments.no_geo:
            data = "private" if geo_arguments.private_data else "shared"
            geo = geo_accel.plug_into(trainer, config=geo_arguments.geo_config, data=data)

    results = {}
    if training_arguments.do_train:
        results |= trainer.train(resume_from_checkpoint=resume_from).metrics
        results["train_samples"] = len(prepared.train_blocks)
    if training_arguments.do_eval:
        results |= trainer.evaluate()
        results["perplexity"] = results.pop("eval_perplexity")
        results["eval_samples"] = len(prepared.eval_blocks)
    trainer.log_metrics("all", results)
    trainer.save_metrics("all", results, combined=False)
    if training_arguments.do_train:
        save(trainer, prepared)
        if training_arguments.should_save:
            write_card(
                training_arguments.output_dir,
                base_model=model_arguments.model_name_or_path,
                metrics=results,
                summary=geo_summary(geo),
            )


def check(arguments: TrainingArguments) -> str | bool | None:
    """Where to resume from, as Trainer takes it.

    Raises ValueError for arguments that cannot work.
    """
    if not arguments.do_train and not arguments.do_eval:
        raise ValueError("nothing to do: pass --do_train, --do_eval or both.")
    if arguments.push_to_hub:
        raise ValueError("--push_to_hub is not supported: upload --output_dir with hf upload after the run.")
    resume_from = arguments.resume_from_checkpoint
    if resume_from is None or resume_from.lower() == "false":
        return None
    if resume_from.lower() != "true":
        if not os.path.isfile(os.path.join(resume_from, TRAINER_STATE_NAME)):
            raise ValueError(f"--resume_from_checkpoint {resume_from}: no checkpoint there ({TRAINER_STATE_NAME}).")
        return resume_from
    if not os.path.isdir(arguments.output_dir) or get_last_checkpoint(arguments.output_dir) is None:
        raise ValueError(f"--resume_from_checkpoint true: no checkpoint in {arguments.output_dir}.")
    return True


def quieten(arguments: TrainingArguments) -> None:
    """Only the first process of a machine shows progress; the others report what is wrong."""
    transformers.utils.logging.set_verbosity(arguments.get_process_log_level())
    if arguments.local_process_index != 0:
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()


def build_trainer(arguments: TrainingArguments, prepared: Prepared) -> Trainer:
    """A Trainer that scores each evaluation with the metric of this repository."""
    evaluates = prepared.eval_blocks is not None
    return Trainer(
        model=prepared.model,
        args=arguments,
        train_dataset=prepared.train_blocks,
        eval_dataset=prepared.eval_blocks,
        processing_class=prepared.tokenizer,
        data_collator=default_data_collator,
        compute_metrics=trainer_quality(load_metric()) if evaluates else None,
        preprocess_logits_for_metrics=score_blocks if evaluates else None,
    )


def save(trainer: Trainer, prepared: Prepared) -> None:
    """Save model and tokenizer so that AutoModelForCausalLM loads them from the output directory. Collective."""
    if not isinstance(prepared.model, PeftModel):
        trainer.save_model()
    elif trainer.args.should_save:
        save_merged(prepared.model, trainer.args.output_dir)
        prepared.tokenizer.save_pretrained(trainer.args.output_dir)
    trainer.save_state()


if __name__ == "__main__":
    sys.exit(run_recipe(run, sys.argv[1:]))
