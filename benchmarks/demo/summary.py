# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""`summary.json`: every figure of the demo, and where it was measured."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone

from benchmarks.demo.course import Course
from benchmarks.demo.figures import Figures, targets
from benchmarks.demo.material import Material
from benchmarks.demo.setting import METHODS, Setting


def summarise(
    setting: Setting,
    material: Material,
    course: Course,
    figures: Mapping[str, Figures],
    place: Mapping[str, object],
    duration_s: float,
) -> dict:
    """The summary, ready for JSON; `place` is what `machine` said when the demo began.

    Seconds, bytes, nats per token; `*_mbps` in 10**6 bits per second.
    """
    efficiency = {method: figures[method].efficiency for method in METHODS}
    geo = course.runs["geo"].recordings[0]["geo"]
    checks = course.runs["ddp"].recordings[0]["checks"]
    return {
        "step_s": {method: figures[method].step_s for method in METHODS},
        "efficiency": efficiency,
        "eval_loss": {method: figures[method].eval_loss for method in METHODS},
        "wan_bytes_per_step": {method: figures[method].wan_bytes_per_step for method in METHODS},
        "plan": course.plan,
        "speedup_over_ddp": {method: value / efficiency["ddp"] for method, value in efficiency.items()},
        "speedup_over_local_sgd": {method: value / efficiency["local_sgd"] for method, value in efficiency.items()},
        "targets": [{**asdict(one), "held": one.held} for one in targets(figures, checks)],
        "ddp_eval_loss_by_step": checks,
        "step_s_quartiles": {method: [figures[method].low_s, figures[method].high_s] for method in METHODS},
        "efficiency_by_turn": {method: figures[method].efficiencies for method in METHODS},
        "geo": {key: value for key, value in geo.items() if key != "plan"},
        "setting": {
            **asdict(setting),
            "steps": len(course.runs["geo"].recordings[0]["losses"]),
            "tokens_per_step": setting.tokens_per_step,
            "parameters": material.parameters,
            "train_blocks": material.train_blocks,
            "eval_blocks": material.eval_blocks,
        },
        "runs": [
            {
                "method": run.method,
                "began_s": run.began,
                "duration_s": run.duration_s,
                "link_mbps": run.link_mbps,
            }
            for run in sorted((*course.runs.values(), course.turns), key=lambda run: run.began)
        ],
        "notes": course.notes,
        "machine": dict(place),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.demo",
        "duration_s": duration_s,
    }
