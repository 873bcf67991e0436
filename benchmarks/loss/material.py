# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What all runs share, made once and kept: texts as tokens, and pretrained weights."""

import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.kit.texts import KINDS, PRETRAINED_ON, Text, load
from benchmarks.loss.setting import BYTES, Setting
from benchmarks.loss.training import Batches, fresh_model, make_optimizer, make_scheduler

_TEXTS, _START = "texts.safetensors", "start.safetensors"
_PARTS = ("train", "held_out", "earlier")
_PRETRAINING_SEED = 1234


@dataclass(slots=True, kw_only=True)
class Material:
    """Loaded from its folder by every process."""

    texts: dict[str, torch.Tensor]
    """Tokens, flat, by "KIND.train", "KIND.held_out" and "KIND.earlier"."""
    start: dict[str, torch.Tensor]
    """The pretrained model's parameters by name."""
    digests: dict[str, str]
    """SHA-256 of both, in hex: part of every run's key."""

    @classmethod
    def read(cls, folder: Path) -> "Material":
        texts, start = load_file(folder / _TEXTS), load_file(folder / _START)
        return cls(texts=texts, start=start, digests={"texts": _digest(texts), "start": _digest(start)})

    def of(self, part: str, kinds: tuple[str, ...]) -> list[torch.Tensor]:
        return [self.texts[f"{kind}.{part}"] for kind in kinds]


def make_material(
    setting: Setting, results: Path, on_step: Callable[[int], None] = lambda done: None, device: str = "cpu"
) -> Path:
    """Makes the material below `results` unless it is there; returns its folder. `on_step` follows pretraining."""
    wanted = {**asdict(setting), "python": platform.python_version(), "torch": torch.__version__}
    # What only the runs depend on must not make another pretrained model.
    for name in ("steps", "batch", "evaluation_blocks"):
        del wanted[name]
    name = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:12]
    folder = results / f"material-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / _TEXTS).exists():
        _save(_tokens({kind: load(kind) for kind in KINDS}, setting), folder / _TEXTS)
    if not (folder / _START).exists():
        _save(_pretrain(setting, load_file(folder / _TEXTS), on_step, device), folder / _START)
    return folder


def _tokens(texts: dict[str, Text], setting: Setting) -> dict[str, torch.Tensor]:
    parts = {f"{kind}.{part}": getattr(text, part) for kind, text in texts.items() for part in _PARTS}
    joined = {name: "\n\n".join(documents) for name, documents in parts.items() if documents}
    if setting.vocabulary == BYTES:
        encoded = {name: text.encode("utf-8", errors="ignore") for name, text in joined.items()}
        return {name: torch.frombuffer(bytearray(text), dtype=torch.uint8) for name, text in encoded.items()}
    from recipes.tokenizer import train_byte_level_bpe

    tokenizer = train_byte_level_bpe(
        chain.from_iterable(parts[name] for name in parts if not name.endswith(".held_out")), setting.vocabulary
    )
    return {
        name: torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.int32)
        for name, text in joined.items()
    }


def _pretrain(
    setting: Setting, texts: dict[str, torch.Tensor], on_step: Callable[[int], None], device: str
) -> dict[str, torch.Tensor]:
    # Threads wait for one another at every layer: one that has to share its core holds up all.
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - round(os.getloadavg()[0])))
    model = fresh_model(setting, _PRETRAINING_SEED).to(device)
    optimizer = make_optimizer(model, setting, setting.pretraining_rate)
    scheduler = make_scheduler(optimizer, setting, setting.pretraining_steps)
    earlier = [texts[f"{kind}.earlier"] for kind in PRETRAINED_ON]
    batches = Batches(earlier, setting, setting.pretraining_batch, _PRETRAINING_SEED, site=0)
    for step in range(setting.pretraining_steps):
        tokens = batches.next().to(device)
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), setting.clip)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        on_step(step + 1)
    # Tied weights are there once: `named_parameters` leaves repetitions out.
    return {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    save_file(tensors, temporary)
    temporary.rename(path)


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].numpy().tobytes())
    return total.hexdigest()
