"""attach: puts LoRALinear layers around a model's Linears, and the handle that takes them away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import numpy as np

from minilora.backend import Array, get_array_module
from minilora.lora.activated import ActivatedLinear
from minilora.lora.adapter import Adapter
from minilora.lora.base import BaseMark, mark_base
from minilora.lora.config import LoRAConfig
from minilora.lora.dora import DoraLinear
from minilora.lora.fitting import AttachError, attachable, config_for
from minilora.lora.layer import LoRALinear, MergeError
from minilora.lora.pissa import PissaLinear, doubled, require_pissa
from minilora.lora.state import merged_weights
from minilora.lora.tables import AdaptedTable, changes_of, changes_on, put_in, with_changes
from minilora.lora.vera import Projection, VeraLinear, draw_projection
from minilora.nn import Linear, Module, Parameter
from minilora.nn.freeze import Freeze
from minilora.text import Tokenizer


def attach(
    model: Module,
    what: LoRAConfig | Adapter,
    rng: np.random.Generator | None = None,
    *,
    trainable: bool | None = None,
    base_name: str = "",
    base: BaseMark | None = None,
    pissa: bool = False,
) -> Attachment:
    """Wrap Linears of a plain model in LoRALinears, in place, and freeze all there was before.

    what: a LoRAConfig for a fresh adapter, whose A is drawn from rng and B is 0, so that outputs
    stay bit-identical; each layer has the rank and alpha that `config.at` gives its name. Or an
    Adapter, whose A and B are copied in. trainable: whether A and B ask for gradients; by default
    a fresh adapter's do and an Adapter's don't. rng also seeds dropout. base_name: the model's,
    for messages. base: `mark_base` of this model, quick or not, where it is known already (every
    weight is hashed otherwise) or its tokenizer is to be compared too; its name is base_name.
    pissa: a fresh adapter starts at W's largest directions and not at zero (PissaLinear), and its
    Adapter has twice the rank.

    Base parameters get requires_grad False, lose their gradients, and their host arrays refuse
    writes, until the Attachment that is returned gives them back. All is checked before anything
    changes. Raises AttachError for a model that carries an adapter, TargetError for targets and
    pattern keys that fit nothing, ValueError for a rank above a layer's or a missing rng. For an
    Adapter: BaseMismatchError naming both bases where a weight of the model, or a number of its
    config that changes what it computes, is not that of the base it was made for; AdapterError
    for tensors that don't fit. Warns of another tokenizer or chat template, and of what an
    Adapter that says little of its base leaves unchecked.
    """
    fresh = isinstance(what, LoRAConfig)
    if not fresh and not isinstance(what, Adapter):
        raise ValueError(f"got {what!r} to attach, expected a LoRAConfig or an Adapter")
    trainable = fresh if trainable is None else trainable
    rng = _rng_for(what, rng, trainable, pissa)
    config = what if fresh else config_for(model, what, base_name, base)
    # What comes out must fit too, or the adapter could not be attached.
    chosen = attachable(model, doubled(config) if pissa else config)
    make = _maker(config, chosen, () if fresh else what.projection, pissa)
    layers = {name: make(linear, config.at(name), rng) for name, linear in chosen.items()}
    for name, layer in layers.items():
        if not fresh:
            _copy_in(layer, what.arrays(name))
        for parameter in layer.named_factors().values():
            parameter.requires_grad = trainable
    changes = changes_of(model, config, rng)
    for table, change in changes.items():
        for leaf, parameter in change.named_parameters():
            if not fresh:
                _copy_into(parameter, what.tables[f"{table}.{leaf}"])
            parameter.requires_grad = trainable
    tables = with_changes(model, changes)
    freeze = Freeze(model)
    for name, module in {**layers, **tables}.items():
        model.set_submodule(name, module)
    source = None if fresh or trainable else what
    return Attachment(model, config, layers, freeze, source, pissa, tables)


def _rng_for(
    what: LoRAConfig | Adapter, rng: np.random.Generator | None, trainable: bool, pissa: bool
) -> np.random.Generator:
    """What draws A and dropout's masks. Raises ValueError for a start or an rng that can't be."""
    fresh = isinstance(what, LoRAConfig)
    if pissa:
        if not fresh:
            raise ValueError("got pissa with an Adapter, expected a LoRAConfig, as it is a start")
        require_pissa(what)
    if rng is None and not fresh:
        if trainable and what.config.lora_dropout:
            raise ValueError("attach got trainable with lora_dropout but no rng, expected one")
        return np.random.default_rng(0)
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"got rng {rng!r}, expected a numpy.random.Generator")
    return rng


def _maker(
    config: LoRAConfig,
    chosen: Mapping[str, Linear],
    projection: tuple[np.ndarray, ...],
    pissa: bool,
) -> Callable[[Linear, LoRAConfig, np.random.Generator], LoRALinear]:
    """What makes a layer; projection: VeRA's matrices as an Adapter holds them, () to draw them."""
    if config.vera is not None:
        linears = list(chosen.values())
        held = Projection(*projection) if projection else draw_projection(config, linears)
        return partial(VeraLinear, projection=held.like(linears[0].weight.data))
    if pissa:
        return PissaLinear
    if config.use_dora:
        return DoraLinear
    return LoRALinear if config.invocation is None else ActivatedLinear


