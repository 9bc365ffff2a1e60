"""Linear, Embedding and RMSNorm: the layers that hold weights."""

from __future__ import annotations

import numpy as np

from minilora.autograd import Tensor
from minilora.autograd import functional as F
from minilora.autograd.products import is_stored
from minilora.backend import Array
from minilora.nn.module import Module, Parameter


def normal(rng: np.random.Generator | None, shape: tuple[int, ...], std: float) -> np.ndarray:
    """float32 N(0, std^2), drawn on the CPU so that every device starts equal.

    Without a generator: zeros, which cost nothing where a checkpoint is about to replace them.
    """
    if rng is None:
        return np.zeros(shape, dtype=np.float32)
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)


class Linear(Module):
    """y = x W^T (+ b), W (out, in) as Hugging Face stores it; W starts as N(0, std^2), b as 0."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rng: np.random.Generator | None,
        bias: bool = False,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(normal(rng, (out_features, in_features), std))
        self.bias = Parameter(np.zeros(out_features, dtype=np.float32)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return F.linear(x, self.weight, self.bias)

    def matrix(self) -> Array | None:
        """The matrix (out, in) that `forward` multiplies by; None where it is not just that."""
        held_as_numbers = not is_stored(self.weight.data)
        return self.weight.data if self.bias is None and held_as_numbers else None


class Embedding(Module):
    """One row of `weight` (V, C) per token id."""

    def __init__(
        self, num_embeddings: int, width: int, rng: np.random.Generator | None, std: float = 0.02
    ) -> None:
        super().__init__()
        self.weight = Parameter(normal(rng, (num_embeddings, width), std))

    @property
    def head_weight(self) -> Tensor:
        """The (V, C) matrix of the output head of a model whose head is tied to this."""
        return self.weight

    def forward(self, ids: Array) -> Tensor:
        """ids (B, T) integers -> (B, T, C)."""
        return F.embedding(self.weight, ids)


class RMSNorm(Module):
    """y = w x / rms(x), w starting at 1 (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = Parameter(np.ones(width, dtype=np.float32))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., C)."""
        return F.rms_norm(x, self.weight, self.eps)
