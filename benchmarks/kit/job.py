# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A job: one training, and everything that decides its result."""

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version

BYTES = 256
"""Tokens of a model that reads bytes."""
_VERSIONS = {"python": platform.python_version(), "torch": version("torch")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is trained: a GPT-2 and how its steps are made. The same for every method that is compared."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    vocabulary: int = BYTES
    """Tokens: bytes, or as many as a byte-level BPE tokenizer has that all texts train."""
    positions: int = 64
    """The longest example that the model can take, in tokens."""
    block: int = 64
    """Tokens per example."""
    batch: int = 8
    """Examples per site and step."""
    warmup: int = 20
    """Steps over which the learning rate rises; then it falls along a cosine."""
    final_share: float = 0.1
    """Of the learning rate, reached in the last step; 1 keeps it constant."""
    clip: float = 1.0
    """Largest norm of the gradients."""
    fused: bool = True
    """Whether AdamW updates all weights in one kernel."""
    precision: str = "no"
    """Accelerate's mixed precision."""
    pretraining_steps: int = 2400
    pretraining_rate: float = 4e-3
    evaluation_blocks: int = 512
    """Examples held out, shared evenly by the kinds of text."""

    @property
    def sizes(self) -> dict[str, int | float]:
        """The model, as arguments of `transformers.GPT2Config`."""
        return {
            "n_layer": self.layers,
            "n_embd": self.width,
            "n_head": self.heads,
            "n_positions": self.positions,
            "vocab_size": self.vocabulary,
            # Without dropout, what differs between the methods is the method.
            **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
        }


SMALL = Setting()
LARGE = Setting(
    layers=8, width=296, heads=8, batch=6, pretraining_steps=2000, pretraining_rate=1e-3, evaluation_blocks=256
)
"""As large as the demo's model (8.5 M parameters), which a link of 100 Mbit/s makes ten times slower with DDP, but on
bytes: on the little text that there is, a model of thousands of tokens is hardly pretrained, and what follows is no
fine-tuning."""
DEMO = Setting(layers=8, width=256, heads=8, vocabulary=8192, batch=6, warmup=15, final_share=1.0, fused=False)
"""The demo's GPT-2 of 8.4 M parameters."""
GPT2_SMALL = Setting(layers=12, width=768, heads=12, vocabulary=50257, positions=1024, block=128, batch=1)
"""GPT-2 as published, 124 M parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training on several sites. Names for people are no part of it: equal jobs have equal results."""

    setting: Setting
    method: str
    """"none", "ddp", "local_sgd" (accelerate's), "geo", or "turns"."""
    rate: float
    """Largest learning rate."""
    steps: int = 0
    """Of the optimizer; 0 for turns."""
    sites: int = 2
    place: str = "lab"
    """"lab": the emulated WAN; "loopback": where only the loss counts, which no link changes; "gpu": loopback, and all
    sites share one accelerator."""
    mbps: tuple[float, ...] = (100.0,)
    """What each site of the lab may send, 10**6 bits per second; one for all, or one by site."""
    down_mbps: tuple[float, ...] = ()
    """What each may receive; no limit of its own if empty."""
    apart: bool = False
    """Whether each site starts a job of its own, over links, in place of one job over all."""
    data: str = "texts"
    """"texts", "documentation" in blocks for the demo, or "random" tokens where no loss counts."""
    kinds: tuple[str, ...] = ("documentation",)
    """Kinds of text; all of them are evaluated on."""
    own: bool = False
    """Whether site i draws from text i only, or every site from all alike."""
    pretrained: bool = False
    seed: int = 0
    period: int = 1
    """LocalSGD's steps between averages."""
    config: dict | None = field(default=None, hash=False)
    """geo_accel's settings."""
    turns: int = 0
    """How often methods take turns in one process: no communication and geo_accel, which change places each time."""
    others: tuple[str, ...] = ()
    """Of "local_sgd" and "ddp", whose steps are long: they join every few turns."""
    others_every: int = 1
    shared: bool = True
    """Whether no communication trains geo_accel's model, which saves memory, or a bare twin."""
    least_steps: int = 1
    """Of a part of a turn, where the plan's period is shorter."""
    warmup: int = 0
    """First steps that are not timed."""
    windows: int = 0
    """geo_accel trains on until so many whole periods of its first plan have followed the warm-up."""
    checks: tuple[int, ...] = ()
    """Steps after which the held-out loss is taken, outside of the steps' time."""
    zero: int | None = None
    """DeepSpeed's stage, if it is DeepSpeed that trains."""

    @property
    def tokens_per_step(self) -> int:
        """Over all sites."""
        return self.sites * self.setting.batch * self.setting.block

    @property
    def material(self) -> str:
        """The folder of the texts and first weights, below the store's; "" where the run needs none."""
        if self.data == "random":
            return ""
        # What only the runs depend on must not make another pretrained model.
        wanted = asdict(self.setting)
        for name in ("evaluation_blocks", "fused", "precision"):
            del wanted[name]
        return f"material-{_hash(wanted | _VERSIONS | {'data': self.data})[:12]}"

    @property
    def key(self) -> str:
        """A hash of everything that decides the result, in hex."""
        fields = {name: value for name, value in asdict(self).items() if name != "apart" or value}
        return _hash({**fields, "material": self.material})[:20]

    def methods_of(self, turn: int) -> list[str]:
        """Who takes part in turn number `turn`, in order."""
        pair = ["none", "geo"] if turn % 2 else ["geo", "none"]
        return pair + list(self.others) * (turn % self.others_every == 0)

    @classmethod
    def read(cls, fields: dict) -> "Job":
        """The job that `asdict` and JSON made `fields` of; its tuples have become lists."""
        return cls(**{**fields, "setting": Setting(**fields["setting"])})


def window(warmup: int, adopted: int, period: int, count: int = 2) -> tuple[int, int]:
    """First and last step of `count` whole periods of a plan after the warm-up.

    The plan's first transfer starts at the end of step `adopted`, so it runs during the step after that.
    """
    boundary = adopted + max(0, -(-(warmup - adopted) // period)) * period
    return boundary + 1, boundary + count * period


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
