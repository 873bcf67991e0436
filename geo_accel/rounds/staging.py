# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Moving flat buffers between the parameters' device and host memory, off the training thread's path.

On CPU the buffers are the same memory and nothing is copied twice. On CUDA snapshots and results travel through
pinned memory on a side stream; only the gather of a snapshot and the addition of a result run on the training stream.
"""

from collections.abc import Callable

import torch


class Staging:
    """Buffers for one device. Device memory is held only for what is in flight."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = None if device.type == "cpu" else torch.cuda.Stream(device)
        self._free: dict[tuple[int, ...], list[torch.Tensor]] = {}

    def take(self, *shape: int) -> torch.Tensor:
        """A host buffer (fp32, pinned where there is an accelerator); give it back with `give`."""
        free = self._free.get(shape)
        if free:
            return free.pop()
        return torch.zeros(shape, dtype=torch.float32, device="cpu", pin_memory=self._stream is not None)

    def give(self, buffer: torch.Tensor) -> None:
        self._free.setdefault(tuple(buffer.shape), []).append(buffer)

    def snapshot(self, fill: Callable[[torch.Tensor], None], host: torch.Tensor) -> Callable[[], None]:
        """Training thread: `fill` writes a device buffer that is copied to `host`. The returned call waits for it."""
        stream = self._stream
        if stream is None:
            fill(host)
            return lambda: None
        buffer = torch.zeros(host.shape, dtype=torch.float32, device=self.device)
        fill(buffer)
        training = torch.cuda.current_stream(self.device)
        stream.wait_stream(training)
        with torch.cuda.stream(stream):
            host.copy_(buffer, non_blocking=True)
            copied = stream.record_event()
        buffer.record_stream(stream)  # its memory may be used again only after the copy
        return copied.synchronize

    def upload(self, host: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Background thread: brings a result to the device. The returned call, on the training thread, gives it."""
        stream = self._stream
        if stream is None:
            return lambda: host
        with torch.cuda.stream(stream):
            buffer = host.to(self.device, non_blocking=True)
        # Waiting here costs the training thread nothing, and afterwards `host` may be used again.
        stream.synchronize()

        def ready() -> torch.Tensor:
            buffer.record_stream(torch.cuda.current_stream(self.device))
            return buffer

        return ready
