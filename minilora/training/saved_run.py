"""SavedRun: what a run leaves in its folder, its history and checkpoints, and where it goes on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from minilora.nn import Transformer
from minilora.storage import fingerprint
from minilora.training.batches import Batches
from minilora.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from minilora.training.config import TrainingConfig
from minilora.training.history import History
from minilora.training.optim import Optimizer


def run_settings(
    model: Transformer, batches: Batches, config: TrainingConfig, optimizer: Optimizer, workers: int
) -> dict:
    """What must be equal for a checkpoint to continue this run; JSON-ready."""
    frozen = {n: p.data for n, p in model.named_parameters() if not p.requires_grad}
    data = {
        key: np.concatenate([getattr(example, key) for example in batches.examples])
        for key in ("ids", "labels")
    }
    adapted = [m for _, m in model.named_modules() if hasattr(m, "dropout_rng")]
    return {
        **asdict(config),
        "workers": workers,
        "examples": len(batches.examples),
        "batch_size": batches.batch_size,
        "bucket": batches.bucket,
        "data_seed": batches.seed,
        "data": fingerprint({**data, "lengths": batches.lengths}),
        "frozen": fingerprint(frozen),
        "adapter": sorted({repr(getattr(m, "config", None)) for m in adapted}),
        "optimizer": optimizer.settings(),
    }


class SavedRun:
    """The folder of a run, or none: then nothing is written, and the history is in memory alone.

    settings: as `run_settings`. keep: as in `save_checkpoint`. `last_good` is the newest
    checkpoint, None before the first.
    """

    def __init__(
        self,
        folder: Path | None,
        model: Transformer,
        optimizer: Optimizer,
        settings: dict,
        keep: int | None = 2,
    ) -> None:
        self.folder, self.model, self.optimizer = folder, model, optimizer
        self.settings, self.keep = settings, keep
        self.history = History(path=None if folder is None else folder / "history.jsonl")
        self.last_good: Path | None = None

    def begin(self, resume: bool) -> int:
        """Make the folder ready; the step to begin with, from 0.

        Raises ValueError for a new run in a folder that holds one, so that two never mix, and for
        a run to resume that has no folder or other settings.
        """
        if self.folder is None:
            if resume:
                raise ValueError("resume got no out_dir, expected the folder of the run to go on")
            return 0
        saved, start = checkpoints(self.folder / "checkpoints"), 0
        if not resume and (saved or self.history.path.exists()):
            raise ValueError(
                f"{self.folder} holds a run already; resume it or choose another folder"
            )
        if saved:
            self.last_good = saved[-1]
            start = load_checkpoint(saved[-1], self.model, self.optimizer, self.settings)
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume:
            self.history.rewind(start)
        return start

    def save(self, steps: int) -> None:
        """Write a checkpoint with `steps` steps behind it."""
        folder = self.folder / "checkpoints"
        self.last_good = save_checkpoint(
            folder, self.model, self.optimizer, self.settings, keep=self.keep, step=steps
        )
