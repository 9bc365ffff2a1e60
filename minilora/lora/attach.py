"""attach and detach: put LoRALinear layers around a model's Linears, and take them away again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from minilora.lora.config import LoRAConfig
from minilora.lora.layer import LoRALinear, MergeError, check_rank, set_writeable
from minilora.lora.state import is_adapted, lora_layers, merged_weights
from minilora.lora.targets import TargetError, select_linears
from minilora.nn import Linear, Module, Parameter


class AttachError(ValueError):
    """The model is adapted where a plain one is needed, or plain where an adapted one is."""


@dataclass(frozen=True)
class _Frozen:
    """A base Parameter and what it was before `attach`."""

    parameter: Parameter
    requires_grad: bool
    writeable: bool


# ---------------------------------------------------------------------------------- attach, detach


def attach(model: Module, config: LoRAConfig, rng: np.random.Generator) -> Module:
    """Wrap every targeted Linear in a LoRALinear, in place, and freeze all there was before.

    Outputs stay bit-identical (B = 0). Base parameters get requires_grad False, lose their
    gradients, and their host arrays refuse writes until `detach`. rng draws A. Returns `model`.
    Each layer has the rank and alpha that `config.at` gives its name. Raises AttachError for an
    adapted model, TargetError for targets and pattern keys that fit nothing, ValueError for a
    rank above a layer's, all before anything changes.
    """
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"got rng {rng!r}, expected a numpy.random.Generator")
    chosen = attachable(model, config)
    layers = {name: LoRALinear(linear, config.at(name), rng) for name, linear in chosen.items()}
    frozen = []
    for parameter in model.parameters():
        writeable = set_writeable(parameter.data, False)
        frozen.append(_Frozen(parameter, parameter.requires_grad, writeable))
        parameter.requires_grad, parameter.read_only = False, True
        parameter.zero_grad()
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    model._lora_frozen, model._lora_config = frozen, config
    return model


def attachable(model: Module, config: LoRAConfig) -> dict[str, Linear]:
    """The Linears that `attach` would wrap; raises what `attach` would, and changes nothing."""
    if is_adapted(model):
        raise AttachError(
            f"got a model with {len(lora_layers(model))} adapted layers, expected a plain one; "
            "detach or merge_and_unload it first"
        )
    chosen = select_linears(model, config.target_modules)
    for pattern, idle in config.idle_keys(chosen).items():
        known = ", ".join(sorted({name.rpartition(".")[2] for name in chosen}))
        raise TargetError(
            f"{pattern} got {', '.join(map(repr, idle))}, which fit no adapted module; expected "
            f"keys that fit one of: {known}"
        )
    for name, linear in chosen.items():
        check_rank(config.at(name), linear, name)
    return chosen


def detach(model: Module) -> Module:
    """Take the adapter off, in place: the Linears, arrays and flags of before `attach`.

    The adapter is lost unless it was saved. Raises MergeError while any layer is merged (unmerge
    first, or use merge_and_unload to keep the change), AttachError without an adapter.
    """
    layers = _adapted_layers(model)
    merged = [name for name, layer in layers.items() if layer.merged]
    if merged:
        raise MergeError(
            f"detach got {len(merged)} of {len(layers)} layers merged, expected none; unmerge "
            "first, or use merge_and_unload to keep the change"
        )
    _take_off(model, layers)
    return model


def _take_off(model: Module, layers: Mapping[str, LoRALinear]) -> None:
    originals = {id(x.base_layer.weight): x.base_weight for x in layers.values()}
    for name, layer in layers.items():
        model.set_submodule(name, layer.base_layer)
    for was in model._lora_frozen:
        was.parameter.requires_grad, was.parameter.read_only = was.requires_grad, False
        if was.writeable:
            set_writeable(originals.get(id(was.parameter), was.parameter.data), True)
    for name in ("_lora_frozen", "_lora_config", "_lora_provenance"):
        vars(model).pop(name, None)


def _adapted_layers(model: Module) -> dict[str, LoRALinear]:
    """The layers of an adapter that `attach` put on this model."""
    layers = lora_layers(model)
    if not layers:
        raise AttachError("got a model without an adapter, expected one after attach")
    if not hasattr(model, "_lora_frozen"):
        raise AttachError("got layers that attach did not put on this model; expected its own")
    return layers


# ------------------------------------------------------------------------------------------- merge


def merge(model: Module) -> Module:
    """Merge every layer, or none: each delta is made and found finite before the first is used.

    Raises MergeError naming the layer whose delta is not finite, or how many are merged already.
    """
    layers = _adapted_layers(model)
    if any(layer.merged for layer in layers.values()):
        raise MergeError(_merge_count("merge", layers, "none"))
    totals = merged_weights(layers)
    for name, layer in layers.items():
        layer._put_merged(totals[name])
    return model


def unmerge(model: Module) -> Module:
    """Put every layer's own W back, bit for bit. Raises MergeError unless all are merged."""
    layers = _adapted_layers(model)
    if not all(layer.merged for layer in layers.values()):
        raise MergeError(_merge_count("unmerge", layers, "all"))
    for layer in layers.values():
        layer.unmerge()
    return model


def merge_and_unload(model: Module) -> Module:
    """The plain model with W + ΔW in new arrays, in place; the arrays of W are never written.

    Takes an unmerged or a wholly merged model. Raises MergeError for a half-merged one, or a
    delta that is not finite, before anything changes.
    """
    layers = _adapted_layers(model)
    if not any(layer.merged for layer in layers.values()):
        merge(model)
    elif not all(layer.merged for layer in layers.values()):
        raise MergeError(_merge_count("merge_and_unload", layers, "all or none"))
    _take_off(model, layers)
    for layer in layers.values():
        set_writeable(layer.base_layer.weight.data, True)
    return model


def _merge_count(verb: str, layers: Mapping[str, LoRALinear], expected: str) -> str:
    merged = [name for name, layer in layers.items() if layer.merged]
    return (
        f"{verb} got {len(merged)} of {len(layers)} layers merged ({', '.join(merged[:4])}), "
        f"expected {expected}"
    )
