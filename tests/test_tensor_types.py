# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""No tensor of ours takes its type or place from `torch.set_default_dtype` or `torch.set_default_device`."""

import ast
from pathlib import Path

import pytest

import geo_accel.version

PACKAGE = Path(geo_accel.version.__file__).parent
# Those that a user's defaults change; `randperm` and `randint` are whole numbers whatever the default is.
MAKERS = {"arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "zeros"}
WHOLE = {"randint", "randperm"}
OURS = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] != "testing"]


def unsaid(text: str) -> list[str]:
    """Calls that leave out `dtype` or `device`, by line."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("torch."):
            continue
        name = ast.unparse(node.func).removeprefix("torch.")
        said = {keyword.arg for keyword in node.keywords}
        needed = {"dtype", "device"} if name in MAKERS else {"device"} if name in WHOLE else set()
        if not needed <= said:
            found.append(f"line {node.lineno}: torch.{name} without {', '.join(sorted(needed - said))}")
    return found


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_tensor_says_what_it_is(path):
    assert unsaid(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "text, count",
    [
        ("torch.zeros(3)", 1),
        ("torch.zeros(3, dtype=x)", 1),
        ("torch.zeros(3, dtype=x, device=y)", 0),
        ("f.zeros()", 0),
    ],
)
def test_what_is_left_out_is_seen(text, count):
    assert len(unsaid(text)) == count
