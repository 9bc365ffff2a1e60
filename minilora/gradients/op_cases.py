"""The inputs on which every op's gradients are checked: small, and no two sizes equal.

Cases for whole layers are in `model_cases`, for adapted models in `adapter_cases`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minilora.autograd import functional as F
from minilora.autograd import ops
from minilora.autograd.tensor import Tensor
from minilora.gradients.case import Case

Draw = Callable[[np.random.Generator], object]
"""Makes an input or an argument from a generator, anew for each seed."""


@dataclass(frozen=True)
class _Recipe:
    """A case before its numbers are drawn. A shape stands for N(0, 1) numbers of that shape."""

    target: Callable[..., Tensor]
    variant: str
    inputs: dict[str, tuple[int, ...] | Draw]
    constants: dict[str, object]

    def draw(self, seed: int) -> Case:
        op = self.target.__name__
        rng = np.random.default_rng([seed, zlib.crc32(f"{op} {self.variant}".encode())])
        inputs = {
            name: rng.standard_normal(x) if isinstance(x, tuple) else x(rng)
            for name, x in self.inputs.items()
        }
        constants = {name: x(rng) if callable(x) else x for name, x in self.constants.items()}
        return Case(op, self.variant, self.target, inputs, constants)


_RECIPES: list[_Recipe] = []


def _case(
    target: Callable[..., Tensor],
    variant: str = "",
    inputs: dict[str, tuple[int, ...] | Draw] | None = None,
    **constants: object,
) -> None:
    """Add a recipe. A constant that is a function is drawn, as an input is."""
    _RECIPES.append(_Recipe(target, variant, inputs or {"a": (3, 5)}, constants))


def op_cases(seed: int = 0) -> list[Case]:
    """Every case of a primitive or fused op, its numbers drawn from `seed` and its own name."""
    return [recipe.draw(seed) for recipe in _RECIPES]


def _away_from_zero(*shape: int) -> Draw:
    """Numbers between 0.5 and 2."""
    return lambda rng: rng.uniform(0.5, 2.0, shape)


def _integers(high: int, *shape: int) -> Draw:
    return lambda rng: rng.integers(0, high, shape)


def _labels(vocab: int, *shape: int) -> Draw:
    """Labels of which about a third are IGNORE, the first never and the last always."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        labels = rng.integers(0, vocab, shape)
        labels[rng.random(shape) < 0.3] = F.IGNORE
        labels.flat[0], labels.flat[-1] = 1, F.IGNORE
        return labels

    return draw


def _frozen(*shape: int) -> Draw:
    """A constant Tensor: an input that gets no vjp."""
    return lambda rng: Tensor(rng.standard_normal(shape))


