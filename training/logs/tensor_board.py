"""TensorBoard event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

_FILES = "events.out.tfevents.*"


class TensorBoard:
    """Event files in a folder. An interrupted run goes on in a new file, which hides what the older ones hold from its
    first step on."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        from tensorboardX import SummaryWriter

        if purge_step is None:
            for old in folder.glob(_FILES):
                old.unlink()
        # The library names a file by the second only: one that goes on in the same second would overwrite the first.
        number = f".{len(list(folder.glob(_FILES))):04d}"
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, filename_suffix=number, write_to_disk=True)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, step: int, density_m: npt.NDArray[np.float32]) -> None:
        """log10 of the firing rates; latents that never fired count as 1e-7."""
        self._writer.add_histogram("log10_density", np.log10(np.maximum(density_m, 1e-7)), step)

    def position(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
