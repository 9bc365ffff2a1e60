"""save_adapter and load_adapter: an adapter as a PEFT folder, tied to the base it was made for."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from minilora import __version__
from minilora.backend import get_array_module
from minilora.lora.attach import AttachError, attach, attachable
from minilora.lora.config import LoRAConfig
from minilora.lora.layer import LoRALinear
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
from minilora.lora.peft_options import CHOOSING, shared_scaling
from minilora.lora.state import adapted_fingerprint, adapter_state, is_adapted, lora_layers
from minilora.lora.targets import linears_by_rule, select_linears
from minilora.nn import Linear, Module
from minilora.storage import atomic_folder, write_safetensors


class BaseMismatchError(AdapterError):
    """The adapter was made for another base: other weights or shapes in the places it adapts."""


def save_adapter(
    model: Module, folder: str | Path, *, base_name: str, provenance: Mapping | None = None
) -> Path:
    """Write the model's adapter to `folder`: PEFT's two files, and minilora.json beside them.

    minilora.json holds the fingerprint of the adapted base arrays, the scaling, and `provenance`
    as given (data hash, training settings, evaluation results; JSON values), or None for what the
    folder said that the adapter was loaded from, untrained since. The folder appears whole or not
    at all, and equal adapters give equal bytes. Raises AttachError without an adapter, ValueError
    for tensors that are not finite or provenance that is not JSON.
    """
    layers = lora_layers(model)
    if not layers:
        raise AttachError("save_adapter got a model without an adapter, expected one after attach")
    state = adapter_state(model)
    for name, array in state.items():
        if not bool(get_array_module(array).isfinite(array).all()):
            raise ValueError(f"save_adapter got NaN or infinity in {name}, expected finite numbers")
    config = _config_of(model, layers)
    if provenance is None:
        provenance = getattr(model, "_lora_provenance", {})
    sidecar = {
        "format_version": FORMAT_VERSION,
        "minilora_version": __version__,
        "base_name": base_name,
        "base_fingerprint": adapted_fingerprint({n: x.base_weight for n, x in layers.items()}),
        "scaling": shared_scaling(config, layers),
        "provenance": dict(provenance),
    }
    texts = {CONFIG: config_json(config, list(layers), base_name), SIDECAR: dump_json(sidecar)}
    with atomic_folder(folder) as part:
        for name, text in texts.items():
            (part / name).write_bytes(text.encode())
        write_safetensors(part / TENSORS, peft_tensors(state), {"format": "pt"})
    return Path(folder)


def _config_of(model: Module, layers: Mapping[str, LoRALinear]) -> LoRAConfig:
    """What the layers were made with; those put in by hand must share one config."""
    config = getattr(model, "_lora_config", next(iter(layers.values())).config)
    odd = [name for name, layer in layers.items() if layer.config != config.at(name)]
    if odd:
        raise ValueError(f"save_adapter got a config of its own at {odd[0]}, expected {config}")
    return config


def load_adapter(
    model: Module,
    folder: str | Path,
    *,
    trainable: bool = False,
    rng: np.random.Generator | None = None,
    base_name: str = "",
) -> Module:
    """Attach the adapter saved in `folder` to a plain model, in place; returns the model.

    trainable: whether A and B ask for gradients; rng then seeds dropout. base_name: the model's,
    for messages. All is checked before the model changes. Raises AdapterError for the folder (see
    `read_adapter`), BaseMismatchError naming both bases where the model is another than the one
    that the adapter was made for, AttachError for a model that is adapted already. A base is known
    by its weights, not by its name; a folder without minilora.json, which has no fingerprint of
    them, is loaded with a warning where its shapes fit.
    """
    found = read_adapter(folder)
    if trainable and found.config.lora_dropout and rng is None:
        raise ValueError("load_adapter got trainable with lora_dropout but no rng, expected one")
    config = _check_against(model, found, base_name)
    attach(model, config, np.random.default_rng(0) if rng is None else rng)
    for name, layer in lora_layers(model).items():
        for leaf, parameter in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
            xp = get_array_module(parameter.data)
            parameter.data = xp.array(found.tensors[f"{name}.{leaf}"], dtype=parameter.dtype)
            parameter.requires_grad = trainable
    if not trainable:
        model._lora_provenance = (found.sidecar or {}).get("provenance", {})
    return model


def _check_against(model: Module, found: AdapterFolder, base_name: str) -> LoRAConfig:
    """The config to attach with, after every check that needs the model.

    Whether this is the base comes first: on another one, what else does not fit says nothing.
    """
    if is_adapted(model):
        attachable(model, found.config)  # refuses it
    config = _without_idle_keys(found)
    with _naming_both(found, base_name):
        if found.by_rule:
            config = replace(config, target_modules=_matching(model, found))
        chosen = select_linears(model, config.target_modules)
        if found.sidecar is None:  # without a fingerprint the shapes are all there is to judge by
            _check_fit(model, config, found)
    if found.sidecar is None:
        warnings.warn(
            f"{found.path} has no {SIDECAR}: whether the adapter was made for this base is "
            "not checked",
            stacklevel=3,
        )
    else:
        _check_base(model, found, chosen, base_name)
        _check_fit(model, config, found)
    return config


@contextlib.contextmanager
def _naming_both(found: AdapterFolder, base_name: str) -> Iterator[None]:
    """An error in the `with` names both bases first, where the names differ."""
    try:
        yield
    except ValueError as error:
        if not base_name or base_name == _made_for(found):
            raise
        raise BaseMismatchError(f"{_both_bases(found, base_name)}: {error}") from None


def _made_for(found: AdapterFolder) -> str | None:
    """The base's name as the folder has it, None where it says none."""
    return (found.sidecar or {}).get("base_name") or found.options.get("base_model_name_or_path")


