"""save_adapter and load_adapter: an adapter as a PEFT folder, tied to the base it was made for."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from minilora import __version__
from minilora.backend import get_array_module
from minilora.lora.attach import AttachError, attach, attachable
from minilora.lora.config import LoRAConfig
from minilora.lora.peft_format import (
    CONFIG,
    FORMAT_VERSION,
    SIDECAR,
    TENSORS,
    AdapterError,
    AdapterFolder,
    config_json,
    dump_json,
    peft_tensors,
    read_adapter,
)
from minilora.lora.state import adapted_fingerprint, adapter_state, lora_layers
from minilora.lora.targets import select_linears
from minilora.nn import Linear, Module
from minilora.storage import atomic_folder, write_safetensors


class BaseMismatchError(AdapterError):
    """The adapter was made for a base with other weights in the places it adapts."""


def save_adapter(
    model: Module, folder: str | Path, *, base_name: str, provenance: Mapping | None = None
) -> Path:
    """Write the model's adapter to `folder`: PEFT's two files, and minilora.json beside them.

    minilora.json holds the fingerprint of the adapted base arrays, the scaling, and `provenance`
    as given (data hash, training settings, evaluation results; JSON values). The folder appears
    whole or not at all, and equal adapters give equal bytes. Raises AttachError without an
    adapter, ValueError for tensors that are not finite or provenance that is not JSON.
    """
    layers = lora_layers(model)
    if not layers:
        raise AttachError("save_adapter got a model without an adapter, expected one after attach")
    state = adapter_state(model)
    for name, array in state.items():
        if not bool(get_array_module(array).isfinite(array).all()):
            raise ValueError(f"save_adapter got NaN or infinity in {name}, expected finite numbers")
    config = _shared_config(layers)
    sidecar = {
        "format_version": FORMAT_VERSION,
        "minilora_version": __version__,
        "base_name": base_name,
        "base_fingerprint": adapted_fingerprint({n: x.base_weight for n, x in layers.items()}),
        "scaling": config.scaling,
        "provenance": dict(provenance or {}),
    }
    texts = {CONFIG: config_json(config, list(layers), base_name), SIDECAR: dump_json(sidecar)}
    with atomic_folder(folder) as part:
        for name, text in texts.items():
            (part / name).write_bytes(text.encode())
        write_safetensors(part / TENSORS, peft_tensors(state), {"format": "pt"})
    return Path(folder)


def _shared_config(layers: Mapping) -> LoRAConfig:
    configs = {layer.config for layer in layers.values()}
    if len(configs) > 1:
        raise ValueError(f"save_adapter got {len(configs)} different configs, expected one")
    return configs.pop()


def load_adapter(
    model: Module,
    folder: str | Path,
    *,
    trainable: bool = False,
    rng: np.random.Generator | None = None,
) -> Module:
    """Attach the adapter saved in `folder` to a plain model, in place; returns the model.

    trainable: whether A and B ask for gradients; rng then seeds dropout. All is checked before
    the model changes. Raises AdapterError for the folder (see `read_adapter`), BaseMismatchError
    for a base with other weights, AttachError for a model that is adapted already. A folder
    without minilora.json is loaded with a warning, its base unchecked.
    """
    found = read_adapter(folder)
    if trainable and found.config.lora_dropout and rng is None:
        raise ValueError("load_adapter got trainable with lora_dropout but no rng, expected one")
    config = _check_against(model, found)
    attach(model, config, np.random.default_rng(0) if rng is None else rng)
    for name, layer in lora_layers(model).items():
        for leaf, parameter in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
            xp = get_array_module(parameter.data)
            parameter.data = xp.array(found.tensors[f"{name}.{leaf}"], dtype=parameter.dtype)
            parameter.requires_grad = trainable
    return model


def _check_against(model: Module, found: AdapterFolder) -> LoRAConfig:
    """The config to attach with, after every check that needs the model."""
    config = found.config
    if found.pattern is not None:
        config = replace(config, target_modules=_matching(model, found))
    chosen = attachable(model, config)
    source, modules = found.path / TENSORS, set(found.modules)
    missing, extra = sorted(chosen.keys() - modules), sorted(modules - chosen.keys())
    if missing or extra:
        raise AdapterError(
            f"{source}: missing tensors for {missing or 'none'}, unexpected ones for "
            f"{extra or 'none'}; expected exactly the model's {_targets(found)}"
        )
    for name, linear in chosen.items():
        _check_tensors(source, name, linear, found)
    if found.sidecar is None:
        warnings.warn(
            f"{found.path} has no {SIDECAR}: whether the adapter was made for this base is "
            "not checked",
            stacklevel=3,
        )
    else:
        _check_base(found, chosen)
    return config


def _targets(found: AdapterFolder) -> str:
    targets = found.options["target_modules"]
    return targets if isinstance(targets, str) else ", ".join(sorted(targets)[:8])


def _matching(model: Module, found: AdapterFolder) -> tuple[str, ...]:
    """Linears whose whole name a pattern matches, as PEFT reads a string."""
    try:
        pattern = re.compile(found.pattern)
    except re.error as error:
        raise AdapterError(
            f"{found.path}: {CONFIG} got target_modules {found.pattern!r}, expected names or a "
            f"regular expression ({error})"
        ) from None
    names = tuple(n for n in select_linears(model, "all-linear") if pattern.fullmatch(n))
    if not names:
        raise AdapterError(
            f"{found.path}: {CONFIG} got target_modules {found.pattern!r}, which matches no "
            "Linear of the model; expected a pattern for whole module names"
        )
    return names


def _check_tensors(source: Path, name: str, linear: Linear, found: AdapterFolder) -> None:
    r, dtype = found.config.r, linear.weight.dtype
    shapes = {"lora_A": (r, linear.in_features), "lora_B": (linear.out_features, r)}
    for leaf, expected in shapes.items():
        array = found.tensors[f"{name}.{leaf}"]
        if array.shape != expected:
            raise AdapterError(
                f"{source}: {name}.{leaf} got shape {array.shape}, expected {expected}"
            )
        if not np.can_cast(array.dtype, dtype):
            raise AdapterError(
                f"{source}: {name}.{leaf} got {array.dtype}, expected at most the base's {dtype}"
            )


def _check_base(found: AdapterFolder, chosen: Mapping[str, Linear]) -> None:
    expected = found.sidecar["base_fingerprint"]
    got = adapted_fingerprint({name: linear.weight.data for name, linear in chosen.items()})
    if got != expected:
        raise BaseMismatchError(
            f"{found.path} was made for base {found.sidecar.get('base_name')!r}, whose adapted "
            f"weights are {expected}; got a model whose weights there are {got} (another model, "
            "or one that an adapter was merged into)"
        )
