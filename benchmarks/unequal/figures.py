# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From recordings to figures: losses of the averaged model over seconds, and the time to the baseline's last loss."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.loss.material import Material
from benchmarks.loss.setting import FULL
from benchmarks.loss.training import evaluation_blocks, fresh_model, summed_loss
from benchmarks.unequal.setting import BASELINE, GROUP, METHODS, UPLINKS

HEADINGS = ("method", "sends", "exchange", "H", "step s", "loss", "s to target", "speed", "sent after s")


def curves(material: Path, folder: Path, on_point: Callable[[], None]) -> dict[str, list[tuple[float, float]]]:
    """By method, seconds on the slowest site and held-out loss of the model averaged over sites, from the start on."""
    sites, found = recordings(folder), {}
    start = Material.read(material)
    blocks = evaluation_blocks(start.of("held_out", GROUP.texts), FULL)
    model = fresh_model(FULL, seed=0)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(start.start[name])
    first = summed_loss(model, blocks) / len(blocks)
    for place, name in enumerate(METHODS):
        weights = [load_file(folder / f"{place}-{site}.safetensors") for site in range(len(UPLINKS))]
        found[name] = [(0.0, first)]
        for step in sorted(map(int, weights[0])):
            average = torch.stack([one[str(step)] for one in weights]).mean(0)
            torch.nn.utils.vector_to_parameters(average, model.parameters())
            found[name].append((seconds(sites, name, step), summed_loss(model, blocks) / len(blocks)))
            on_point()
    return found


def recordings(folder: Path) -> list[dict]:
    """What each site wrote."""
    return [json.loads((folder / f"rank-{site}.json").read_text()) for site in range(len(UPLINKS))]


def seconds(sites: list[dict], method: str, step: int) -> float:
    """From the first step to the end of `step` on the slowest site."""
    return max(site[method]["boundaries"][step] - site[method]["boundaries"][0] for site in sites)


def compare(sites: list[dict], losses: dict[str, list[tuple[float, float]]]) -> list[dict]:
    """One row per method; `losses` are as `curves` returns them."""
    target, rows = losses[BASELINE][-1][1], []
    for method, curve in losses.items():
        runs = [site[method] for site in sites]
        steps = len(runs[0]["boundaries"]) - 1
        rows.append(
            {
                "method": method,
                "plan": runs[0].get("plan"),
                "step_s": seconds(sites, method, steps) / steps,
                "loss": curve[-1][1],
                "to_target_s": reach(curve, target),
                "sending_s": [run["sending_s"] for run in runs] if "sending_s" in runs[0] else [],
                "curve": curve,
            }
        )
    baseline = next(row for row in rows if row["method"] == BASELINE)
    for row in rows:
        row["speedup"] = baseline["to_target_s"] / row["to_target_s"] if row["to_target_s"] else None
    return rows


def reach(curve: list[tuple[float, float]], target: float) -> float | None:
    """Seconds to `target`, on straight lines between the curve's points; None where it ends above."""
    for (before, higher), (after, lower) in pairwise(curve):
        if lower <= target:
            return before + (after - before) * (higher - target) / (higher - lower)
    return None


def cells(row: dict) -> tuple[str, ...]:
    """A row of the table, as text."""
    plan, reached = row["plan"], row["to_target_s"]
    sends = ("", "", "")
    if plan is not None:
        exchange = plan["exchange"] + (f" (site {plan['hub']})" if plan["exchange"] == "hub" else "")
        sends = (plan["words"], exchange, str(plan["period"]))
    return (
        row["method"],
        *sends,
        f"{row['step_s']:.3f}",
        f"{row['loss']:.4f}",
        "never" if reached is None else f"{reached:.1f}",
        "" if reached is None else f"{row['speedup']:.2f} ×",
        " ".join(f"{one:.2f}" for one in row["sending_s"]),
    )
