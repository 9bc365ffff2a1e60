"""DoraLinear: a LoRALinear that trains the direction of W's rows and their lengths apart."""

from __future__ import annotations

import numpy as np

from minilora.autograd import Tensor
from minilora.autograd import functional as F
from minilora.autograd.products import dense, plus, row_norms
from minilora.backend import Array, get_array_module
from minilora.lora.config import LoRAConfig
from minilora.lora.layer import LoRALinear
from minilora.nn import Linear, Parameter


class DoraLinear(LoRALinear):
    """y = x W'^T + b with W' = m (W + s B A) / ||W + s B A||, row by row (Liu et al. 2024, Eq. 5).

    m (out,), `lora_magnitude_vector` as in PEFT, starts as the lengths of W's rows, so that a
    fresh layer computes what the Linear did. The length below the fraction line is a constant of
    the backward pass (Sec. 4.3). Raises ValueError as a LoRALinear, and for a W with a row of
    zeros, which has no direction.
    """

    def __init__(self, base_layer: Linear, config: LoRAConfig, rng: np.random.Generator) -> None:
        super().__init__(base_layer, config, rng)
        start = self.row_norms()
        empty = int((start == 0).sum())
        if empty:
            raise ValueError(
                f"got a weight with {empty} rows of zeros for DoRA, expected none: such a row has "
                "no direction"
            )
        self.lora_magnitude_vector = Parameter(start)

    def row_norms(self) -> Array:
        """The lengths of the rows of W + s B A, (out,)."""
        scaled_b = self.lora_B.data * self.scaling
        return row_norms(plus(self.base_weight, scaled_b, self.lora_A.data), scaled_b.dtype)

    def _adapted(self, x: Tensor, keep: Array | None) -> Tensor:
        base = self.base_layer
        return F.dora_linear(
            x, base.weight, self.lora_A, self.lora_B, self.lora_magnitude_vector,
            self.row_norms(), self.scaling, base.bias, keep,
        )  # fmt: skip

    def delta_weight(self) -> Array:
        """W' - W, (out, in): not s B A, and in general of full rank."""
        weight = dense(self.base_weight)
        factor = self.lora_magnitude_vector.data / self.row_norms()
        moved = get_array_module(weight).multiply(weight + super().delta_weight(), factor[:, None])
        moved -= weight
        return moved
