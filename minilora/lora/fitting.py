"""Whether an adapter fits a model: everything that is checked before one is attached."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from minilora.autograd.products import dense
from minilora.backend import to_numpy
from minilora.lora.adapter import Adapter, leaves_of, table_shapes
from minilora.lora.base import BaseMark, computing_config, config_differences, mark_base
from minilora.lora.config import EMBEDDING, HEAD, ROWS, LoRAConfig
from minilora.lora.layer import check_rank
from minilora.lora.peft_format import BASE_WEIGHT, MAGNITUDE, PROJECTION, SIDECAR, AdapterError
from minilora.lora.state import adapted_fingerprint, base_fingerprint, is_adapted, lora_layers
from minilora.lora.tables import table_of
from minilora.lora.targets import TargetError, linears_by_rule, select_linears
from minilora.lora.vera import projection_shapes
from minilora.nn import Linear, Module
from minilora.nn.freeze import is_frozen


class AttachError(ValueError):
    """The model carries an adapter where a plain one is needed, or the adapter is off already."""


class BaseMismatchError(AdapterError):
    """The adapter was made for another base: other weights, shapes, or numbers of the config."""


def require_plain(model: Module) -> None:
    """Raise AttachError for a model that carries an adapter of any kind."""
    if is_adapted(model):
        raise AttachError(
            f"got a model with {len(lora_layers(model))} adapted layers, expected a plain one; "
            "detach or merge_and_unload it first"
        )
    if is_frozen(model):
        raise AttachError(
            "got a model that carries an adapter of another kind, or is in a bank; expected a "
            "plain one, so detach it, or close the bank, first"
        )


def attachable(model: Module, config: LoRAConfig) -> dict[str, Linear]:
    """The Linears that `attach` would wrap; raises what `attach` would, and changes nothing."""
    require_plain(model)
    return fitting_linears(model, config)


def fitting_linears(model: Module, config: LoRAConfig) -> dict[str, Linear]:
    """As `attachable`, for a model whose Linears may be frozen, as those of a bank are."""
    chosen = select_linears(model, config.linear_targets)
    _check_tables(model, config)
    for pattern, idle in config.idle_keys([*chosen, *config.tables]).items():
        known = ", ".join(sorted({name.rpartition(".")[2] for name in chosen}))
        raise TargetError(
            f"{pattern} got {', '.join(map(repr, idle))}, which fit no adapted module; expected "
            f"keys that fit one of: {known}"
        )
    for name, linear in chosen.items():
        check_rank(config.at(name), linear, name)
    return chosen


def _check_tables(model: Module, config: LoRAConfig) -> None:
    """Raise TargetError for tables that the model lacks, and rows beyond them or of a tied head."""
    for name, kind in config.tables.items():
        try:
            vocab = table_of(model, name).weight.shape[0]
        except (ValueError, AttributeError):
            raise TargetError(f"got {name} to train for a model without it") from None
        if kind != ROWS:
            continue
        if name == HEAD and getattr(model, "lm_head", None) is None:
            raise TargetError(
                f"got rows of {HEAD} to train for a model whose head is tied to {EMBEDDING}, whose "
                "rows they are; expected those of embed_tokens alone"
            )
        largest = max(config.trainable_token_indices[name.rpartition(".")[2]])
        if largest >= vocab:
            raise TargetError(
                f"got token id {largest} in trainable_token_indices for {name} with {vocab} rows, "
                f"expected 0 to {vocab - 1}; new tokens are added to the base first (add_tokens)"
            )


def _check_base_table(model: Module, adapter: Adapter, table: str, array: np.ndarray) -> None:
    """PEFT saves the table beside what it trains of it: over another one that means something else.

    Rows that the adapter has trained may differ, as those of new tokens do.
    """
    own = to_numpy(dense(table_of(model, table).weight.data))
    fits = own.shape == array.shape
    if fits:
        differ = (own != array.astype(own.dtype)).any(axis=1)
        rows = adapter.config.trainable_token_indices.get(table.rpartition(".")[2], ())
        differ[list(rows)] = False
        fits = not differ.any()
    if not fits:
        raise BaseMismatchError(
            f"{adapter.source}: {table}.{BASE_WEIGHT} is another table {array.shape} than the "
            f"base's {own.shape}, expected the same numbers"
        )


def config_for(
    model: Module, adapter: Adapter, base_name: str, base: BaseMark | None
) -> LoRAConfig:
    """The config to attach `adapter` with, after every check that needs the model.

    base: the model's mark, where it is known already. Whether this is the base comes first: on
    another one, what else does not fit says nothing.
    """
    require_plain(model)
    return fitting_config(model, adapter, base_name, base)


def fitting_config(
    model: Module, adapter: Adapter, base_name: str, base: BaseMark | None
) -> LoRAConfig:
    """As `config_for`, for a model whose Linears may be frozen, as those of a bank are."""
    config = _without_idle_keys(adapter)
    if base is not None:
        base_name = base.name
    known = adapter.base.fingerprint or adapter.base.adapted
    with _naming_both(adapter, base_name):
        _check_numbers(model, adapter, base_name)
        _check_rule(model, adapter)
        chosen = select_linears(model, config.linear_targets)
        if not known:  # then the shapes are all there is to judge by
            _check_fit(model, config, adapter)
    if known:
        _check_weights(model, adapter, chosen, base_name, base)
        _check_fit(model, config, adapter)
    _warn_of_the_rest(adapter, base)
    return config


@contextlib.contextmanager
def _naming_both(adapter: Adapter, base_name: str) -> Iterator[None]:
    """An error in the `with` names both bases first, where the names differ."""
    try:
        yield
    except BaseMismatchError:  # it names both already
        raise
    except ValueError as error:
        if not base_name or base_name == adapter.base_name:
            raise
        raise BaseMismatchError(f"{_both_bases(adapter, base_name)}: {error}") from None


def _both_bases(adapter: Adapter, base_name: str) -> str:
    got = f"base {base_name!r}" if base_name else "another model"
    return f"{adapter.source} was made for base {adapter.base_name!r}, got {got}"


def _check_rule(model: Module, adapter: Adapter) -> None:
    """Raise AdapterError where PEFT's options choose other modules than there are tensors for."""
    if not adapter.rule:
        return
    names = linears_by_rule(model, adapter.rule)
    if not names:
        options = ", ".join(f"{key} {value!r}" for key, value in adapter.rule.items())
        raise AdapterError(
            f"{adapter.source}: got {options}, which matches no Linear of the model; expected "
            "names or a regular expression that match some"
        )
    _check_modules(adapter, set(names))


