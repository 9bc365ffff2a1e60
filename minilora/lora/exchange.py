"""An adapter with some of its modules given back: what another adapter, or the base, has there."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Collection, Iterator
from dataclasses import replace

from minilora.lora.adapter import Adapter
from minilora.lora.attach import Attachment, attach
from minilora.lora.base import BaseMark
from minilora.lora.config import LoRAConfig
from minilora.lora.deltas import Factors, factors_of, modules_of
from minilora.nn import Transformer


def given_back(b: Adapter, a: Adapter | None, modules: Collection[str]) -> Adapter | None:
    """b with the ΔW that a has in these modules; with a None, without any there (scaling 0).

    Each module keeps its own A, B and s, whichever side they come from. None where nothing is
    left, which is the base. Raises ValueError for a module that neither adapts.
    """
    known = modules_of(a, b)
    unknown = sorted(set(modules) - set(known))
    if unknown:
        raise ValueError(f"got module {unknown[0]!r}, expected some of {', '.join(known[:8])}, ...")
    chosen = {name: factors_of(a if name in modules else b, name) for name in known}
    factors = {name: one for name, one in chosen.items() if one is not None}
    if not factors:
        return None
    return Adapter(
        _config_for(b.config, factors),
        {name: (one.A, one.B) for name, one in factors.items()},
        base=replace(b.base, adapted=None),  # a mark of all modules, which were checked before
        source=b.source,
    )


def _config_for(like: LoRAConfig, factors: dict[str, Factors]) -> LoRAConfig:
    """A config that gives each module its rank and scaling, in the words of `like` where it can."""
    ranks, alphas = {}, {}
    for name, one in factors.items():
        rank, key = len(one.A), re.escape(name)
        if rank != like.r:
            ranks[key] = rank
        root = math.sqrt(rank) if like.use_rslora else rank
        if like.lora_alpha / root != one.scaling:
            alphas[key] = one.scaling * root
    return LoRAConfig(
        like.r, like.lora_alpha, tuple(factors), use_rslora=like.use_rslora,
        rank_pattern=ranks, alpha_pattern=alphas, invocation=like.invocation,
    )  # fmt: skip


@contextlib.contextmanager
def wearing(
    model: Transformer, adapter: Adapter | None, base: BaseMark | None
) -> Iterator[Attachment | None]:
    """The model with an adapter on it, or None for none, inside the `with`, and plain afterwards.

    base: `mark_base` of the model, so that nothing is hashed again. What `attach` would warn of
    is for whoever attached it first; here it is silent.
    """
    if adapter is None:
        yield None
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attachment = attach(model, adapter, base=base)
    try:
        yield attachment
    finally:
        attachment.detach()
