# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Whether all ranks were given the same things, asked once before training."""

import hashlib
from collections.abc import Mapping

import torch
from accelerate import PartialState
from accelerate.utils import gather


def require_agreement(facts: Mapping[str, str]) -> None:
    """Compare `facts` (what it is -> a text that must be equal everywhere) between all ranks. Collective.

    Raises ValueError on every rank, naming the first fact that differs and the ranks that do not agree with rank 0.
    """
    state = PartialState()
    if state.num_processes == 1 or not facts:
        return
    own = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") for text in facts.values()]
    everyone = gather(torch.tensor(own, dtype=torch.int64, device=state.device)).view(state.num_processes, -1)
    for column, what in enumerate(facts):
        differing = [rank for rank, row in enumerate(everyone.tolist()) if row[column] != everyone[0, column].item()]
        if differing:
            ranks = ", ".join(map(str, differing))
            raise ValueError(
                f"{what} of rank(s) {ranks} differs from that of rank 0: {ADVICE.get(what, 'make it equal.')}"
            )


ADVICE = {
    "the tokenizer": "use one version of Python and of the files everywhere, or pass --tokenizer_name.",
    "the training data": "give every site the same data, or pass --private_data if that is intended.",
    "the evaluation data": "every site must be judged by the same text.",
    "the block size": "pass the same --block_size everywhere.",
}
"""What to do about each fact that the recipes compare."""