def _check_fit(model: Module, config: LoRAConfig, adapter: Adapter) -> None:
    """Raise what `attach` would, or AdapterError for tensors that are not those it makes."""
    chosen = fitting_linears(model, config)
    _check_modules(adapter, set(chosen))
    for name, linear in chosen.items():
        _check_shapes(adapter, name, linear)
    for name, array in adapter.tables.items():
        if name.endswith(f".{BASE_WEIGHT}"):
            _check_base_table(model, adapter, name.removesuffix(f".{BASE_WEIGHT}"), array)
            continue
        table, _, leaf = name.rpartition(".")
        weight = table_of(model, table).weight
        expected = table_shapes(config, table, *weight.shape)[leaf]
        _check_array(f"{adapter.source}: {name}", array, expected, weight.dtype)
    if adapter.projection:
        shapes = projection_shapes(adapter.config, chosen.values())
        dtype = next(iter(chosen.values())).weight.dtype
        for leaf, array, shape in zip(PROJECTION, adapter.projection, shapes, strict=True):
            _check_array(f"{adapter.source}: {leaf}", array, shape, dtype)


def _check_modules(adapter: Adapter, chosen: set[str]) -> None:
    modules = set(adapter.modules)
    missing, extra = sorted(chosen - modules), sorted(modules - chosen)
    if missing or extra:
        targets = adapter.rule.get("target_modules", adapter.config.target_modules)
        targets = targets if isinstance(targets, str) else ", ".join(sorted(targets)[:8])
        raise AdapterError(
            f"{adapter.source}: missing tensors for {missing or 'none'}, unexpected ones for "
            f"{extra or 'none'}; expected exactly the model's {targets}"
        )


def _check_shapes(adapter: Adapter, name: str, linear: Linear) -> None:
    r, dtype = adapter.config.at(name).r, linear.weight.dtype
    out = linear.out_features
    shapes = {
        "lora_A": (r, linear.in_features), "lora_B": (out, r), MAGNITUDE: (out,),
        "vera_lambda_b": (out,), "vera_lambda_d": (r,),
    }  # fmt: skip
    for leaf, array in zip(leaves_of(adapter.config), adapter.arrays(name), strict=True):
        _check_array(f"{adapter.source}: {name}.{leaf}", array, shapes[leaf], dtype)