def _both_bases(found: AdapterFolder, base_name: str) -> str:
    got = f"base {base_name!r}" if base_name else "another model"
    return f"{found.path} was made for base {_made_for(found)!r}, got {got}"


def _check_fit(model: Module, config: LoRAConfig, found: AdapterFolder) -> None:
    """Raise what `attach` would, or AdapterError for tensors that are not those it makes."""
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


def _targets(found: AdapterFolder) -> str:
    targets = found.options["target_modules"]
    return targets if isinstance(targets, str) else ", ".join(sorted(targets)[:8])


def _matching(model: Module, found: AdapterFolder) -> tuple[str, ...]:
    """The Linears that the folder's options choose, as PEFT reads them."""
    names = linears_by_rule(model, found.options)
    if not names:
        told = {key: found.options.get(key) for key in ("target_modules", *CHOOSING)}
        told = ", ".join(f"{key} {value!r}" for key, value in told.items() if value is not None)
        raise AdapterError(
            f"{found.path}: {CONFIG} got {told}, which matches no Linear of the model; expected "
            "names or a regular expression that match some"
        )
    return names


def _without_idle_keys(found: AdapterFolder) -> LoRAConfig:
    """The config less the keys of patterns that fit no module, of which PEFT warns as well."""
    config = found.config
    for pattern, idle in config.idle_keys(found.modules).items():
        warnings.warn(
            f"{found.path}: {pattern} {', '.join(map(repr, idle))} fit no adapted module and "
            "change nothing",
            stacklevel=4,
        )
        kept = {key: x for key, x in getattr(config, pattern).items() if key not in idle}
        config = replace(config, **{pattern: kept})
    return config


def _check_tensors(source: Path, name: str, linear: Linear, found: AdapterFolder) -> None:
    r, dtype = found.config.at(name).r, linear.weight.dtype
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


def _check_base(
    model: Module, found: AdapterFolder, chosen: Mapping[str, Linear], base_name: str
) -> None:
    """Raise BaseMismatchError unless the weights are those that the adapter was trained on.

    Its own tensors say where as well as its config does: where the two differ, one was changed,
    and that is told as such on the right base.
    """
    expected = found.sidecar["base_fingerprint"]
    linears = {n: m for n, m in model.named_modules() if isinstance(m, Linear)}
    got = _fingerprint_of(chosen)
    named = {name: linears[name] for name in found.modules if name in linears}
    if got == expected or (named.keys() != chosen.keys() and _fingerprint_of(named) == expected):
        return
    raise BaseMismatchError(
        f"{_both_bases(found, base_name)}: the adapted weights are {got}, expected {expected} "
        "(another model, the same one kept in another dtype, or one that an adapter was merged "
        "into)"
    )


def _fingerprint_of(linears: Mapping[str, Linear]) -> str:
    return adapted_fingerprint({name: linear.weight.data for name, linear in linears.items()})
