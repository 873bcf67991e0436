# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What all runs share, made once and kept: texts as tokens, and first weights."""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from itertools import chain, repeat
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from benchmarks.kit.job import BYTES, Job, Setting
from benchmarks.kit.texts import KINDS, PRETRAINED_ON, Text, load
from benchmarks.kit.training import (
    Batch,
    as_batch,
    evaluation_blocks,
    fresh_model,
    make_optimizer,
    make_scheduler,
    random_places,
    random_tokens,
)

_TEXTS, _START = "texts.safetensors", "start.safetensors"
BLOCKS, MODEL = "blocks.safetensors", "model"
"""The demo's: tensors `train` and `validation`, blocks by tokens; first weights and tokenizer."""
_PARTS = ("train", "held_out", "earlier")
_PRETRAINING_SEED, _DEMO_SEED = 1234, 42
_DEMO_HELD_OUT_PERCENT = 10.0


def name_of(job: Job) -> str:
    """The folder of a job's material, below the store's; "" where it needs none."""
    if job.data == "random":
        return ""
    # What only the runs depend on must not make another pretrained model.
    wanted = asdict(job.setting)
    for name in ("batch", "evaluation_blocks", "fused", "precision"):
        del wanted[name]
    wanted |= {"data": job.data, "python": platform.python_version(), "torch": torch.__version__}
    return f"material-{hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:12]}"


def make_material(
    job: Job, store: Path, on_step: Callable[[int], None] = lambda done: None, device: str = "cpu"
) -> dict[str, str]:
    """Makes a job's material below `store` unless it is there; returns its digests. `on_step` follows pretraining."""
    name = name_of(job)
    if not name:
        return {}
    folder = store / name
    folder.mkdir(parents=True, exist_ok=True)
    if job.data == "documentation":
        if not (folder / BLOCKS).exists():
            make_blocks(job.setting, folder)
        return {"documentation": _digest(load_file(folder / BLOCKS))}
    if not (folder / _TEXTS).exists():
        _save(_tokens({kind: load(kind) for kind in KINDS}, job.setting), folder / _TEXTS)
    if job.pretrained and not (folder / _START).exists():
        _save(_pretrain(job.setting, load_file(folder / _TEXTS), on_step, device), folder / _START)
    parts = {"texts": _TEXTS, "start": _START}
    return {name: _digest(load_file(folder / file)) for name, file in parts.items() if (folder / file).exists()}


class Material:
    """What one job needs, in a worker."""

    def __init__(self, job: Job, store: Path) -> None:
        self._job, folder = job, store / name_of(job)
        self._folder = folder
        files = {"texts": _TEXTS, "documentation": BLOCKS}
        self._tokens = load_file(folder / files[job.data]) if job.data in files else {}

    def model(self) -> nn.Module:
        """The model that the run begins with: the pretrained one, a saved one, or a fresh one."""
        if self._job.data == "documentation":
            return AutoModelForCausalLM.from_pretrained(self._folder / MODEL)
        model = fresh_model(self._job.setting, self._job.seed)
        if self._job.pretrained:
            start = load_file(self._folder / _START)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(start[name])
        return model

    def batches(self, accelerator: Accelerator, site: int) -> Iterator[Batch]:
        """This site's, on its device, without end."""
        job, setting = self._job, self._job.setting
        if job.data == "documentation":
            # Prepared here and now: GeoSync wants to see it.
            data = [{name: row[0] for name, row in as_batch(block[None]).items()} for block in self._tokens["train"]]
            loader = accelerator.prepare(DataLoader(data, batch_size=setting.batch, shuffle=True, drop_last=True))
            return chain.from_iterable(repeat(loader))
        if job.data == "random":
            found = random_tokens(setting, site)
        else:
            mine = (job.kinds[site],) if job.own else job.kinds
            found = random_places([self._tokens[f"{k}.train"] for k in mine], setting, setting.batch, job.seed, site)
        return ({name: value.to(accelerator.device) for name, value in batch.items()} for batch in found)

    def held_out(self) -> torch.Tensor | None:
        """Examples to evaluate on; None where no loss counts."""
        if self._job.data == "random":
            return None
        if self._job.data == "documentation":
            return self._tokens["validation"].long()
        return evaluation_blocks([self._tokens[f"{kind}.held_out"] for kind in self._job.kinds], self._job.setting)


def make_blocks(setting: Setting, folder: Path) -> None:
    """Writes the demo's blocks of Python's documentation, first weights and tokenizer into `folder`."""
    import datasets
    import transformers

    from recipes.data import build_blocks, load_default_corpus
    from recipes.model import fresh_model
    from recipes.tokenizer import train_byte_level_bpe

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    corpus = load_default_corpus(_DEMO_HELD_OUT_PERCENT)
    tokenizer = train_byte_level_bpe(corpus.train, setting.vocabulary)
    blocks = {
        split: torch.tensor(build_blocks(texts, tokenizer, setting.block)["input_ids"], dtype=torch.int32)
        for split, texts in {"train": corpus.train, "validation": corpus.validation}.items()
    }
    transformers.set_seed(_DEMO_SEED)
    fresh_model("gpt2", setting.sizes, tokenizer).save_pretrained(folder / MODEL)
    tokenizer.save_pretrained(folder / MODEL)
    _save(blocks, folder / BLOCKS)


def _tokens(texts: Mapping[str, Text], setting: Setting) -> dict[str, torch.Tensor]:
    parts = {f"{kind}.{part}": getattr(text, part) for kind, text in texts.items() for part in _PARTS}
    joined = {name: "\n\n".join(documents) for name, documents in parts.items() if documents}
    if setting.vocabulary != BYTES:
        raise ValueError(f"texts are bytes, {BYTES} tokens; a model of {setting.vocabulary} was asked for.")
    encoded = {name: text.encode("utf-8", errors="ignore") for name, text in joined.items()}
    return {name: torch.frombuffer(bytearray(text), dtype=torch.uint8) for name, text in encoded.items()}


def _pretrain(
    setting: Setting, texts: Mapping[str, torch.Tensor], on_step: Callable[[int], None], device: str
) -> dict[str, torch.Tensor]:
    # Threads wait for one another at every layer: one that has to share its core holds up all.
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - round(os.getloadavg()[0])))
    model = fresh_model(setting, _PRETRAINING_SEED).to(device)
    optimizer = make_optimizer(model, setting, setting.pretraining_rate)
    scheduler = make_scheduler(optimizer, setting, setting.pretraining_steps)
    earlier = [texts[f"{kind}.earlier"] for kind in PRETRAINED_ON]
    batches = random_places(earlier, setting, setting.pretraining_batch, _PRETRAINING_SEED, site=0)
    for step in range(setting.pretraining_steps):
        model(**{name: value.to(device) for name, value in next(batches).items()}).loss.backward()
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
    temporary.replace(path)


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].numpy().tobytes())
    return total.hexdigest()