def _check_array(where: str, array: np.ndarray, expected: tuple[int, ...], dtype: np.dtype) -> None:
    if array.shape != expected:
        raise AdapterError(f"{where} got shape {array.shape}, expected {expected}")
    if not np.can_cast(array.dtype, dtype):
        raise AdapterError(f"{where} got {array.dtype}, expected at most the base's {dtype}")


def _without_idle_keys(adapter: Adapter) -> LoRAConfig:
    """The config less the keys of patterns that fit no module, of which PEFT warns as well."""
    config = adapter.config
    for pattern, idle in config.idle_keys([*adapter.modules, *config.tables]).items():
        _warn(f"{adapter.source}: {pattern} {', '.join(map(repr, idle))} fit no adapted module "
              "and change nothing")  # fmt: skip
        kept = {key: x for key, x in getattr(config, pattern).items() if key not in idle}
        config = replace(config, **{pattern: kept})
    return config


def _check_numbers(model: Module, adapter: Adapter, base_name: str) -> None:
    """Raise BaseMismatchError for a config that computes something else with equal weights."""
    if adapter.base.config is None:
        return
    different = config_differences(computing_config(model), adapter.base.config)
    if different:
        listed = "; ".join(f"{name} {a!r}, expected {b!r}" for name, (a, b) in different.items())
        raise BaseMismatchError(f"{_both_bases(adapter, base_name)}: config.json got {listed}")


def _check_weights(
    model: Module,
    adapter: Adapter,
    chosen: Mapping[str, Linear],
    base_name: str,
    base: BaseMark | None,
) -> None:
    """Raise BaseMismatchError unless the weights are those that the adapter was trained on."""
    expected = adapter.base.fingerprint
    if expected is not None:
        base = mark_base(model, quick=True) if base is None else base
        if base.held is not None and base.held == adapter.base.held:
            return
        got = base_fingerprint(model) if base.fingerprint is None else base.fingerprint
        fits = got == expected
    else:
        fits, got = _has_adapted_weights(model, adapter, chosen)
    if not fits:
        raise BaseMismatchError(
            f"{_both_bases(adapter, base_name)}: the weights are {got}, expected "
            f"{expected or adapter.base.adapted} (another model, the same one kept in another "
            "dtype, or one that an adapter was merged into)"
        )


def _has_adapted_weights(
    model: Module, adapter: Adapter, chosen: Mapping[str, Linear]
) -> tuple[bool, str]:
    """Whether the adapted weights are those of an adapter that knows no others; what they are.

    Its own tensors say where as well as its config does: where the two differ, one was changed,
    and that is told as such on the right base.
    """
    expected = adapter.base.adapted
    linears = {n: m for n, m in model.named_modules() if isinstance(m, Linear)}
    got = _fingerprint_of(chosen)
    named = {name: linears[name] for name in adapter.modules if name in linears}
    other = named.keys() != chosen.keys() and _fingerprint_of(named) == expected
    return got == expected or other, got


def _fingerprint_of(linears: Mapping[str, Linear]) -> str:
    return adapted_fingerprint({name: linear.weight.data for name, linear in linears.items()})


def _warn_of_the_rest(adapter: Adapter, base: BaseMark | None) -> None:
    """Warn of what could not be checked, and of what changes texts and no number."""
    own = adapter.base
    if own.fingerprint is None and own.adapted is None:
        _warn(f"{adapter.source} says nothing of its base's weights (no {SIDECAR}): whether the "
              "adapter was made for this base is not checked")  # fmt: skip
    elif own.fingerprint is None:
        _warn(f"{adapter.source} was written when {SIDECAR} held the adapted weights alone: the "
              "base's other weights and its config are not checked")  # fmt: skip
    for field, word in (("tokenizer", "tokenizer"), ("template", "chat template")):
        expected, got = getattr(own, field), getattr(base, field, None)
        if None not in (expected, got) and expected != got:
            _warn(f"{adapter.source} was trained with another {word} than the base's: the same "
                  "text may mean something else to the adapter")  # fmt: skip


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=5)  # of the caller of attach
