"""LoRAConfig: the few numbers that define an adapter, and the one place that scales it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

ALL_LINEAR = "all-linear"
"""The target that means every Linear but the output head (PEFT's word for it)."""


@dataclass(frozen=True)
class LoRAConfig:
    """Rank, alpha and targets of an adapter; field names and meanings are PEFT's.

    target_modules: suffixes of dotted module names ("q_proj", "self_attn.q_proj", or a whole
    path), or "all-linear". Raises ValueError, naming what was got and expected, for a rank below
    1, an alpha that is not a positive number, a dropout outside [0, 1), or targets that are no
    names.
    """

    r: int = 8
    lora_alpha: float = 16
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    lora_dropout: float = 0.0
    use_rslora: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, Integral) or self.r < 1:
            raise ValueError(f"got r {self.r!r}, expected a whole number of at least 1")
        if not _is_number(self.lora_alpha) or not 0 < self.lora_alpha < math.inf:
            raise ValueError(
                f"got lora_alpha {self.lora_alpha!r}, expected a finite number above 0"
            )
        if not _is_number(self.lora_dropout) or not 0 <= self.lora_dropout < 1:
            raise ValueError(f"got lora_dropout {self.lora_dropout!r}, expected 0 <= p < 1")
        if not isinstance(self.use_rslora, bool):
            raise ValueError(f"got use_rslora {self.use_rslora!r}, expected True or False")
        whole = isinstance(self.lora_alpha, Integral)
        object.__setattr__(self, "r", int(self.r))
        object.__setattr__(self, "lora_alpha", (int if whole else float)(self.lora_alpha))
        object.__setattr__(self, "lora_dropout", float(self.lora_dropout))
        object.__setattr__(self, "target_modules", _checked_targets(self.target_modules))

    @property
    def scaling(self) -> float:
        """s in y = W x + s B A x: lora_alpha / r (Hu et al. 2021, Sec. 4.1), or with use_rslora
        lora_alpha / sqrt(r) (Kalajdzievski 2023, Sec. 3), which holds its size as r grows.
        """
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


def _is_number(x: object) -> bool:
    return isinstance(x, Real) and not isinstance(x, bool)


def _checked_targets(targets: object) -> tuple[str, ...] | str:
    if targets == ALL_LINEAR:
        return ALL_LINEAR
    expected = f"expected names of modules, as in ('q_proj', 'v_proj'), or {ALL_LINEAR!r}"
    if not isinstance(targets, (list, tuple, set, frozenset)):
        raise ValueError(f"got target_modules {targets!r}, {expected}")
    if not targets or not all(isinstance(name, str) and name for name in targets):
        raise ValueError(f"got target_modules {targets!r}, {expected}")
    ordered = sorted(targets) if isinstance(targets, (set, frozenset)) else targets
    return tuple(dict.fromkeys(ordered))  # each once