def _copy_in(layer: LoRALinear, arrays: tuple[np.ndarray, ...]) -> None:
    for parameter, array in zip(layer.named_factors().values(), arrays, strict=True):
        _copy_into(parameter, array)


def _copy_into(parameter: Parameter, array: np.ndarray) -> None:
    parameter.data = get_array_module(parameter.data).array(array, dtype=parameter.dtype)


class Attachment:
    """An adapter on a model, made by `attach`: it owns the layers and what was frozen.

    model: the one that it is on. config: of the adapter. layers: dotted name -> LoRALinear, in the
    model's order. After `detach` or `merge_and_unload` it is off, and every other call raises
    AttachError.
    """

    def __init__(
        self,
        model: Module,
        config: LoRAConfig,
        layers: Mapping[str, LoRALinear],
        freeze: Freeze,
        source: Adapter | None,
        pissa: bool = False,
        tables: Mapping[str, AdaptedTable] | None = None,
    ) -> None:
        """source: the Adapter that was attached to be used as it is; None for one to train.

        pissa: whether the layers are PissaLinears. tables: of the embedding and the head, those
        that are changed.
        """
        self.model, self.config = model, config
        self._layers, self._freeze, self._source = dict(layers), freeze, source
        self._pissa, self._tables = pissa, dict(tables or {})

    @property
    def layers(self) -> Mapping[str, LoRALinear]:
        """Dotted name -> LoRALinear, in the model's order."""
        return MappingProxyType(self._layers)

    @property
    def attached(self) -> bool:
        """Whether the adapter is on the model still."""
        return self._freeze is not None

    def adapter(
        self,
        *,
        base_name: str | None = None,
        provenance: Mapping | None = None,
        tokenizer: Tokenizer | None = None,
        as_lora: bool = False,
    ) -> Adapter:
        """The adapter as it is now, as a value; merged or not, it is the same.

        as_lora: of VeRA, whether as the plain LoRA with d * A and b * B, which is larger, computes
        the same, and which a bank, `combine` and an export can read.

        base_name: the model's. provenance: where it came from, as JSON values. tokenizer: the one
        that it was trained with. None for any of them means what the Adapter said that was
        attached, and nothing for one that was trained here. Raises ValueError for an array that is
        not finite, provenance that is not JSON, and as_lora of another kind than VeRA.
        """
        self._require_attached("adapter")
        if as_lora and self.config.vera is None:
            raise ValueError("got as_lora for an adapter that is not of VeRA, expected one that is")
        changes = changes_on(self._tables)
        tables = {
            f"{table}.{leaf}": parameter.data
            for table, change in changes.items()
            for leaf, parameter in change.named_parameters()
        }
        found = {
            f"{name}.{leaf}": parameter.data
            for name, layer in self._layers.items()
            for leaf, parameter in layer.named_factors().items()
        }
        for name, array in {**found, **tables}.items():
            if not bool(get_array_module(array).isfinite(array).all()):
                raise ValueError(f"got NaN or infinity in {name}, expected finite numbers")
        source = self._source
        if base_name is None:
            base_name = "" if source is None else source.base_name
        if provenance is None:
            provenance = {} if source is None else source.provenance
        base = mark_base(self.model, base_name, tokenizer)
        if tokenizer is None and source is not None:
            base = replace(base, tokenizer=source.base.tokenizer, template=source.base.template)
        config = doubled(self.config) if self._pissa else self.config
        arrays = {name: layer.adapter_arrays() for name, layer in self._layers.items()}
        projection: tuple[Array, ...] = ()
        if as_lora:
            config = replace(config, vera=None)
            arrays = {name: layer.as_product() for name, layer in self._layers.items()}
        elif config.vera is not None and config.vera.save_projection:
            shared = next(iter(self._layers.values())).projection
            projection = (shared.A, shared.B)
        return Adapter(
            config, arrays, base=base, provenance=provenance, projection=projection, tables=tables
        )

    def freeze_A(self) -> None:
        """Train B alone from now on, against A as it is (Zhang et al. 2023, "LoRA-FA", Sec. 3).

        No gradient of A is made, and an optimizer made afterwards keeps nothing for it.
        """
        self._require_attached("freeze_A")
        if self.config.vera is not None:
            raise ValueError("got freeze_A for VeRA, whose A is never trained, expected another")
        for layer in self._layers.values():
            layer.lora_A.requires_grad = False
            layer.lora_A.grad = None

    # -- merging ---------------------------------------------------------------------------

    def merge(self) -> None:
        """Merge every layer, or none: each delta is made and found finite before the first is used.

        Raises MergeError naming the layer whose delta is not finite, or how many are merged.
        """
        self._require_attached("merge")
        if any(layer.merged for layer in self._layers.values()):
            raise self._merge_error("merge", "none")
        totals = merged_weights(self._layers)
        for name, layer in self._layers.items():
            layer._put_merged(totals[name])

    def unmerge(self) -> None:
        """Put every layer's own W back, bit for bit. Raises MergeError unless all are merged."""
        self._require_attached("unmerge")
        if not all(layer.merged for layer in self._layers.values()):
            raise self._merge_error("unmerge", "all")
        for layer in self._layers.values():
            layer.unmerge()

    # -- taking it off ---------------------------------------------------------------------

    def detach(self) -> Module:
        """Give the base back as it was before `attach`, in place; returns the model.

        Linears, arrays, requires_grad, writeable flags and training modes are those of before.
        What was trained is lost unless `adapter` took it. Raises MergeError while any layer is
        merged (unmerge first, or use merge_and_unload to keep the change).
        """
        self._require_attached("detach")
        if any(layer.merged for layer in self._layers.values()):
            raise self._merge_error(
                "detach", "none; unmerge first, or use merge_and_unload to keep the change"
            )
        freeze = self._freeze
        self._take_off()
        freeze.restore_modes()
        return self.model

    def merge_and_unload(self) -> Module:
        """The plain model with W + ΔW in new arrays, in place; the arrays of W are never written.

        Takes an unmerged or a wholly merged model. Raises MergeError for a half-merged one, or a
        delta that is not finite, before anything changes.
        """
        self._require_attached("merge_and_unload")
        if not any(layer.merged for layer in self._layers.values()):
            self.merge()
        elif not all(layer.merged for layer in self._layers.values()):
            raise self._merge_error("merge_and_unload", "all or none")
        self._take_off(merged=True)
        return self.model

    def _take_off(self, merged: bool = False) -> None:
        for name, module in {**self._layers, **self._tables}.items():
            self.model.set_submodule(name, module.base_layer)
        before = [(layer.base_layer.weight, layer.base_weight) for layer in self._layers.values()]
        if merged and self._tables:
            before += put_in(self.model, self._tables)
        self._freeze.release(before)
        self._freeze = None

    def _require_attached(self, verb: str) -> None:
        if not self.attached:
            raise AttachError(f"{verb} got an adapter that is off its model, expected one on it")
        for name, layer in {**self._layers, **self._tables}.items():
            if self.model.get_submodule(name) is not layer:
                raise AttachError(
                    f"{verb} got a model that has another module at {name}, expected the layer "
                    "that attach put there"
                )

    def _merge_error(self, verb: str, expected: str) -> MergeError:
        merged = [name for name, layer in self._layers.items() if layer.merged]
        return MergeError(
            f"{verb} got {len(merged)} of {len(self._layers)} layers merged "
            f"({', '.join(merged[:4])}), expected {expected}"
        )
