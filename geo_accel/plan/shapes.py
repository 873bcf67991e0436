# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A model by its configuration: its units, and a profile of them from FLOPs and bytes, without running anything.

The units are those that `geo_accel.units.find_units` finds in the model itself, with the same names and sizes.
"""

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geo_accel.profile.profile import Profile, UnitProfile

PRESETS: dict[str, dict[str, int]] = {
    "gpt2": {"n_layer": 12, "n_embd": 768, "vocab_size": 50257, "n_positions": 1024},
    "gpt2-medium": {"n_layer": 24, "n_embd": 1024, "vocab_size": 50257, "n_positions": 1024},
    "gpt2-large": {"n_layer": 36, "n_embd": 1280, "vocab_size": 50257, "n_positions": 1024},
    "gpt2-xl": {"n_layer": 48, "n_embd": 1600, "vocab_size": 50257, "n_positions": 1024},
    "llama-2-7b": {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "vocab_size": 32000,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "llama-2-13b": {
        "num_hidden_layers": 40,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "vocab_size": 32000,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
    },
    "llama-2-70b": {
        "num_hidden_layers": 80,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "vocab_size": 32000,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
"""Named models, in the words of their config.json."""

# Bytes that AdamW moves per parameter: weight and two moments read and written in fp32, the gradient read.
UPDATE_BYTES = 28
# With training in bf16 the working copy of the weight is written too.
UPDATE_BYTES_BF16 = UPDATE_BYTES + 2
BYTES_BY_DTYPE = {"fp32": 4, "bf16": 2}
_MOST_LAYERS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitShape:
    """What the time of one unit follows from."""

    name: str
    numel: int
    matmul: int = 0
    """Weights that every token is multiplied by: 2 FLOPs each, forward."""
    attention: int = 0
    """Width of the attention: 4 FLOPs per token and token of the sequence, forward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A model's units in backward order."""

    name: str
    units: tuple[UnitShape, ...]
    longest: int | None = None
    """Tokens that its learned positions allow; None where nothing limits them."""

    @property
    def numel(self) -> int:
        """Parameters, tied ones once."""
        return sum(unit.numel for unit in self.units)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one site computes in a step, and on what. Raises ValueError for numbers that make no sense."""

    flops: float
    """FLOP/s that one GPU sustains in this training; not its peak."""
    batch: int
    """Sequences per GPU and micro-batch."""
    sequence: int
    """Tokens of a sequence."""
    micro_batches: int = 1
    """Forward and backward passes per step."""
    gpus_per_site: int = 1
    dtype: str = "bf16"
    """Of weights and gradients in training: "bf16" or "fp32"."""
    memory_bytes_per_s: float = 2e12
    """Of one GPU; the optimizer's update takes its bytes over this."""
    site_bits_per_s: float | None = None
    """For the gradients' reduction inside a site, per GPU; None: it costs nothing."""

    def __post_init__(self) -> None:
        require_number("flops", self.flops, 1e6, 1e21)
        for key in ("batch", "sequence", "micro_batches", "gpus_per_site"):
            require_number(key.replace("_", "-"), getattr(self, key), 1, 10**7, whole=True)
        require_number("memory bandwidth in bytes/s", self.memory_bytes_per_s, 1e6, 1e18)
        if self.site_bits_per_s is not None:
            require_number("site bandwidth in bits/s", self.site_bits_per_s, 1e3, 1e18)
        if self.dtype not in BYTES_BY_DTYPE:
            raise ValueError(f"dtype is {self.dtype!r}; allowed: {', '.join(BYTES_BY_DTYPE)}.")

    @property
    def tokens_per_site(self) -> int:
        """Tokens that a site trains on in a step."""
        return self.batch * self.sequence * self.micro_batches * self.gpus_per_site


def require_number(name: str, value: object, least: float, most: float, whole: bool = False) -> None:
    """Raises ValueError, in one line that names `name`, unless `value` is a number from `least` to `most`."""
    kind = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        found = f"{value!r}" if not isinstance(value, float) else f"{value:g}"
        raise ValueError(f"{name} is {found}; it must be a {'whole ' * whole}number from {least:g} to {most:g}.")


def read_shape(model: str | os.PathLike) -> ModelShape:
    """The shape of a preset by its name, or of a config.json by its path or its folder's.

    Raises ValueError, in one line that names the model or file, for anything else.
    """
    name = os.fspath(model)
    if name in PRESETS:
        return shape_of(PRESETS[name], name)
    path = Path(name)
    if path.is_dir():
        path = path / "config.json"
    elif not path.exists():
        near = difflib.get_close_matches(name.lower(), PRESETS, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"the names are {', '.join(PRESETS)}."
        raise ValueError(f"model {name!r} is neither a known name nor a config.json or a folder with one; {hint}")
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON, or cut off ({error}).") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected the settings of a model by name, found a {type(config).__name__}.")
    return shape_of(config, str(path))


