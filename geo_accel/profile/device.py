# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where something is computed: the choice of a command's `--device`, and what the device is called.

Commands take their choices from here before they need torch, which takes seconds to import.
"""

import contextlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
"""What `--device` may say; "auto" is an accelerator where there is one."""


def choose_device(wanted: str) -> "torch.device":
    """One of `DEVICES` as a device. Raises ValueError for "cuda" where torch sees no accelerator."""
    import torch

    found = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and found == "cpu":
        raise ValueError("--device cuda: torch sees no accelerator here; use cpu")
    return torch.device(found if wanted == "auto" else wanted)


def device_name(device: "torch.device") -> str:
    """For people."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def processor_name() -> str:
    """What the machine calls its processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()
