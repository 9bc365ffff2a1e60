"""extract: a fully trained model less its base, as an adapter of a rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minilora.autograd.products import dense
from minilora.backend import to_numpy
from minilora.limits import require_count
from minilora.lora.adapter import Adapter
from minilora.lora.base import mark_base
from minilora.lora.config import ALL_LINEAR, LoRAConfig
from minilora.lora.joining import cut_matrix
from minilora.lora.targets import select_linears
from minilora.nn import Module


@dataclass(frozen=True)
class Extracted:
    """An adapter, and what it leaves out of the difference.

    lost: module -> share of the squared singular values of its difference that the rank cuts off.
    left: other parameters that differ (norms, embeddings) -> norm of their difference; no adapter
    holds these.
    """

    adapter: Adapter
    lost: dict[str, float]
    left: dict[str, float]


def extract(
    base: Module,
    tuned: Module,
    r: int,
    targets: tuple[str, ...] | str = ALL_LINEAR,
    base_name: str = "",
) -> Extracted:
    """The rank-r part of W_tuned - W_base of each target: B A is the nearest product of that rank.

    By SVD, U S V^T cut to r, with A = sqrt(S) V^T and B = U sqrt(S) and scaling 1 (Eckart and Young
    1936). Modules that do not differ are left out. Raises ValueError where no target differs or
    shapes or names are not the same, TargetError for targets that fit nothing.
    """
    require_count("r", r, 1)
    own = {name: parameter.data for name, parameter in base.named_parameters()}
    other = {name: parameter.data for name, parameter in tuned.named_parameters()}
    differing = sorted(own.keys() ^ other.keys())
    if differing:
        raise ValueError(f"got models that differ in having {differing[:4]}, expected one's names")
    shapes = [n for n in own if own[n].shape != other[n].shape]
    if shapes:
        name = shapes[0]
        raise ValueError(f"got {name} {other[name].shape}, expected the base's {own[name].shape}")
    chosen = select_linears(base, targets)
    change = {name: _numbers(other[name]) - _numbers(own[name]) for name in own}
    factors, lost = {}, {}
    for module, linear in chosen.items():
        delta = change.pop(f"{module}.weight")
        if not delta.any():
            continue
        part = cut_matrix(delta, min(r, linear.in_features, linear.out_features))
        rank = len(part.factors.A)
        factors[module] = (
            part.factors.A.astype(np.float32),
            part.factors.B.astype(np.float32),
            rank,
        )
        lost[module] = part.energy_lost
    if not factors:
        raise ValueError(f"got models that agree in all of {targets}, expected some that differ")
    ranks = {module: rank for module, (_, _, rank) in factors.items() if rank != r}
    config = LoRAConfig(
        r=r,
        lora_alpha=r,
        target_modules=tuple(factors),
        rank_pattern=ranks,
        alpha_pattern=ranks,
    )
    adapter = Adapter(
        config,
        {module: (A, B) for module, (A, B, _) in factors.items()},
        base=mark_base(base, base_name),
        provenance={"extracted": {"r": r, "energy_lost": lost}},
    )
    left = {name: float(np.linalg.norm(delta)) for name, delta in change.items() if delta.any()}
    return Extracted(adapter, lost, left)


def _numbers(array: object) -> np.ndarray:
    return to_numpy(dense(array)).astype(np.float64)
