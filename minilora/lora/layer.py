"""LoRALinear: a frozen Linear with a trained low-rank update beside it."""

from __future__ import annotations

import math

import numpy as np

from minilora.autograd import Tensor, is_grad_enabled
from minilora.autograd import functional as F
from minilora.autograd.products import Matrix, dense
from minilora.backend import Array, get_array_module, to_device
from minilora.lora.config import LoRAConfig
from minilora.nn import Linear, Module, Parameter
from minilora.nn.freeze import set_writeable


class MergeError(ValueError):
    """A merge, or a step of training, that the present state of the layers does not allow."""


def initial_lora_A(r: int, in_features: int, rng: np.random.Generator) -> np.ndarray:
    """A (r, in) float32 from U(-1/sqrt(in), 1/sqrt(in)), drawn on the CPU.

    PEFT's law: Kaiming-uniform with a = sqrt(5) is sqrt(6 / ((1 + a^2) in)) = 1/sqrt(in).
    """
    bound = np.float32(1.0 / math.sqrt(in_features))
    return (rng.random((r, in_features), dtype=np.float32) * 2 - 1) * bound


class LoRALinear(Module):
    """y = x W^T + b + s (dropout(x) A^T) B^T around a Linear (Hu et al. 2021, Eq. 3).

    W (out, in) and b are `base_layer`'s; A (r, in) starts uniform, B (out, r) at zero, so that a
    fresh layer computes what the Linear did. Dropout acts in training mode only and draws from
    `dropout_rng`, which a training loop may set anew. Raises ValueError for a rank above
    min(in, out).
    """

    def __init__(self, base_layer: Linear, config: LoRAConfig, rng: np.random.Generator) -> None:
        super().__init__()
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        check_rank(config, base_layer)
        self.config = config
        self._start(base_layer.weight.data, rng)
        self.base_layer = base_layer
        self.dropout_rng = np.random.default_rng(int(rng.integers(2**63)))
        self._original: Matrix | None = None  # W while the base holds W + ΔW
        self.train(base_layer.training)

    def _start(self, weight: Matrix, rng: np.random.Generator) -> None:
        """Make the Parameters of the update, in the dtype and on the device of W."""
        xp, r = get_array_module(weight), self.config.r
        start = initial_lora_A(r, self.in_features, rng)
        self.lora_A = Parameter(xp.asarray(start, dtype=weight.dtype))
        self.lora_B = Parameter(xp.zeros((self.out_features, r), dtype=weight.dtype))

    @property
    def scaling(self) -> float:
        """s, as the config defines it."""
        return self.config.scaling

    @property
    def merged(self) -> bool:
        """Whether the base now holds W + ΔW."""
        return self._original is not None

    @property
    def base_weight(self) -> Matrix:
        """W (out, in) as it was before any merge; a StoredArray over a stored base."""
        return self.base_layer.weight.data if self._original is None else self._original

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out).

        Raises MergeError when a merged layer is asked for gradients of its update.
        """
        base = self.base_layer
        if self.merged:
            trains = any(p.requires_grad for p in self.named_factors().values())
            if trains and self.training and is_grad_enabled():
                raise MergeError(
                    "got a forward pass in training mode through a merged layer, which cannot "
                    "train its update; expected unmerge() first, or eval() or no_grad() to predict"
                )
            return base(x)
        keep = None
        if self.training and self.config.lora_dropout > 0:
            keep = F.dropout_mask(x.shape, self.config.lora_dropout, self.dropout_rng, x.data)
        return self._adapted(x, keep)

    def _adapted(self, x: Tensor, keep: Array | None) -> Tensor:
        """What `forward` gives unmerged; keep: a dropout mask, or None."""
        base = self.base_layer
        return F.lora_linear(
            x, base.weight, self.lora_A, self.lora_B, self.scaling, base.bias, keep
        )

    def named_factors(self) -> dict[str, Parameter]:
        """Leaf -> Parameter of what an adapter holds of this layer."""
        names = ("lora_A", "lora_B", "lora_magnitude_vector")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def adapter_arrays(self) -> tuple[Array, ...]:
        """What an Adapter holds of this layer, in the order of its constructor."""
        return tuple(parameter.data for parameter in self.named_factors().values())

    def delta_weight(self) -> Array:
        """ΔW = s B A, (out, in), in the dtype of W."""
        return (self.lora_B.data * self.scaling) @ self.lora_A.data

    def merged_weight(self) -> Array:
        """W + ΔW as a new array, float32 where W is stored in fewer bits.

        Raises MergeError where that is not finite.
        """
        for leaf, parameter in self.named_factors().items():
            _require_finite(leaf, parameter.data)
        total = dense(self.base_weight) + self.delta_weight()
        _require_finite("merged weight", total)
        return total

    def matrix(self) -> Array | None:
        """The matrix (out, in) that `forward` multiplies by outside training; as Linear's."""
        held = self.base_layer.matrix()
        return held if held is None or self.merged else held + self.delta_weight()

    def merge(self) -> None:
        """Put W + ΔW in the base, in a new array; W itself is kept and never written.

        Raises MergeError when merged already, or for a delta that is not finite.
        """
        if self.merged:
            raise MergeError("got a layer that is merged already, expected an unmerged one")
        self._put_merged(self.merged_weight())

    def _put_merged(self, total: Array) -> None:
        set_writeable(total, False)  # a write into it would be lost at unmerge
        self._original = self.base_layer.weight.data
        self.base_layer.weight.data = total

    def unmerge(self) -> None:
        """Put the kept W back: the same array, so bit for bit. Raises MergeError if not merged."""
        if not self.merged:
            raise MergeError("got a layer that is not merged, expected a merged one")
        self.base_layer.weight.data = self._original
        self._original = None

    def _move(self, device: str) -> None:
        super()._move(device)
        if self._original is not None:
            self._original = to_device(self._original, device)
            if self.base_layer.weight.read_only:
                set_writeable(self._original, False)


def _require_finite(name: str, array: Array) -> None:
    bad = int(array.size - get_array_module(array).isfinite(array).sum())
    if bad:
        raise MergeError(f"got {bad} entries of {name} NaN or infinite, expected none")


def check_rank(config: LoRAConfig, base: Linear, name: str = "this Linear") -> None:
    """Raise ValueError where the rank exceeds that of any ΔW of the layer.

    VeRA's may: each of its r numbers d trains another random direction of the shared matrices.
    """
    limit = min(base.in_features, base.out_features)
    if config.vera is None and config.r > limit:
        raise ValueError(
            f"got r {config.r} for {name} with weight ({base.out_features}, {base.in_features}), "
            f"expected at most {limit}"
        )
