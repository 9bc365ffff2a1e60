"""Every case of the house in one list: ops, layers, models, adapters, stored bases, baselines."""

from __future__ import annotations

from minilora.gradients.adapter_cases import adapted_cases
from minilora.gradients.bottleneck_cases import bottleneck_cases
from minilora.gradients.case import Case
from minilora.gradients.model_cases import model_cases
from minilora.gradients.op_cases import op_cases
from minilora.gradients.stored_cases import stored_cases


def all_cases(seed: int = 0) -> list[Case]:
    """All cases, their numbers drawn from `seed`."""
    kinds = (op_cases, model_cases, adapted_cases, stored_cases, bottleneck_cases)
    return [case for kind in kinds for case in kind(seed)]
