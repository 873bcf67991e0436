# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The command line that both recipes share, with the argument names of Hugging Face's run_clm examples."""

import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from geo_accel.sites.invitation import MEET_VARIABLE


@dataclass(kw_only=True, slots=True)
class ModelArguments:
    """Which model and tokenizer to start from: trained ones by name or directory, or fresh ones."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Trained model to start from: a hub name or a local directory."}
    )
    model_type: str | None = field(
        default=None, metadata={"help": "Fresh model: its architecture, such as gpt2 or llama. Needs no network."}
    )
    config_name: str | None = field(
        default=None,
        metadata={
            "help": "Fresh model: its configuration as a local directory, an architecture (gpt2, llama: the default "
            "sizes, no network) or a hub name."
        },
    )
    config_overrides: str | None = field(
        default=None,
        metadata={"help": "Fresh model: settings that differ from the configuration, as n_layer=8,n_embd=256."},
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={
            "help": "Tokenizer, if not the model's: a hub name or a local directory. A fresh model without one gets a "
            "byte-level BPE tokenizer trained on its training text."
        },
    )
    vocab_size: int | None = field(
        default=None, metadata={"help": "Vocabulary of the tokenizer trained for a fresh model; 8192 if not given."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of a model or tokenizer from the hub."}
    )
    token: str | None = field(default=None, metadata={"help": "Hub token, if not the one of hf auth login."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that the model's hub repository brings along. Read it first."}
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Type of the loaded weights. Full fine-tuning wants float32 (add --bf16 for mixed precision); "
            "a large model that only LoRA trains can stay in bfloat16.",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )
    lora_r: int = field(default=0, metadata={"help": "Rank of the LoRA adapters; 0 trains all parameters."})
    lora_alpha: int = field(
        default=16, metadata={"help": "LoRA scale: updates are multiplied by lora_alpha / lora_r."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout in front of the LoRA adapters."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Modules that get an adapter, such as q_proj v_proj; peft's choice if not given."},
    )

    def __post_init__(self) -> None:
        fresh = self.model_type or self.config_name
        if self.model_name_or_path and fresh:
            given = "--model_type" if self.model_type else "--config_name"
            raise ValueError(f"--model_name_or_path and {given} both name the model: keep one.")
        if self.model_type and self.config_name:
            raise ValueError("--model_type and --config_name both describe a fresh model: keep one.")
        if not self.model_name_or_path and not fresh:
            raise ValueError(
                "no model given: pass --model_name_or_path (trained) or --model_type gpt2|llama (fresh, see "
                "--config_overrides)."
            )
        if self.config_overrides is not None and not fresh:
            raise ValueError("--config_overrides only shapes a fresh model: it cannot go with --model_name_or_path.")
        if self.vocab_size is not None and (self.model_name_or_path or self.tokenizer_name):
            raise ValueError(
                "--vocab_size only applies to a tokenizer trained here, but one is given by name: drop it."
            )
        if self.lora_r < 0:
            raise ValueError(f"--lora_r is {self.lora_r}: give a rank of 1 or more, or 0 for full fine-tuning.")
        if self.lora_target_modules and not self.lora_r:
            raise ValueError("--lora_target_modules has no effect without --lora_r: add for example --lora_r 8.")


@dataclass(kw_only=True, slots=True)
class DataTrainingArguments:
    """What to train and evaluate on. Given neither a dataset nor files: the documentation text inside Python."""

    dataset_name: str | None = field(default=None, metadata={"help": "Dataset of the hub, or a local dataset folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of --dataset_name."})
    train_file: str | None = field(
        default=None,
        metadata={"help": "Training text: .txt, .csv, .json, .jsonl or .parquet. {site} becomes the site's name."},
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Evaluation text in the same formats; must be the same at every site."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on this many blocks at most."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on this many blocks at most."})
    block_size: int | None = field(
        default=None,
        metadata={"help": "Tokens per training example; the model's context, at most 1024, if not given."},
    )
    overwrite_cache: bool = field(default=False, metadata={"help": "Tokenize again even if a cached result exists."})
    validation_split_percentage: float = field(
        default=5, metadata={"help": "Share of the training text held out when there is no validation text."}
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Processes that tokenize; one if not given."}
    )
    keep_linebreaks: bool = field(default=True, metadata={"help": "Keep line breaks of .txt files."})

    def __post_init__(self) -> None:
        if self.dataset_name and (self.train_file or self.validation_file):
            raise ValueError("--dataset_name and --train_file/--validation_file both give the data: keep one.")
        if self.dataset_config_name and not self.dataset_name:
            raise ValueError("--dataset_config_name needs --dataset_name.")
        if not 0 < self.validation_split_percentage < 100:
            share = self.validation_split_percentage
            raise ValueError(f"--validation_split_percentage is {share:g}: it must lie between 0 and 100.")
        for name in ("block_size", "max_train_samples", "max_eval_samples", "preprocessing_num_workers"):
            value = getattr(self, name)
            if value is not None and value < (2 if name == "block_size" else 1):
                raise ValueError(f"--{name} is {value}: give at least {2 if name == 'block_size' else 1}.")


@dataclass(kw_only=True, slots=True)
class GeoArguments:
    """How training spans sites."""

    geo_config: str | None = field(
        default=None,
        metadata={
            "help": 'geo_accel settings: a JSON or YAML file, or a DeepSpeed JSON. Not given: "auto" throughout.'
        },
    )
    no_geo: bool = field(default=False, metadata={"help": "Plain data-parallel training, for comparison."})
    private_data: bool = field(
        default=False,
        metadata={
            "help": "Every site trains on its own text, which never leaves it; it is shared inside the site only."
        },
    )

    def __post_init__(self) -> None:
        if self.no_geo and self.geo_config:
            raise ValueError("--no_geo and --geo_config contradict each other: keep one.")
        if self.no_geo and self.private_data:
            raise ValueError("--private_data needs geo_accel: plain data-parallel training shares one data set.")
        if self.no_geo and os.environ.get(MEET_VARIABLE):
            raise ValueError(
                f"--no_geo with {MEET_VARIABLE}: each site would train alone; unset it, and start one job over all."
            )
        if self.geo_config and not Path(self.geo_config).is_file():
            raise ValueError(f"--geo_config {self.geo_config}: no such file.")


class _Parser(HfArgumentParser):
    """Raises where argparse would print the whole usage, several hundred lines here, around the one that matters."""

    def error(self, message: str) -> None:
        raise ValueError(message)


def parse_arguments(dataclass_types: Sequence[type], arguments: Sequence[str]) -> tuple:
    """Instances of `dataclass_types` from a command line, or from the JSON file that is its only argument.

    Raises ValueError, with the nearest valid name where one is close, for unknown or contradicting arguments.
    """
    parser = _Parser(tuple(dataclass_types), allow_abbrev=False)
    known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    if len(arguments) == 1 and arguments[0].endswith(".json"):
        return _parse_json(parser, Path(arguments[0]), [option.removeprefix("--") for option in known])
    namespace, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        raise ValueError(_unknown(unknown[0], known))
    return parser.parse_dict(vars(namespace))


def _parse_json(parser: HfArgumentParser, path: Path, known: Sequence[str]) -> tuple:
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected one JSON object of argument names and values.")
    for name in values:
        if name not in known:
            raise ValueError(f"{path}: {_unknown(name, known)}")
    return parser.parse_dict(values)


def _unknown(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name.split("=")[0], known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else "see --help for the arguments there are."
    return f"unknown argument {name!r}: {hint}"
