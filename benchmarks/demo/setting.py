# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What is trained, for how long and over which link: the same for every method."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

METHODS = {"none": "no communication", "ddp": "DDP", "local_sgd": "LocalSGD", "geo": "geo_accel"}
"""Names for people, in the order of tables and figures."""

TURNS = "turns"
"""The run in which all of them take turns, for their step times."""
BLOCKS = "blocks.safetensors"
"""Tokens of all blocks: tensors `train` and `validation`, blocks by tokens."""
START = "start"
"""Folder of the model's first weights."""
LEAST_TURNS = 3
_FILE = "setting.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The job. Workers read it from a file, so that no two runs can differ."""

    steps: int = 70
    """Optimizer steps of every run; more where `window` would not fit."""
    warmup: int = 14
    """First steps that are not timed, for all methods: in the first ten geo_accel measures and plans."""
    turns: int = 28
    """How often no communication and geo_accel take turns, a period each, for their step times."""
    others_every: int = 4
    """DDP and LocalSGD, whose steps are longer and whose figures need be less sharp, join every so many turns."""
    budget_s: float = 720.0
    """What the whole demo may take, in seconds; turns that would not fit are left out, but for `LEAST_TURNS`."""
    bandwidth_mbps: float = 100.0
    """What each site may send, in 10**6 bits per second."""
    sites: int = 2
    layers: int = 8
    width: int = 256
    heads: int = 8
    vocabulary: int = 8192
    block: int = 64
    """Tokens per example."""
    batch: int = 6
    """Examples per site and step."""
    learning_rate: float = 5e-4
    lr_warmup: int = 15
    """Steps over which the learning rate rises; it is constant afterwards."""
    beta2: float = 0.95
    """AdamW's memory of squared gradients."""
    weight_decay: float = 0.1
    clip: float = 1.0
    """Largest norm of the gradients."""
    held_out_percent: float = 10.0
    """Share of the text that is kept for evaluation."""
    seed: int = 42

    @property
    def tokens_per_step(self) -> int:
        """Over all sites."""
        return self.sites * self.batch * self.block

    @property
    def model_sizes(self) -> dict[str, int | float]:
        """The model, as arguments of `transformers.GPT2Config`."""
        return {
            "n_layer": self.layers,
            "n_embd": self.width,
            "n_head": self.heads,
            "n_positions": self.block,
            "vocab_size": self.vocabulary,
            # Without dropout, what differs between the methods is the method.
            **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
        }

    def window(self, adopted: int, period: int) -> tuple[int, int]:
        """First and last step of two whole periods of geo_accel's plan after the warm-up.

        The plan's first transfer starts at the end of step `adopted`, so it runs during the step after that.
        """
        boundary = adopted + max(0, -(-(self.warmup - adopted) // period)) * period
        return boundary + 1, boundary + 2 * period

    def checks(self, steps: int) -> list[int]:
        """The steps of a run of so many at which DDP's held-out loss is taken: what geo_accel's is compared with."""
        return sorted({steps * tenths // 10 for tenths in range(5, 11)})

    def at(self, bandwidth_mbps: float) -> "Setting":
        """The same job over another link."""
        return replace(self, bandwidth_mbps=bandwidth_mbps)

    def save(self, folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Setting":
        return cls(**json.loads((folder / _FILE).read_text()))


FULL = Setting()
QUICK = Setting(steps=24, warmup=10, turns=8, others_every=8, budget_s=240.0)
