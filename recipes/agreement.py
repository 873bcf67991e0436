# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Whether all ranks of all sites were given the same things, asked once before training."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from accelerate import PartialState
from accelerate.utils import gather

from geo_accel.integrations.session import Session


def everyones(own: Sequence[int], session: Session | None, what: str) -> dict[str, list[int]]:
    """The numbers that each rank calls its `own`, by what it is called. Collective.

    Of this job's ranks, or with a `session` of a job per site, of all sites, which hear what it is about (`what`).
    """
    if session is not None:
        answers = session.control.gather(what, list(own))
        return {session.control.name_of(rank): answer for rank, answer in enumerate(answers)}
    state = PartialState()
    if state.num_processes == 1:
        return {"rank 0": list(own)}
    gathered = gather(torch.tensor(own, dtype=torch.int64, device=state.device)).view(state.num_processes, -1)
    return {f"rank {rank}": row for rank, row in enumerate(gathered.tolist())}


def require_agreement(facts: Mapping[str, str], session: Session | None = None) -> None:
    """Compare `facts` (what it is -> a text that must be equal everywhere) as `everyones` does. Collective.

    Raises ValueError on every rank, naming the first fact that differs and the ranks that do not agree with the first.
    """
    if not facts:
        return
    own = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") for text in facts.values()]
    told = everyones(own, session, "comparing what the sites were given")
    first = next(iter(told))
    for column, what in enumerate(facts):
        differing = [name for name, row in told.items() if row[column] != told[first][column]]
        if differing:
            raise ValueError(
                f"{what} of {', '.join(differing)} differs from that of {first}: {ADVICE.get(what, 'make it equal.')}"
            )


ADVICE = {
    "the tokenizer": "use one version of Python and of the files everywhere, or pass --tokenizer_name.",
    "the training data": "give every site the same data, or pass --private_data if that is intended.",
    "the evaluation data": "every site must be judged by the same text.",
    "the block size": "pass the same --block_size everywhere.",
    "the number of steps": "pass the same --max_train_steps or --num_train_epochs everywhere.",
    "when to save": "pass the same --checkpointing_steps everywhere.",
    "where to resume from": "give every site its own checkpoint of the same step, or none of them any.",
}
"""What to do about each fact that the recipes compare."""
