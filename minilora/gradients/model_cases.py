"""Gradient-check cases for layers, blocks and the whole Transformer, tied and untied."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.autograd import IGNORE, Tensor
from minilora.autograd import functional as F
from minilora.backend import Array
from minilora.gradients.case import Case
from minilora.nn.layers import Embedding, Linear, RMSNorm
from minilora.nn.module import Module
from minilora.nn.transformer import (
    MLP,
    Attention,
    Block,
    Positions,
    Transformer,
    TransformerConfig,
)

PROBED = 12
"""Elements probed one by one in each parameter of a model; its random directions see the rest."""

BATCH, TIME = 2, 5


def tiny_config(tied: bool = True) -> TransformerConfig:
    """Two layers with grouped heads and no two sizes alike."""
    return TransformerConfig(
        vocab_size=11,
        hidden_size=6,
        intermediate_size=7,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=4,
        max_position_embeddings=16,
        rms_norm_eps=1e-3,
        tie_word_embeddings=tied,
    )


def randomise_(module: Module, rng: np.random.Generator) -> Module:
    """Give every Parameter float64 numbers of useful size: N(0, 1/in), and norms 1 +- 0.2.

    Fresh weights are too alike for a check: norms of exactly 1 and projections near 0 hide terms.
    """
    for parameter in module.parameters():
        draw = rng.standard_normal(parameter.shape)
        fan_in = parameter.shape[-1]
        parameter.data = draw / fan_in**0.5 if parameter.ndim > 1 else 1.0 + 0.2 * draw
    return module


def token_batch(rng: np.random.Generator, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """ids and labels (B, T) with repeated tokens and some labels IGNORE."""
    ids, labels = rng.integers(0, vocab, (2, BATCH, TIME))
    labels[rng.random(labels.shape) < 0.3] = IGNORE
    labels[0, 0], labels[-1, -1] = 1, IGNORE
    return ids, labels


def module_case(
    op: str,
    variant: str,
    module: Module,
    target: Callable[..., Tensor],
    inputs: dict[str, np.ndarray] | None = None,
    **constants: object,
) -> Case:
    """A Case over the trained Parameters of `module`, and over inputs where there are any."""
    return Case(op, variant, target, inputs or {}, constants, module, PROBED)


def apply(layer: Module, x: Tensor) -> Tensor:
    """A layer's output for x."""
    return layer(x)


def loss_of(model: Transformer, ids: Array, labels: Array) -> Tensor:
    """A model's mean loss."""
    return model.loss(ids, labels)


def _mix(layer: Module, x: Tensor, cos: Array, sin: Array, start: Array) -> Tensor:
    """The output for x of a layer that looks at positions."""
    return layer(x, Positions(cos, sin, start), 0)


def _look_up(module: Module, ids: Array) -> Tensor:
    """An embedding's rows, or a model's logits."""
    return module(ids)


def model_cases(seed: int = 0) -> list[Case]:
    """Every layer type and the whole Transformer, with numbers drawn from `seed`."""
    rng, config = np.random.default_rng([seed, 1]), tiny_config()
    ids, labels = token_batch(rng, config.vocab_size)
    x = {"x": rng.standard_normal((BATCH, TIME, config.hidden_size))}
    heads = config.num_attention_heads
    tables = F.rope_tables(np.arange(TIME), config.head_dim, config.rope_theta, heads)
    cos, sin = (table.astype(np.float64) for table in tables)
    places = {"cos": cos, "sin": sin, "start": np.array([0, 2])}

    def new(make: Callable[..., Module], *sizes: object, **options: object) -> Module:
        return randomise_(make(*sizes, **options), rng)

    cases = [
        module_case("Linear", "", new(Linear, 6, 7, rng, bias=True), apply, x),
        module_case("RMSNorm", "", new(RMSNorm, 6, 0.1), apply, x),
        module_case("Embedding", "", new(Embedding, 11, 6, rng), _look_up, ids=ids),
        module_case("Attention", "", new(Attention, config, rng), _mix, x, **places),
        module_case("MLP", "", new(MLP, config, rng), apply, x),
        module_case("Block", "", new(Block, config, rng), _mix, x, **places),
    ]
    for tied in (True, False):
        head, size = "tied" if tied else "untied", tiny_config(tied)
        model, other = new(Transformer, size, rng), new(Transformer, size, rng)
        cases += [
            module_case("Transformer", f"{head}, logits", model, _look_up, ids=ids),
            module_case("Transformer", f"{head}, loss", other, loss_of, ids=ids, labels=labels),
        ]
    return cases
