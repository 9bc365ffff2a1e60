"""ActivatedLinear: a LoRALinear that acts from its adapter's invocation on, and nowhere before."""

from __future__ import annotations

from collections.abc import Callable

from minilora.autograd import Tensor, is_grad_enabled
from minilora.autograd import functional as F
from minilora.backend import Array, get_array_module
from minilora.lora.layer import LoRALinear, MergeError
from minilora.nn import Module
from minilora.nn.decode import product_through, times
from minilora.nn.rows import rows_seen


class ActivatedLinear(LoRALinear):
    """y = x W^T + b + s m (dropout(x) A^T) B^T (Greenewald et al. 2025, "Activated LoRA", Sec. 3).

    m is 1 at positions from the first token of the row's last invocation on, and 0 before: there,
    and in rows without an invocation, the output is the base's bit for bit, and so are keys and
    values. It asks `rows_seen` where its input stands; outside a model's forward pass it acts
    everywhere. No matrix computes this, so it can't be merged.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        where = self._acting(1 if x.ndim == 2 else x.shape[-2])
        if where is True:
            return super().forward(x)
        if where is False:
            return self.base_layer(x)
        xp, base = get_array_module(x.data), self.base_layer
        keep = xp.asarray(where.reshape(*x.shape[:-1], 1), dtype=x.dtype)
        if self.training and self.config.lora_dropout > 0 and is_grad_enabled():
            keep = keep * F.dropout_mask(
                x.shape, self.config.lora_dropout, self.dropout_rng, x.data
            )
        return F.lora_linear(
            x, base.weight, self.lora_A, self.lora_B, self.scaling, base.bias, keep
        )

    def _acting(self, time: int) -> bool | Array:
        rows = rows_seen()
        return True if rows is None else rows.acting(self.config.invocation, time)

    def matrix(self) -> None:
        """None: what it multiplies by depends on the position."""

    def row_product(self) -> Callable[[Array, Array], Array]:
        """(h, out) -> out, in which the outputs for one position of each row h (B, in) go.

        Where all rows have been invoked, or none, it is one product.
        """
        held, where = self.base_layer.matrix(), self._acting(1)
        if held is None:
            return product_through(self)
        if where is True:
            return times(held + self.delta_weight())
        base = times(held)
        if where is False:
            return base
        a, b = self.lora_A.data.T, (self.lora_B.data * self.scaling).T
        xp = get_array_module(held)

        def mixed(h: Array, out: Array) -> Array:
            base(h, out)
            acting = self._acting(1)
            if acting is True:
                out += (h @ a) @ b
            elif acting is not False:
                rows = xp.asarray(acting.nonzero()[0])
                out[rows] += (h[rows] @ a) @ b
            return out

        return mixed

    def merged_weight(self) -> Array:
        """Raises MergeError: W + ΔW would act on the prompt too."""
        raise MergeError(
            f"got an activated adapter, which acts from its invocation {self.config.invocation} "
            "on and leaves the prompt to the base; W + ΔW would act everywhere, so expected a "
            "plain adapter to merge"
        )


def invocation_of(model: Module) -> tuple[int, ...] | None:
    """The invocation of the activated adapter on the model, None where there is none."""
    for _, module in model.named_modules():
        if isinstance(module, ActivatedLinear):
            return module.config.invocation
    return None
