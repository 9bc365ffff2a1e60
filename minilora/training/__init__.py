"""Batches, optimizers and the training loop."""

from minilora.training.batches import Batches
from minilora.training.loop import DivergedError, History, TrainingConfig, evaluate, fit
from minilora.training.optim import SGD, AdamW, clip_grad_norm_, schedule

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
