"""A training run that lasts a second; tests run it here and in processes that they kill.

As a program, with the arguments OUT VARIANT RESUME PAUSE, where PAUSE is
seconds a step: python -m tests.training.tinyrun
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from minilora.lora import LoRAConfig, attach
from minilora.nn import Transformer
from minilora.text import Example
from minilora.training import AdamW, Batches, TrainingConfig, fit
from tests import tiny

VOCAB, STEPS = 13, 24
VARIANTS = {
    "full": dict(workers=1, schedule="linear", weight_decay=0.1),
    "lora with dropout, two workers": dict(workers=2, micro_batches=2),
}


def model(adapted: bool = False, dropout: float = 0.3, **changes) -> Transformer:
    shape = dict(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, initializer_range=0.1)
    made = tiny.model(**{**shape, **changes})
    if adapted:
        config = LoRAConfig(r=3, target_modules="all-linear", lora_dropout=dropout)
        attach(made, config, np.random.default_rng(1))
    return made


def copy_examples(count: int = 30) -> list[Example]:
    return tiny.copy_examples(count, vocab=VOCAB)


def run(out: Path, variant: str, resume: bool = False, pause: float = 0.0) -> None:
    """Train with a checkpoint every 5 steps, and leave all numbers in OUT/final.npz."""
    made = model(adapted=variant != "full")
    config = TrainingConfig(
        STEPS, 0.01, warmup=3, seed=4, checkpoint_every=5, eval_every=1, **VARIANTS[variant]
    )
    optimizer = AdamW(made.named_parameters(), weight_decay=config.weight_decay)

    def on_eval(step: int) -> dict:
        time.sleep(pause)
        return {"seen": step}

    fit(
        made, Batches(copy_examples(), 4, seed=3), config, optimizer=optimizer, out_dir=out,
        resume=resume, on_eval=on_eval, progress=False,
    )  # fmt: skip
    np.savez(Path(out) / "final.npz", **made.state_dict(), **optimizer.state_dict())


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "resume", float(sys.argv[4]))
