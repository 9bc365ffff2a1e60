"""What the LoRA tests do to the tiny decoder of tests/tiny.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from minilora.lora import Attachment
from minilora.nn import Transformer
from tests import tiny as tiny_models
from tests.tiny import IDS, LABELS


def make_model(dtype=np.float32, layers: int = 3, seed: int = 0, **changes) -> Transformer:
    return tiny_models.model(seed, dtype=dtype, num_hidden_layers=layers, **changes)


def randomise(handle: Attachment, seed: int = 1) -> Attachment:
    """Random non-zero A and B, as after training."""
    rng = np.random.default_rng(seed)
    for layer in handle.layers.values():
        for parameter in (layer.lora_A, layer.lora_B):
            parameter.data = (rng.standard_normal(parameter.shape) * 0.4).astype(parameter.dtype)
    return handle


def snapshot(model: Transformer) -> SimpleNamespace:
    """Everything a refused operation must leave alone."""
    return SimpleNamespace(
        names=[name for name, _ in model.named_parameters()],
        modules=[(name, type(module)) for name, module in model.named_modules()],
        arrays={name: p.data for name, p in model.named_parameters()},
        bytes={name: p.data.tobytes() for name, p in model.named_parameters()},
        requires_grad=[p.requires_grad for p in model.parameters()],
        writeable=[p.data.flags.writeable for p in model.parameters()],
    )


def same(model: Transformer, before: SimpleNamespace) -> bool:
    """Whether the model is exactly what it was, down to the array objects."""
    now = snapshot(model)
    identical = all(now.arrays[n] is before.arrays.get(n) for n in now.arrays)
    return identical and all(
        getattr(now, key) == getattr(before, key)
        for key in ("names", "modules", "bytes", "requires_grad", "writeable")
    )


@pytest.fixture
def tiny() -> SimpleNamespace:
    """The helpers, for tests that cannot import this file."""
    return SimpleNamespace(
        ids=IDS, labels=LABELS, model=make_model, randomise=randomise, snapshot=snapshot, same=same
    )