def shape_of(config: Mapping[str, Any], name: str = "config") -> ModelShape:
    """The shape of a model of the GPT-2 or Llama family with the settings of its config.json.

    Raises ValueError, in one line that begins with `name`, for another family or a setting that makes no sense.
    """
    family = config.get("model_type", "gpt2" if "n_embd" in config else "llama")
    if family not in ("gpt2", "llama"):
        raise ValueError(f"{name}: model_type is {family!r}; known are gpt2 and llama. Measure a profile instead.")
    try:
        return _gpt2(config, name) if family == "gpt2" else _llama(config, name)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def profile_of(shape: ModelShape, work: Workload) -> Profile:
    """The profile of one site from FLOPs and bytes; it knows no link.

    A unit's forward is 2 FLOPs per weight and token plus the attention, its backward twice that. `numel` is all of
    a unit: the GPUs of a site share its link, so one of them that carries everything stands for all. The reduction
    inside the site is part of the last backward, where each unit waits for its own. Raises ValueError for sequences
    that the model does not take.
    """
    if shape.longest is not None and work.sequence > shape.longest:
        raise ValueError(f"sequence is {work.sequence}; {shape.name} takes at most {shape.longest} tokens.")
    tokens, passes = work.batch * work.sequence, work.micro_batches
    size = BYTES_BY_DTYPE[work.dtype]
    update_s = (UPDATE_BYTES_BF16 if work.dtype == "bf16" else UPDATE_BYTES) / work.memory_bytes_per_s
    reduce_s = 0.0
    if work.site_bits_per_s is not None:
        reduce_s = 2 * (work.gpus_per_site - 1) / work.gpus_per_site * size * 8 / work.site_bits_per_s
    units, computing_s = [], 0.0
    for unit in shape.units:
        forward_s = tokens * (2 * unit.matmul + 4 * work.sequence * unit.attention) / work.flops
        computing_s += 3 * forward_s * passes
        units.append(
            UnitProfile(
                name=unit.name,
                numel=unit.numel,
                forward_s=forward_s,
                backward_s=2 * forward_s + reduce_s * unit.numel,
                update_s=update_s * unit.numel,
            )
        )
    return Profile(
        units=tuple(units),
        step_s=computing_s + (reduce_s + update_s) * shape.numel,
        provenance={"model": shape.name, "source": "FLOPs and bytes, not measured"},
    )


def _gpt2(config: Mapping[str, Any], name: str) -> ModelShape:
    layers, width = _whole(config, "n_layer", most=_MOST_LAYERS), _whole(config, "n_embd")
    vocabulary, positions = _whole(config, "vocab_size"), _whole(config, "n_positions")
    inner = 4 * width if config.get("n_inner") is None else _whole(config, "n_inner")
    matmul = 4 * width * width + 2 * width * inner
    # Biases of the attention's two and the feed-forward's two matrices, and two norms of two vectors.
    block = matmul + (3 * width + width) + (inner + width) + 4 * width
    return _assemble(
        name=name,
        names=("lm_head", "transformer.ln_f", "transformer.h."),
        head=vocabulary * width,
        tied=_flag(config, "tie_word_embeddings", True),
        norm=2 * width,
        blocks=[UnitShape(name="", numel=block, matmul=matmul, attention=width)] * layers,
        embeddings=(
            UnitShape(name="transformer.wpe", numel=positions * width),
            UnitShape(name="transformer.wte", numel=vocabulary * width),
        ),
        longest=positions,
    )


def _llama(config: Mapping[str, Any], name: str) -> ModelShape:
    layers, width = _whole(config, "num_hidden_layers", most=_MOST_LAYERS), _whole(config, "hidden_size")
    inner, vocabulary = _whole(config, "intermediate_size"), _whole(config, "vocab_size")
    heads = _whole(config, "num_attention_heads")
    shared = heads if config.get("num_key_value_heads") is None else _whole(config, "num_key_value_heads")
    if heads % shared:
        raise ValueError(f"num_key_value_heads is {shared}; it must divide num_attention_heads, {heads}.")
    if config.get("head_dim") is not None:
        head = _whole(config, "head_dim")
    elif width % heads:
        raise ValueError(f"num_attention_heads is {heads}; it must divide hidden_size, {width}.")
    else:
        head = width // heads
    matmul = 2 * width * heads * head + 2 * width * shared * head + 3 * width * inner
    block = matmul + 2 * width
    if _flag(config, "attention_bias", False):
        block += heads * head + 2 * shared * head + width
    if _flag(config, "mlp_bias", False):
        block += 2 * inner + width
    return _assemble(
        name=name,
        names=("lm_head", "model.norm", "model.layers."),
        head=vocabulary * width,
        tied=_flag(config, "tie_word_embeddings", False),
        norm=width,
        blocks=[UnitShape(name="", numel=block, matmul=matmul, attention=heads * head)] * layers,
        embeddings=(UnitShape(name="model.embed_tokens", numel=vocabulary * width),),
        longest=None,
    )


def _assemble(
    *,
    name: str,
    names: tuple[str, str, str],
    head: int,
    tied: bool,
    norm: int,
    blocks: list[UnitShape],
    embeddings: tuple[UnitShape, ...],
    longest: int | None,
) -> ModelShape:
    """The units in backward order. A tied head is no unit of its own, yet its product comes first in backward."""
    head_name, norm_name, block_name = names
    units = [] if tied else [UnitShape(name=head_name, numel=head, matmul=head)]
    units.append(UnitShape(name=norm_name, numel=norm, matmul=head if tied else 0))
    for number in reversed(range(len(blocks))):
        block = blocks[number]
        units.append(
            UnitShape(name=f"{block_name}{number}", numel=block.numel, matmul=block.matmul, attention=block.attention)
        )
    return ModelShape(name=name, units=(*units, *embeddings), longest=longest)


def _whole(config: Mapping[str, Any], key: str, most: int = 10**7) -> int:
    if key not in config:
        raise ValueError(f"it lacks {key}.")
    require_number(key, config[key], 1, most, whole=True)
    return config[key]


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}; it must be true or false.")
    return value
