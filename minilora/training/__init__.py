"""Data, optimizers and the training loop."""

from minilora.training.data import (
    Batches,
    Example,
    Problem,
    Record,
    encode_record,
    encode_records,
    prompt_messages,
    read_records,
)
from minilora.training.loop import DivergedError, History, TrainingConfig, evaluate, fit
from minilora.training.optim import SGD, AdamW, clip_grad_norm_, schedule

__all__ = [
    "SGD",
    "AdamW",
    "Batches",
    "DivergedError",
    "Example",
    "History",
    "Problem",
    "Record",
    "TrainingConfig",
    "clip_grad_norm_",
    "encode_record",
    "encode_records",
    "evaluate",
    "fit",
    "prompt_messages",
    "read_records",
    "schedule",
]
