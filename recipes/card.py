# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The README.md that the recipes write beside a trained model."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path


def write_card(
    output_dir: str | Path,
    *,
    base_model: str | None,
    metrics: Mapping[str, object],
    summary: Mapping[str, object] | None,
) -> None:
    """Write a model card into `output_dir`: metrics, and how the sites were kept in step.

    `base_model` is the hub name or directory that was fine-tuned, None for a fresh model; `summary` is what geo_accel
    says about the run, None where it was off.
    """
    header = ["library_name: transformers", "pipeline_tag: text-generation", "tags: [geo_accel]"]
    if base_model is not None:
        header.append(f"base_model: {json.dumps(base_model)}")
    lines = ["---", *header, "---", f"# {Path(output_dir).resolve().name}", ""]
    lines.append(f"Fine-tuned from `{base_model}`." if base_model else "Trained from random weights.")
    if metrics:
        lines += ["", "## Metrics", "", *_table(metrics)]
    if summary:
        lines += ["", "## Training across sites with geo_accel", "", *_table(summary)]
    Path(output_dir, "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def geo_summary(handle: object) -> Mapping[str, object] | None:
    """What a geo_accel handle says about its run; None if it was off or says nothing."""
    summary = getattr(handle, "summary", None)
    return (summary() or None) if callable(summary) else None


def _table(values: Mapping[str, object]) -> list[str]:
    rows = [f"| {name} | {text} |" for name, text in _rows(values)]
    return ["| what | value |", "|---|---|", *rows]


def _rows(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts; what is nested deeper than a list of plain values is for machines and left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            if all(isinstance(item, (str, int, float)) for item in value):
                yield prefix + name, ", ".join(map(_text, value))
        elif value is not None:
            yield prefix + name, _text(value)


def _text(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
