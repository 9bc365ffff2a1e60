"""VeraLinear: a frozen Linear with two trained vectors around random matrices that all share."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from minilora.autograd import Tensor
from minilora.autograd import functional as F
from minilora.autograd.products import Matrix
from minilora.backend import Array, get_array_module, to_device
from minilora.lora.config import LoRAConfig
from minilora.lora.layer import LoRALinear
from minilora.nn import Linear, Parameter


class Projection:
    """VeRA's A (r, largest in) and B (largest out, r), which all layers of an adapter cut theirs
    from, and which are never trained.
    """

    def __init__(self, A: Array, B: Array) -> None:
        self.A, self.B = A, B

    def to(self, device: str) -> None:
        """Move both."""
        self.A, self.B = to_device(self.A, device), to_device(self.B, device)

    def like(self, weight: Matrix) -> Projection:
        """The same numbers on the device and in the dtype of a weight."""
        xp = get_array_module(weight)
        return Projection(
            xp.asarray(self.A, dtype=weight.dtype), xp.asarray(self.B, dtype=weight.dtype)
        )


def projection_shapes(
    config: LoRAConfig, linears: Iterable[Linear]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shapes of A and B for these layers: as large as the largest needs, as PEFT has them."""
    sizes = [(linear.in_features, linear.out_features) for linear in linears]
    return (config.r, max(size for size, _ in sizes)), (max(out for _, out in sizes), config.r)


def draw_projection(config: LoRAConfig, linears: Iterable[Linear]) -> Projection:
    """A and B from the config's key, float32: bit for bit those that PEFT draws from it.

    Kaiming-uniform with gain sqrt(2): U(-sqrt(6 / columns), sqrt(6 / columns)) (Sec. 3.3). PEFT
    draws them by PyTorch's generator on the CPU, which is the Mersenne Twister: of each of its
    numbers the lowest 24 bits count.
    """
    key = config.vera.projection_prng_key % 2**32  # all that the generator takes of a seed
    source = np.random.RandomState(key)
    return Projection(*(_uniform(source, shape) for shape in projection_shapes(config, linears)))


def _uniform(source: np.random.RandomState, shape: tuple[int, int]) -> np.ndarray:
    bits = np.frombuffer(source.bytes(4 * shape[0] * shape[1]), dtype="<u4") & (2**24 - 1)
    bound = math.sqrt(3.0) * (math.sqrt(2.0) / math.sqrt(shape[1]))
    low, high = np.float32(-bound), np.float32(bound)
    return (bits * 2.0**-24 * float(high - low) + float(low)).astype(np.float32).reshape(shape)


class VeraLinear(LoRALinear):
    """y = x W^T + bias + b * ((d * (dropout(x) A^T)) B^T) (Kopiczko et al. 2023, Eq. 2).

    A (r, in) and B (out, r) are cut from the adapter's Projection; `vera_lambda_b` (out,) starts
    at 0, so that a fresh layer computes what the Linear did, and `vera_lambda_d` (r,) at the
    config's d_initial. The rank may exceed the layer's. Its update is the one of a plain LoRA with
    d * A and b * B, which `as_product` gives.
    """

    def __init__(
        self,
        base_layer: Linear,
        config: LoRAConfig,
        rng: np.random.Generator,
        projection: Projection,
    ) -> None:
        super().__init__(base_layer, config, rng)
        self.projection = projection

    def _start(self, weight: Matrix, rng: np.random.Generator) -> None:
        xp, start = get_array_module(weight), self.config.vera.d_initial
        self.vera_lambda_b = Parameter(xp.zeros(self.out_features, dtype=weight.dtype))
        self.vera_lambda_d = Parameter(xp.full(self.config.r, start, dtype=weight.dtype))

    def named_factors(self) -> dict[str, Parameter]:
        """Leaf -> Parameter of b and d."""
        return {"vera_lambda_b": self.vera_lambda_b, "vera_lambda_d": self.vera_lambda_d}

    def _matrices(self) -> tuple[Array, Array]:
        """A (r, in) and B (out, r), cut to this layer, in the dtype of b and d."""
        dtype = self.vera_lambda_d.dtype
        a, b = self.projection.A[:, : self.in_features], self.projection.B[: self.out_features]
        return a.astype(dtype, copy=False), b.astype(dtype, copy=False)

    def as_product(self) -> tuple[Array, Array]:
        """(d * A (r, in), b * B (out, r)): A and B of the plain LoRA that computes the same."""
        a, b = self._matrices()
        return self.vera_lambda_d.data[:, None] * a, self.vera_lambda_b.data[:, None] * b

    def _adapted(self, x: Tensor, keep: Array | None) -> Tensor:
        base = self.base_layer
        return F.vera_linear(
            x, base.weight, self.vera_lambda_b, self.vera_lambda_d, *self._matrices(), base.bias,
            keep,
        )  # fmt: skip

    def delta_weight(self) -> Array:
        """ΔW = (b * B) (d * A), (out, in)."""
        a, b = self.as_product()
        return b @ a

    def _move(self, device: str) -> None:
        super()._move(device)
        self.projection.to(device)