def _rotations(curve: np.ufunc, *shape: int) -> Draw:
    """A table of `rope` for 5 heads: cos or sin of the same angles, whatever was drawn before."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        half = curve(np.random.default_rng(3).uniform(-3.0, 3.0, shape))
        first = half if curve is np.cos else -half
        return np.concatenate([first, half] * 5, axis=-1)

    return draw


# -- primitives ------------------------------------------------------------------------------

for _op in (ops.add, ops.sub, ops.mul):
    _case(_op, "", {"a": (3, 5), "b": (3, 5)})
    _case(_op, "b repeated", {"a": (2, 3, 5), "b": (3, 1)})
    _case(_op, "both repeated", {"a": (2, 1, 5), "b": (7, 1)})
    _case(_op, "scalar b", {"a": (3, 5), "b": ()})
_case(ops.div, "", {"a": (3, 5), "b": _away_from_zero(3, 5)})
_case(ops.div, "both repeated", {"a": (2, 1, 5), "b": _away_from_zero(3, 1)})
_case(ops.neg)
_case(ops.power, "cube", exponent=3)
_case(ops.power, "-1/2", {"a": _away_from_zero(3, 5)}, exponent=-0.5)
_case(ops.matmul, "", {"a": (3, 5), "b": (5, 2)})
_case(ops.matmul, "batch", {"a": (2, 3, 4, 5), "b": (2, 3, 5, 3)})
_case(ops.matmul, "b repeated", {"a": (2, 3, 5), "b": (5, 4)})
_case(ops.matmul, "batch repeated", {"a": (2, 1, 3, 5), "b": (7, 5, 2)})
_case(ops.matmul, "square", {"a": (3, 3), "b": (3, 3)})
_case(ops.exp)
_case(ops.log, "", {"a": _away_from_zero(3, 5)})
_case(ops.tanh)
_case(ops.sqrt, "", {"a": _away_from_zero(3, 5)})
_case(
    ops.where,
    "b repeated",
    {"a": (2, 3, 5), "b": (5,)},
    condition=lambda rng: rng.random((2, 3, 5)) < 0.5,
)
for _op in (ops.sum, ops.mean):
    _case(_op, "all")
    _case(_op, "axis", {"a": (2, 3, 5)}, axis=1)
    _case(_op, "axes kept", {"a": (2, 3, 5)}, axis=(0, -1), keepdims=True)
    _case(_op, "axes dropped", {"a": (2, 3, 5)}, axis=(0, 2))
_case(ops.reshape, "", {"a": (2, 3, 5)}, shape=(5, -1))
_case(ops.transpose, "", {"a": (2, 3, 5)}, axes=(1, 2, 0))
_case(ops.swapaxes, "", {"a": (2, 3, 5)}, i=-1, j=0)
_case(ops.getitem, "slices", {"a": (4, 3, 5)}, index=(slice(None, None, -2), ..., slice(1, 4)))
_case(ops.getitem, "integer", {"a": (4, 3, 5)}, index=(1, None, slice(2)))


def concatenate(a: Tensor, b: Tensor, c: Tensor, axis: int) -> Tensor:
    """`ops.concatenate`, with its inputs by name."""
    return ops.concatenate([a, b, c], axis)


_case(concatenate, "axis 1", {"a": (2, 3, 5), "b": (2, 1, 5), "c": (2, 4, 5)}, axis=1)

# -- fused ops -------------------------------------------------------------------------------

_case(F.linear, "", {"x": (2, 3, 5), "weight": (4, 5)})
_case(F.linear, "bias", {"x": (2, 3, 5), "weight": (4, 5), "bias": (4,)})
_case(F.linear, "square, one row axis", {"x": (4, 3), "weight": (3, 3), "bias": (3,)})
_case(F.embedding, "repeated ids", {"weight": (7, 3)}, ids=_integers(5, 4, 5))
_case(F.rms_norm, "", {"x": (2, 3, 5), "weight": (5,)}, eps=1e-5)
_case(F.rms_norm, "large eps", {"x": (4, 7), "weight": (7,)}, eps=0.3)
_case(F.swiglu, "", {"gate": (2, 3, 5), "up": (2, 3, 5)})
_case(F.gelu, "", {"x": (3, 5)})
for _shape, _variant in (((3, 2), "one table"), ((2, 3, 2), "a table per row")):
    _case(
        F.rope,
        _variant,
        {"x": (2, 3, 5, 4)},
        cos=_rotations(np.cos, *_shape),
        sin=_rotations(np.sin, *_shape),
    )

_lora = {"x": (2, 3, 5), "lora_A": (2, 5), "lora_B": (7, 2)}
_case(F.lora_linear, "frozen W", _lora, weight=_frozen(7, 5), scaling=1.7)
_case(F.lora_linear, "two rows", {**_lora, "x": (1, 2, 5)}, weight=_frozen(7, 5), scaling=1.7)
_case(
    F.lora_linear,
    "frozen W and b, dropout",
    _lora,
    weight=_frozen(7, 5),
    bias=_frozen(7),
    scaling=0.35,
    keep=lambda rng: F.dropout_mask((2, 3, 5), 0.4, rng, np.empty(0)),
)
_case(
    F.lora_linear,
    "W and b trained, dropout",
    {**_lora, "weight": (7, 5), "bias": (7,)},
    scaling=1.7,
    keep=lambda rng: F.dropout_mask((2, 3, 5), 0.4, rng, np.empty(0)),
)

_dora = {**_lora, "magnitude": (7,)}


def _norm(rng: np.random.Generator) -> np.ndarray:
    """Lengths of rows, which the op takes as constants."""
    return rng.uniform(0.5, 2.0, 7)


_case(F.dora_linear, "frozen W", _dora, weight=_frozen(7, 5), norm=_norm, scaling=1.7)
_case(
    F.dora_linear,
    "W and b trained, dropout",
    {**_dora, "weight": (7, 5), "bias": (7,)},
    norm=_norm,
    scaling=0.35,
    keep=lambda rng: F.dropout_mask((2, 3, 5), 0.4, rng, np.empty(0)),
)


def _matrix(*shape: int) -> Draw:
    """A matrix that the op takes as a constant."""
    return lambda rng: rng.standard_normal(shape)


_vera = {"x": (2, 3, 5), "lambda_b": (7,), "lambda_d": (4,)}
_shared = {"vera_A": _matrix(4, 5), "vera_B": _matrix(7, 4)}
_case(F.vera_linear, "frozen W", _vera, weight=_frozen(7, 5), **_shared)
_case(
    F.vera_linear,
    "W and bias trained, dropout",
    {**_vera, "weight": (7, 5), "bias": (7,)},
    **_shared,
    keep=lambda rng: F.dropout_mask((2, 3, 5), 0.4, rng, np.empty(0)),
)

_case(
    F.put_rows,
    "",
    {"weight": (7, 3), "rows": (2, 3)},
    ids=lambda rng: np.array([5, 1]),
)

_attention = F.causal_attention
_case(_attention, "heads alike", {n: (2, 5, 3, 4) for n in "qkv"})
_case(_attention, "grouped", {"q": (2, 5, 6, 2), "k": (2, 5, 3, 2), "v": (2, 5, 3, 2)})
_case(_attention, "one group, cache", {"q": (2, 3, 3, 4), "k": (2, 7, 1, 4), "v": (2, 7, 1, 4)})
_case(_attention, "two blocks of queries", {n: (1, 97, 1, 2) for n in "qkv"})
_case(_attention, "one query", {"q": (2, 1, 4, 2), "k": (2, 5, 2, 2), "v": (2, 5, 2, 2)})
_padded = {"q": (3, 5, 4, 2), "k": (3, 5, 2, 2), "v": (3, 5, 2, 2)}
_case(_attention, "left padding", _padded, start=lambda rng: np.array([0, 3, 1]))
_late = {"q": (3, 2, 4, 2), "k": (3, 5, 2, 2), "v": (3, 5, 2, 2)}
_case(_attention, "left padding, cache", _late, start=lambda rng: np.array([4, 0, 2]))


def _past(*shape: int) -> Draw:
    """Keys and values of positions that are constants."""
    return lambda rng: rng.standard_normal((2, *shape))


_answers = {"q": (3, 4, 4, 2), "k": (3, 4, 2, 2), "v": (3, 4, 2, 2)}
_case(_attention, "past", _answers, past=_past(3, 5, 2, 2))
_case(
    _attention,
    "past, left padding",
    _answers,
    start=lambda rng: np.array([4, 0, 5]),
    past=_past(3, 5, 2, 2),
)
_case(_attention, "past, two blocks", {n: (1, 97, 1, 2) for n in "qkv"}, past=_past(1, 6, 1, 2))


def _beyond_exp(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers that differ by little around 9: scores near 72, past the guard on exp's argument."""
    return 6.0 + 0.2 * rng.standard_normal(shape)


_large = {n: lambda rng: _beyond_exp(rng, 2, 5, 3, 4) for n in "qk"}
_case(_attention, "large scores", {**_large, "v": (2, 5, 3, 4)})
_case(
    _attention,
    "large scores, left padding",
    {**_large, "v": (2, 5, 3, 4)},
    start=lambda rng: np.array([2, 0]),
)

_head = {"h": (2, 4, 5), "weight": (7, 5)}
_case(F.linear_cross_entropy, "", _head, labels=_labels(7, 2, 4))
_case(F.linear_cross_entropy, "normalizer", _head, labels=_labels(7, 2, 4), normalizer=11.0)
