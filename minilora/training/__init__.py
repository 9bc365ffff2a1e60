"""Batches, optimizers and the training loop."""

from minilora.training.batches import Batches
from minilora.training.config import TrainingConfig
from minilora.training.heldout import evaluate
from minilora.training.history import History
from minilora.training.loop import fit
from minilora.training.optim import SGD, AdamW, clip_grad_norm_, schedule
from minilora.training.step import DivergedError

__all__ = [
    "SGD",
    "AdamW",
    "Batches",
    "DivergedError",
    "History",
    "TrainingConfig",
    "clip_grad_norm_",
    "evaluate",
    "fit",
    "schedule",
]
