"""Views of a model's arrays: the adapter's, the base's under its plain names, the merged ones."""

from __future__ import annotations

from collections.abc import Mapping

from minilora.backend import Array
from minilora.lora.layer import LoRALinear, MergeError
from minilora.lora.tables import AdaptedEmbedding, AdaptedHead, AdaptedTable, changes_on
from minilora.nn import Module
from minilora.storage import fingerprint


def lora_layers(model: Module) -> dict[str, LoRALinear]:
    """Dotted name -> LoRALinear, in the model's order."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LoRALinear)}


def is_adapted(model: Module) -> bool:
    """Whether any layer is a LoRALinear."""
    return any(isinstance(module, LoRALinear) for _, module in model.named_modules())


def adapted_tables(model: Module) -> dict[str, AdaptedTable]:
    """Module's name -> the embedding or head that is changed."""
    kinds = (AdaptedEmbedding, AdaptedHead)
    return {n: m for n, m in model.named_modules() if isinstance(m, kinds)}


def trainable_parameters(model: Module) -> int:
    """How many numbers a training step would change."""
    return sum(p.size for p in model.parameters() if p.requires_grad)


def adapter_state(model: Module) -> dict[str, Array]:
    """ "<module>.lora_A", "<module>.lora_B" and DoRA's "<module>.lora_magnitude_vector" -> array;
    of VeRA "<module>.vera_lambda_b" and "<module>.vera_lambda_d"; of a table "<table>.<leaf>".

    In the model's order, tables last; {} when plain.
    """
    state = {
        f"{name}.{leaf}": parameter.data
        for name, layer in lora_layers(model).items()
        for leaf, parameter in layer.named_factors().items()
    }
    for name, change in changes_on(adapted_tables(model)).items():
        state |= {f"{name}.{leaf}": p.data for leaf, p in change.named_parameters()}
    return state


def base_state(model: Module) -> dict[str, Array]:
    """The base's arrays under the names they have without an adapter; W even while merged."""
    weights = {n: layer.base_weight for n, layer in lora_layers(model).items()}
    tables = {n: table.base_layer.weight.data for n, table in adapted_tables(model).items()}
    return _plain_state(model, {**weights, **tables})


def _plain_state(model: Module, weights: Mapping[str, Array]) -> dict[str, Array]:
    state = {}
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        holder, _, last = owner.rpartition(".")
        if owner in weights or (holder in weights and last in ("table", "head")):
            continue  # the adapter's own
        if last == "base_layer" and holder in weights:
            array = weights[holder] if leaf == "weight" else parameter.data
            state[f"{holder}.{leaf}".removeprefix(".")] = array
        else:
            state[name] = parameter.data
    return state


def base_fingerprint(model: Module) -> str:
    """ "sha256:..." over all of `base_state`: equal with and without an adapter attached."""
    return fingerprint(base_state(model))


def adapted_fingerprint(weights: Mapping[str, Array]) -> str:
    """ "sha256:..." over the W of the adapted modules (module name -> array): what an adapter
    was trained against, and what it must meet again when loaded.
    """
    return fingerprint({f"{name}.weight": array for name, array in weights.items()})


def merged_weights(layers: Mapping[str, LoRALinear]) -> dict[str, Array]:
    """Name -> W + ΔW of every layer."""
    totals = {}
    for name, layer in layers.items():
        try:
            totals[name] = layer.merged_weight()
        except MergeError as error:
            raise MergeError(f"{name}: {error}") from None
    return totals
