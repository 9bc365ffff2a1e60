"""Gradient-check cases for layers, blocks and the whole Transformer, tied and untied."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.autograd import IGNORE, Tensor
from minilora.autograd import functional as F
from minilora.backend import get_array_module
from minilora.gradients.op_cases import Case
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


def model_case(op: str, variant: str, model: Module, forward: Callable[[Module], Tensor]) -> Case:
    """A Case over the trained Parameters of `model`, which are perturbed where they stand."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return Case(op, variant, forward, lambda target, **_: target(model), trained, PROBED)


def _layer_case(
    op: str, layer: Module, x: np.ndarray, forward: Callable[[Module, Tensor], Tensor]
) -> Case:
    """A Case over a layer's Parameters and its input x."""
    inputs = {"x": x, **dict(layer.named_parameters())}
    call = lambda target, x, **_: target(layer, x)  # noqa: E731
    return Case(op, "", forward, call, inputs, PROBED)


def model_cases(seed: int = 0) -> list[Case]:
    """Every layer type and the whole Transformer, with numbers drawn from `seed`."""
    rng, config = np.random.default_rng([seed, 1]), tiny_config()
    ids, labels = token_batch(rng, config.vocab_size)
    x = rng.standard_normal((BATCH, TIME, config.hidden_size))
    heads = config.num_attention_heads
    tables = F.rope_tables(np.arange(TIME), config.head_dim, config.rope_theta, heads)

    def new(make: Callable[..., Module], *sizes: object, **options: object) -> Module:
        return randomise_(make(*sizes, **options), rng)

    def plain(layer: Module, x: Tensor) -> Tensor:
        return layer(x)

    def mixing(layer: Module, x: Tensor) -> Tensor:
        xp = get_array_module(x.data)
        cos, sin = (xp.asarray(table, dtype=x.dtype) for table in tables)
        return layer(x, Positions(cos, sin, np.array([0, 2])), 0)

    return [
        _layer_case("Linear", new(Linear, 6, 7, rng, bias=True), x, plain),
        _layer_case("RMSNorm", new(RMSNorm, 6, 0.1), x, plain),
        model_case("Embedding", "", new(Embedding, 11, 6, rng), lambda m: m(ids)),
        _layer_case("Attention", new(Attention, config, rng), x, mixing),
        _layer_case("MLP", new(MLP, config, rng), x, plain),
        _layer_case("Block", new(Block, config, rng), x, mixing),
        *(
            model_case("Transformer", variant, new(Transformer, tiny_config(tied), rng), forward)
            for tied in (True, False)
            for variant, forward in (
                (f"{'tied' if tied else 'untied'}, logits", lambda m: m(ids)),
                (f"{'tied' if tied else 'untied'}, loss", lambda m: m.loss(ids, labels)),
            )
        ),
    ]
