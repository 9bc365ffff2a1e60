"""PissaLinear: a LoRALinear that starts at W's largest directions and holds what it changed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from minilora.autograd import Tensor, ops
from minilora.autograd import functional as F
from minilora.autograd.products import dense
from minilora.backend import Array, get_array_module, to_device
from minilora.lora.config import LoRAConfig
from minilora.lora.layer import LoRALinear
from minilora.nn import Linear


class PissaLinear(LoRALinear):
    """y = (W - s B0 A0) x + s B A x with s B0 A0 the best rank-r part of W (Meng et al. 2024).

    With the SVD W = U S V^T: B0 = U_r sqrt(S_r / s) and A0 = sqrt(S_r / s) V_r^T (Sec. 3, Eq. 2-3),
    where A and B start. W itself stays: s (B A - B0 A0) is the update of a plain LoRA of rank 2 r,
    [A; A0] and [B, -B0], which is what an adapter of it holds, so that the adapter belongs to W
    and not to what was left of it (PEFT's path_initial_model_for_weight_conversion). Raises
    ValueError as a LoRALinear, and for a config with dropout, use_dora or an invocation.
    """

    def __init__(self, base_layer: Linear, config: LoRAConfig, rng: np.random.Generator) -> None:
        require_pissa(config)
        super().__init__(base_layer, config, rng)
        weight = dense(self.base_weight)
        xp = get_array_module(weight)
        u, s, vt = xp.linalg.svd(weight, full_matrices=False)
        roots = xp.sqrt(s[: config.r] / self.scaling).astype(weight.dtype)
        self.lora_A.data = roots[:, None] * vt[: config.r]
        self.lora_B.data = u[:, : config.r] * roots
        self.start = (self.lora_A.data.copy(), -self.lora_B.data)

    def adapter_arrays(self) -> tuple[Array, Array]:
        """[A; A0] (2 r, in) and [B, -B0] (out, 2 r)."""
        xp = get_array_module(self.lora_A.data)
        a, minus_b = self.start
        return (
            xp.concatenate([self.lora_A.data, a]),
            xp.concatenate([self.lora_B.data, minus_b], axis=1),
        )

    def _adapted(self, x: Tensor, keep: None) -> Tensor:
        dtype = self.lora_A.dtype
        a, minus_b = (Tensor(array.astype(dtype, copy=False)) for array in self.start)
        both_a = ops.concatenate([self.lora_A, a], axis=0)
        both_b = ops.concatenate([self.lora_B, minus_b], axis=1)
        base = self.base_layer
        return F.lora_linear(x, base.weight, both_a, both_b, self.scaling, base.bias, keep)

    def delta_weight(self) -> Array:
        """ΔW = s (B A - B0 A0), (out, in)."""
        a, b = self.adapter_arrays()
        return (b * self.scaling) @ a

    def _move(self, device: str) -> None:
        super()._move(device)
        self.start = tuple(to_device(array, device) for array in self.start)


def require_pissa(config: LoRAConfig) -> None:
    """Raise ValueError for a config that PiSSA's start is not made for."""
    if config.lora_dropout or not config.is_product or config.invocation is not None:
        raise ValueError(
            f"got PiSSA with lora_dropout {config.lora_dropout:g}, use_dora {config.use_dora}, "
            f"vera {config.vera}, invocation {config.invocation} and tables {config.tables}, "
            "expected 0, False, None, None and {}"
        )


def doubled(config: LoRAConfig) -> LoRAConfig:
    """The config of the plain LoRA that a PissaLinear's adapter is: rank 2 r, and the same s."""
    factor = math.sqrt(2.0) if config.use_rslora else 2
    return replace(
        config,
        r=2 * config.r,
        lora_alpha=factor * config.lora_alpha,
        rank_pattern={key: 2 * r for key, r in config.rank_pattern.items()},
        alpha_pattern={key: factor * alpha for key, alpha in config.alpha_pattern.items()},
    )
