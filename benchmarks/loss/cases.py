# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What is compared with what, in the order in which it is worth knowing."""

from dataclasses import dataclass, field
from functools import partial

from benchmarks.loss.setting import LARGE_RATES, RATES

_TEXTS = {
    ("iid", 2): ("documentation",),
    ("own", 2): ("documentation", "packages"),
    ("iid", 4): ("documentation", "source", "headers", "packages"),
    ("own", 4): ("documentation", "source", "headers", "packages"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A job for which methods are compared, with DDP above all."""

    task: str
    """"finetune", from weights pretrained on other text, or "scratch"."""
    sites: int
    split: str
    """"iid": every site draws from all texts alike; "own": site i draws from text i only."""
    large: bool = False
    """The model and the job of `setting.LARGE`."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Kinds of text; all of them are evaluated on."""
        return _TEXTS[self.split, self.sites]

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates that every method is tried at."""
        return LARGE_RATES if self.large else RATES[self.task]

    @property
    def name(self) -> str:
        return f"{self.task}-{self.sites}-{self.split}" + ("-large" if self.large else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A method with its settings, for one group."""

    group: Group
    method: str
    """"ddp", "local_sgd" (accelerate's) or "geo"."""
    name: str
    """For people; unique within the group."""
    period: int = 1
    """Steps between averages of the same weights, H."""
    config: dict | None = field(default=None, hash=False)
    """geo_accel's settings."""

    @property
    def label(self) -> str:
        """Unique."""
        return f"{self.group.name}/{self.name}"

    @property
    def codec(self) -> str:
        return self.config["compression"]["codec"] if self.config else "fp32"

    @property
    def delay(self) -> int:
        """Steps from the start of a transfer to its application."""
        return self.config["sync"]["delay"] if self.config else 0

    @property
    def outer(self) -> tuple[float, float]:
        """Learning rate and momentum of the outer step."""
        outer = self.config["sync"]["outer"] if self.config else "mean"
        return (1.0, 0.0) if outer == "mean" else (outer["lr"], outer["momentum"])


def ddp(group: Group) -> Case:
    """The reference: gradients averaged in every step."""
    return Case(group=group, method="ddp", name="DDP")


def local_sgd(group: Group, period: int) -> Case:
    """accelerate's LocalSGD: all weights averaged every `period` steps, nothing else overlaps."""
    return Case(group=group, method="local_sgd", name=f"LocalSGD H={period}", period=period)


def geo(
    group: Group,
    period: int,
    codec: str = "int8",
    *,
    outer: tuple[float, float] | None = None,
    delay: int = 1,
    **compression: object,
) -> Case:
    """geo_accel in mode "stream" with everything fixed; `compression` are further settings of a sparse codec."""
    name = f"geo H={period} {codec}"
    if "ratio" in compression:
        name += f" {100 * compression['ratio']:g} %"
    if compression.get("residual"):
        name += {"weights": ", rest in weights", "buffer": ", rest in buffer", "none": ", rest lost"}[
            compression["residual"]
        ]
    if compression.get("overlap_weighting"):
        name += ", overlap weighted"
    if outer is not None:
        name += f", outer ({outer[0]:g}, {outer[1]:g})"
    if delay != 1:
        name += f", delay {delay}"
    step = "mean" if outer is None else {"type": "nesterov", "lr": outer[0], "momentum": outer[1]}
    config = {
        "sync": {"mode": "stream", "period": period, "schedule": "stream", "delay": delay, "outer": step},
        "compression": {"codec": codec, **compression},
    }
    return Case(group=group, method="geo", name=name, period=period, config=config)


def sparse(group: Group, codec: str, ratio: float, **how: object) -> Case:
    """A sparse codec at H=8, with what is not sent left in the weights unless told otherwise."""
    settings = {"residual": "weights", "overlap_weighting": False, **how}
    return geo(group, 8, codec, ratio=ratio, **settings)


_OUTER = {
    2: ((0.9, 0.3),),
    4: ((0.9, 0.3), (1.0, 0.3)),
    8: ((0.9, 0.5), (0.8, 0.3)),
    16: ((0.8, 0.6), (0.9, 0.3), (1.0, 0.5)),
    32: ((0.8, 0.6), (0.7, 0.8)),
}


def parts() -> dict[str, list[Case]]:
    """All cases by part, most important first. Each part has its DDP; a case in two parts is trained once."""
    tuned, fresh = (Group(task=task, sites=2, split="iid") for task in ("finetune", "scratch"))
    return {
        "finetune": _periods(tuned, _OUTER),
        "scratch": _periods(fresh, {period: pairs[:1] for period, pairs in _OUTER.items()}),
        "codecs": [
            ddp(tuned),
            geo(tuned, 8),
            *(geo(tuned, 8, codec) for codec in ("bf16", "int4", "int2")),
            sparse(tuned, "topk", 0.05),
            sparse(tuned, "topk", 0.01),
            sparse(tuned, "randk", 0.05),
            *(geo(tuned, 8, delay=delay) for delay in (2, 4, 8)),
        ],
        "four-own": _four(Group(task="finetune", sites=4, split="own")),
        "four-iid": _four(Group(task="finetune", sites=4, split="iid")),
        "two-own": _two_own(Group(task="finetune", sites=2, split="own")),
    }


def large_parts() -> dict[str, list[Case]]:
    """With the large model: whether its outer steps are better where the small one's are."""
    group = Group(task="finetune", sites=2, split="iid", large=True)
    outer = [geo(group, 12, outer=pair) for pair in ((0.8, 0.6), (0.9, 0.3))]
    return {"large": [ddp(group), geo(group, 12), *outer, geo(group, 4)]}


def quick_parts() -> dict[str, list[Case]]:
    """For a first impression in five minutes."""
    tuned = Group(task="finetune", sites=2, split="iid")
    own = Group(task="finetune", sites=4, split="own")
    return {
        "finetune": [
            ddp(tuned),
            *(geo(tuned, period) for period in (2, 8)),
            local_sgd(tuned, 8),
            geo(tuned, 8, outer=(0.9, 0.5)),
        ],
        "four-own": [ddp(own), geo(own, 8), sparse(own, "topk", 0.01)],
    }


def _periods(group: Group, outer: dict[int, tuple[tuple[float, float], ...]]) -> list[Case]:
    main = [geo(group, period) for period in (2, 4, 8, 16)]
    steps = [geo(group, period, outer=pair) for period, pairs in outer.items() for pair in pairs]
    rest = [local_sgd(group, 8), geo(group, 8, "fp32"), geo(group, 1), geo(group, 32)]
    return [ddp(group), *main, *steps, *rest]


def _four(group: Group) -> list[Case]:
    one_percent = partial(sparse, group, "topk", 0.01)
    return [
        ddp(group),
        geo(group, 8),
        *(
            one_percent(residual=residual, overlap_weighting=weighted)
            for residual in ("weights", "buffer")
            for weighted in (False, True)
        ),
        # Overlap weighting acts much like a larger outer step: without this control it proves nothing.
        *(one_percent(residual="buffer", outer=(lr, 0.0)) for lr in (2.0, 4.0)),
        one_percent(residual="none"),
        sparse(group, "randk", 0.01, residual="buffer"),
    ]


def _two_own(group: Group) -> list[Case]:
    return [ddp(group), *(geo(group, period) for period in (2, 8)), geo(group, 8, outer=(0.9, 0.5))]
