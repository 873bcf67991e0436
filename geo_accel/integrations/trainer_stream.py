# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where in its stream each rank is: what a resumed run skips in a data set without a length.

Trainer skips all batches that a checkpoint has seen within one pass. A stream that had begun its second pass then
goes on a few batches late, or with others than it would have had.
"""

import json
import logging
import sys
from pathlib import Path

from geo_accel.profile.document import write_whole
from geo_accel.sync.checkpoint import FOLDER

logger = logging.getLogger("geo_accel")


class StreamPosition:
    """Passes that are over, and batches that the one under way has given."""

    def __init__(self, own_name: str) -> None:
        """`own_name` says whose it is, by site and place: "paris.0"."""
        self._name = f"{own_name}.stream.json"
        self.passes = self.batches = 0
        self._is_stream = False

    def took(self, batches: int) -> None:
        self.batches += batches

    def end_pass(self) -> None:
        self.passes, self.batches = self.passes + 1, 0

    def save(self, checkpoint: Path) -> None:
        """Writes this rank's position beside the sync state; of a data set with a length Trainer knows it."""
        if not self._is_stream:
            return
        target = checkpoint / FOLDER
        target.mkdir(parents=True, exist_ok=True)
        record = json.dumps({"passes": self.passes, "batches": self.batches})
        write_whole(target / self._name, lambda path: path.write_text(record))

    def resume(self, checkpoint: str | None, epochs: int, batches: int, num_train_epochs: int) -> tuple[int, int]:
        """The epoch to begin with and the batches to skip in it, from what Trainer makes of the number of steps.

        Of streams alone (Trainer gives them endless epochs) Trainer does not know better. Where a checkpoint has no
        position of this rank, that is said, and Trainer's numbers stay.
        """
        self.passes, self.batches, self._is_stream = epochs, batches, num_train_epochs == sys.maxsize
        if checkpoint is None or not self._is_stream:
            return epochs, batches
        path = Path(checkpoint, FOLDER, self._name)
        try:
            record = json.loads(path.read_text())
            self.passes, self.batches = int(record["passes"]), int(record["batches"])
        except (OSError, ValueError, KeyError, TypeError):
            logger.warning(
                "geo_accel: %s does not say where this rank was in its stream; %d batches of one pass are skipped, "
                "which is exact only if that checkpoint was in its first pass.",
                path,
                batches,
            )
        return self.passes, self.batches
