# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What all runs share, made once and kept: texts as tokens, and first weights."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from benchmarks.kit.job import BYTES, Job, Setting
from benchmarks.kit.methods import Batch, fresh_model, make_optimizer
from benchmarks.kit.texts import KINDS, PRETRAINED_ON, load

_TEXTS, _START = "texts.safetensors", "start"
BLOCKS, MODEL = "blocks.safetensors", "model"
"""The demo's: tensors `train` and `validation`, blocks by tokens; first weights and tokenizer."""
_PRETRAINING_SEED, _DEMO_SEED = 1234, 42
_DEMO_HELD_OUT_PERCENT = 10.0


def make_material(job: Job, store: Path) -> None:
    """Makes a job's material below `store` unless it is there; pretraining takes minutes."""
    folder = store / job.material
    folder.mkdir(exist_ok=True)
    transformers.utils.logging.disable_progress_bar()
    if job.data == "documentation" and not (folder / BLOCKS).exists():
        _make_blocks(job.setting, folder)
    if job.data == "texts" and not (folder / _TEXTS).exists():
        _save(_tokens(job.setting), folder / _TEXTS)
    if job.pretrained and not (folder / _START).exists():
        half = folder / f"{_START}.{os.getpid()}"
        _pretrain(job, load_file(folder / _TEXTS)).save_pretrained(half)
        half.replace(folder / _START)


class Material:
    """What one job needs, in a worker."""

    def __init__(self, job: Job, store: Path) -> None:
        self._job, self._folder = job, store / job.material
        files = {"texts": _TEXTS, "documentation": BLOCKS}
        self._tokens = load_file(self._folder / files[job.data]) if job.data in files else {}

    def model(self) -> nn.Module:
        """The model that the run begins with: the pretrained one, a saved one, or a fresh one."""
        if self._job.pretrained or self._job.data == "documentation":
            return AutoModelForCausalLM.from_pretrained(self._folder / (_START if self._job.pretrained else MODEL))
        return fresh_model(self._job.setting, self._job.seed)

    def batches(self, accelerator: Accelerator, site: int) -> Iterator[Batch]:
        """This site's, on its device, without end."""
        job, setting = self._job, self._job.setting
        if job.data == "documentation":
            # Prepared here and now: GeoSync wants to see it.
            data = [{"input_ids": block.long(), "labels": block.long()} for block in self._tokens["train"]]
            loader = accelerator.prepare(DataLoader(data, batch_size=setting.batch, shuffle=True, drop_last=True))
            return chain.from_iterable(repeat(loader))
        if job.data == "random":
            texts = [torch.randint(setting.vocabulary, (1 << 20,), generator=torch.Generator().manual_seed(site))]
        else:
            texts = [self._tokens[f"{kind}.train"] for kind in ((job.kinds[site],) if job.own else job.kinds)]
        found = random_places(texts, setting.block, setting.batch, 1000 * job.seed + site)
        return ({name: value.to(accelerator.device) for name, value in batch.items()} for batch in found)

    def held_out(self) -> torch.Tensor | None:
        """Examples to evaluate on, of each kind of text equally many, spread evenly; None where no loss counts."""
        job, setting = self._job, self._job.setting
        if job.data != "texts":
            return self._tokens["validation"].long() if job.data == "documentation" else None
        each, rows = setting.evaluation_blocks // len(job.kinds), []
        for text in (self._tokens[f"{kind}.held_out"] for kind in job.kinds):
            places = torch.linspace(0, len(text) - setting.block, each).long().tolist()
            rows += [text[place : place + setting.block] for place in places]
        return torch.stack(rows).long()


def random_places(texts: Sequence[torch.Tensor], block: int, batch: int, seed: int) -> Iterator[Batch]:
    """Examples of `block` tokens at random places of random `texts`, flat tensors; equal for equal seeds."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        kinds = torch.randint(len(texts), (batch,), generator=generator)
        places = torch.rand(batch, generator=generator, dtype=torch.float64)
        rows = []
        for kind, place in zip(kinds.tolist(), places.tolist(), strict=True):
            start = int(place * (len(texts[kind]) - block))
            rows.append(texts[kind][start : start + block])
        tokens = torch.stack(rows).long()
        yield {"input_ids": tokens, "labels": tokens}


def _make_blocks(setting: Setting, folder: Path) -> None:
    """Writes the demo's blocks of Python's documentation, first weights and tokenizer into `folder`."""
    import datasets

    from recipes.data import build_blocks, load_default_corpus
    from recipes.model import fresh_model
    from recipes.tokenizer import train_byte_level_bpe

    datasets.disable_progress_bars()
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


def _tokens(setting: Setting) -> dict[str, torch.Tensor]:
    assert setting.vocabulary == BYTES
    parts = {f"{kind}.{part}": documents for kind in KINDS for part, documents in load(kind).items()}
    joined = {name: "\n\n".join(documents).encode("utf-8", "ignore") for name, documents in parts.items() if documents}
    return {name: torch.frombuffer(bytearray(text), dtype=torch.uint8) for name, text in joined.items()}


def _pretrain(job: Job, texts: Mapping[str, torch.Tensor]) -> nn.Module:
    setting, device = job.setting, "cuda" if job.place == "gpu" else "cpu"
    # Threads wait for one another at every layer: one that has to share its core holds up all.
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - round(os.getloadavg()[0])))
    model = fresh_model(setting, _PRETRAINING_SEED).to(device)
    optimizer, scheduler = make_optimizer(model, setting, setting.pretraining_rate, setting.pretraining_steps)
    earlier = [texts[f"{kind}.earlier"] for kind in PRETRAINED_ON]
    batches = random_places(earlier, setting.block, 2 * setting.batch, 1000 * _PRETRAINING_SEED)
    for _ in range(setting.pretraining_steps):
        model(**{name: value.to(device) for name, value in next(batches).items()}).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), setting.clip)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return model


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    save_file(tensors, temporary)
    temporary.replace(path)
