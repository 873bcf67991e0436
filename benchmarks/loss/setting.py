# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What is trained and for how long: the same for every method."""

from dataclasses import dataclass

BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The job. All of it is part of a run's key: a changed job never finds another job's results."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    vocabulary: int = BYTES
    """Tokens: bytes, or as many as a byte-level BPE tokenizer has that all texts train."""
    block: int = 64
    """Tokens per example."""
    batch: int = 8
    """Examples per site and step."""
    steps: int = 240
    warmup: int = 20
    """Steps over which the learning rate rises; then it falls along a cosine."""
    final_share: float = 0.1
    """Of the learning rate, reached in the last step."""
    beta2: float = 0.95
    """AdamW's memory of squared gradients."""
    weight_decay: float = 0.1
    clip: float = 1.0
    """Largest norm of the gradients."""
    pretraining_steps: int = 2400
    pretraining_batch: int = 16
    pretraining_rate: float = 4e-3
    evaluation_blocks: int = 512
    """Examples held out, shared evenly by the kinds of text."""

    def model_sizes(self) -> dict[str, int | float | bool]:
        """The model, as arguments of `transformers.GPT2Config`."""
        return {
            "n_layer": self.layers,
            "n_embd": self.width,
            "n_head": self.heads,
            "n_positions": self.block,
            "vocab_size": self.vocabulary,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "use_cache": False,
            # Without dropout, what differs between the methods is the method.
            **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
        }

    def tokens_per_step(self, sites: int) -> int:
        """Over all sites."""
        return sites * self.batch * self.block


FULL = Setting()
QUICK = Setting(steps=32, warmup=10, pretraining_steps=150, evaluation_blocks=256)
LARGE = Setting(
    layers=8,
    width=296,
    heads=8,
    batch=6,
    steps=200,
    pretraining_steps=2000,
    pretraining_batch=12,
    pretraining_rate=1e-3,
    evaluation_blocks=256,
)
"""As large as the demo's model (8.5 M parameters), which a link of 100 Mbit/s makes ten times slower with DDP, but on
bytes: on the little text that there is, a model of thousands of tokens is hardly pretrained, and what follows is no
fine-tuning."""

RATES = {"finetune": (1e-3, 2e-3, 4e-3), "scratch": (1e-3, 2e-3, 4e-3)}
"""Learning rates that every method is tried at, by task; wider where a method does best at an end."""
LARGE_RATES = (5e-4, 1e-3, 2e-3)
"""Those of the large model."""
SEEDS = 3
"""The first seed finds the learning rate, the others repeat it."""
