"""TrainingConfig: the settings of a run."""

from __future__ import annotations

from dataclasses import dataclass

from minilora.limits import require_count, require_finite
from minilora.training.parallel import MOST_WORKERS


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a run; `workers` 0 means the recommended number of processes.

    micro_batches: pieces that each worker cuts its rows into (the same gradient in less memory);
    0 cuts them to about PIECE_TOKENS positions.
    loraplus_lr_ratio: how many times A's learning rate, which is lr, is B's (LoRA+).
    prompt_bytes: memory in which an activated adapter's prompts may stay read from pass to pass.
    clip_norm 0 and checkpoint_every, eval_every 0 switch those off. Raises ValueError naming the
    first setting that makes no sense.
    """

    steps: int
    lr: float
    schedule: str = "cosine"
    warmup: int = 0
    final_lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    micro_batches: int = 0
    workers: int = 0
    seed: int = 0
    eval_every: int = 0
    checkpoint_every: int = 0
    prompt_bytes: int = 1 << 30
    loraplus_lr_ratio: float = 1.0

    def __post_init__(self) -> None:
        require_count("steps", self.steps, 1)
        require_finite("lr", self.lr, above=True)
        require_finite("final_lr", self.final_lr)
        for i, beta in enumerate(self.betas):
            require_finite(f"betas[{i}]", beta, below=1.0)
        require_finite("weight_decay", self.weight_decay)
        require_finite("clip_norm", self.clip_norm)
        require_finite("loraplus_lr_ratio", self.loraplus_lr_ratio, above=True)
        require_count("workers", self.workers, 0, MOST_WORKERS)
        for name in (
            "warmup",
            "micro_batches",
            "seed",
            "eval_every",
            "checkpoint_every",
            "prompt_bytes",
        ):
            require_count(name, getattr(self, name), 0)
