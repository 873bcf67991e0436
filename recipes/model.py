# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The model to train: loaded or fresh, whole or through LoRA adapters, and saved so that it loads anywhere."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from recipes.arguments import ModelArguments


def fresh_config(
    name: str, overrides: str | Mapping[str, object] = "", tokenizer: PreTrainedTokenizerBase | None = None
) -> PretrainedConfig:
    """The configuration of a new model: `name` is an architecture ("gpt2", "llama") or a directory or hub name.

    Overrides are "n_layer=8,n_embd=256" or a mapping. A tokenizer sets vocabulary and special tokens.

    Raises ValueError for names, keys and values that do not fit.
    """
    base = _base_config(name)
    changes = _parse_overrides(base, overrides)
    if tokenizer is not None:
        asked = changes.get("vocab_size", len(tokenizer))
        if asked < len(tokenizer):
            raise ValueError(
                f"--config_overrides vocab_size={asked} is below the tokenizer's {len(tokenizer)} tokens."
            )
        changes["vocab_size"] = asked
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            changes.setdefault(token, getattr(tokenizer, token))
    try:
        if Path(name).exists() or name not in CONFIG_MAPPING:
            return type(base).from_dict({**base.to_dict(), **changes})
        # Through the constructor, so that settings derived from others (Llama's key-value heads) follow them.
        return type(base)(**changes)
    except (TypeError, ValueError, StrictDataclassError) as error:
        reason = error.__cause__ or error
        raise ValueError(f"--config_overrides do not make a {base.model_type} configuration: {reason}") from error


def fresh_model(
    model_type: str,
    overrides: str | Mapping[str, object] = "",
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PreTrainedModel:
    """A new model with random weights in float32, drawn from torch's global generator: seed it first.

    Raises ValueError as `fresh_config` does, and for sizes that do not fit together.
    """
    return _initialise(fresh_config(model_type, overrides, tokenizer))


def load_model(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel | PeftModel:
    """The model that the arguments name or describe, with LoRA adapters if asked for.

    Raises ValueError if it cannot be had or the arguments do not fit it.
    """
    fresh = arguments.model_type or arguments.config_name
    if fresh:
        model = fresh_model(fresh, arguments.config_overrides or "", tokenizer)
    else:
        model = _name_loss(_trained(arguments))
        if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(len(tokenizer))
    if arguments.lora_r:
        return add_lora(model, arguments)
    return model


def add_lora(model: PreTrainedModel, arguments: ModelArguments) -> PeftModel:
    """Freeze the model and add LoRA adapters; only these are trained and cross the WAN.

    Raises ValueError if the target modules match nothing.
    """
    targets = arguments.lora_target_modules
    names = [name for name, module in model.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D))]
    for target in targets or []:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            kinds = sorted({name.rpartition(".")[2] for name in names} - {"lm_head"})
            raise ValueError(
                f"--lora_target_modules {target} matches no layer of this {model.config.model_type} model; "
                f"its layers are {', '.join(kinds)}."
            )
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=targets,
        # GPT-2 keeps its weights transposed, in Conv1D; its layers are all of that kind.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    return get_peft_model(model, settings)


def context_length(config: PretrainedConfig) -> int | None:
    """The most tokens the model can see at once; None if its configuration knows no such limit."""
    return getattr(config, "max_position_embeddings", None)


def save_merged(model: PeftModel, output_dir: str | Path) -> None:
    """Write a LoRA model so that it loads without peft: the adapters into `output_dir`/adapter, and the whole model
    with the adapters merged in into `output_dir`. The model is merged for good: this ends its training."""
    model.save_pretrained(Path(output_dir) / "adapter")
    model.merge_and_unload().save_pretrained(output_dir)


def _base_config(name: str) -> PretrainedConfig:
    if not Path(name).exists() and name in CONFIG_MAPPING:
        base = CONFIG_MAPPING[name]()
    else:
        try:
            base = AutoConfig.from_pretrained(name)
        except (OSError, ValueError) as error:
            known = sorted(config.model_type for config in MODEL_FOR_CAUSAL_LM_MAPPING)
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {nearest[0]}?" if nearest else ""
            raise ValueError(f"no model configuration called {name}.{hint} ({error})") from error
    if type(base) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{name} is not a causal language model; gpt2 and llama are.")
    return base


def _parse_overrides(base: PretrainedConfig, overrides: str | Mapping[str, object]) -> dict[str, object]:
    if isinstance(overrides, str):
        pairs = [pair.partition("=") for pair in overrides.split(",") if pair.strip()]
        wrong = [key for key, equals, _ in pairs if not equals]
        if wrong:
            raise ValueError(f"--config_overrides {wrong[0]!r}: write key=value, separated by commas.")
        given: dict[str, object] = {key.strip(): value.strip() for key, _, value in pairs}
    else:
        given = dict(overrides)
    known = (base.to_dict().keys() | base.attribute_map.keys()) - {"model_type", "architectures"}
    changes = {}
    for key, value in given.items():
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(sorted(known))}."
            raise ValueError(f"--config_overrides: {base.model_type} has no setting {key!r}: {hint}")
        changes[key] = _typed(key, value, getattr(base, key)) if isinstance(value, str) else value
    return changes


def _typed(key: str, value: str, default: object) -> object:
    if isinstance(default, str):
        return value
    try:
        typed = json.loads(value.lower() if value.lower() in ("true", "false", "none") else value)
    except json.JSONDecodeError:
        typed = None if value.lower() == "none" else value
    kinds = (int, float) if isinstance(default, float) else type(default)
    if default is not None and (isinstance(typed, bool) != isinstance(default, bool) or not isinstance(typed, kinds)):
        raise ValueError(f"--config_overrides {key}={value}: expected {type(default).__name__}, such as {default}.")
    return typed


def _initialise(config: PretrainedConfig) -> PreTrainedModel:
    try:
        return _name_loss(AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(f"--config_overrides do not make a {config.model_type} model: {error}") from error


def _name_loss(model: PreTrainedModel) -> PreTrainedModel:
    """Say that the model's loss shifts its labels.

    Transformers tells by the name of the class, and GPT2LMHeadModel does not say so: Trainer (5.23) would then divide
    the loss of a block of n tokens by n, not by the n - 1 that are predicted, and report it too low.
    """
    if getattr(model, "loss_type", None) is None:
        model.loss_type = "ForCausalLM"
    return model


def _trained(arguments: ModelArguments) -> PreTrainedModel:
    try:
        return AutoModelForCausalLM.from_pretrained(
            arguments.model_name_or_path,
            cache_dir=arguments.cache_dir,
            revision=arguments.model_revision,
            token=arguments.token,
            trust_remote_code=arguments.trust_remote_code,
            dtype=arguments.dtype,
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"no model at {arguments.model_name_or_path}: {error}") from error
