"""Adapter: what LoRA training made, as a value. Reading, comparing or writing it needs no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from minilora.backend import Array, to_numpy
from minilora.lora.base import BaseMark
from minilora.lora.config import EMBEDDING, PRODUCT, ROWS, WHOLE, LoRAConfig
from minilora.lora.peft_format import (
    BASE_WEIGHT,
    CONFIG,
    LORA_LEAVES,
    MAGNITUDE,
    PROJECTION,
    SIDECAR,
    TENSORS,
    VERA_LEAVES,
    AdapterError,
    dump_json,
    provenance_sha256,
    read_folder,
    some_of,
    write_folder,
)
from minilora.lora.peft_options import in_plain_names, shared_scaling
from minilora.lora.targets import names_target
from minilora.storage import fingerprint

MARKS = {
    "fingerprint": "base_fingerprint",
    "held": "base_held_fingerprint",
    "config": "base_config",
    "adapted": "base_adapted_fingerprint",
    "tokenizer": "tokenizer_fingerprint",
    "template": "template_fingerprint",
}
"""Field of BaseMark -> its key in minilora.json."""


def leaves_of(config: LoRAConfig) -> tuple[str, ...]:
    """The names of a module's arrays in the order in which an Adapter of this config has them."""
    if config.vera is not None:
        return VERA_LEAVES
    return LORA_LEAVES if config.use_dora else LORA_LEAVES[:2]


def table_shapes(
    config: LoRAConfig, table: str, vocab: int | None = None, width: int | None = None
) -> dict[str, tuple[int | None, int | None]]:
    """Leaf -> shape of the arrays of a table; None for a size that is not known."""
    kind, r = config.tables[table], config.at(table).r
    if kind == WHOLE:
        return {"weight": (vocab, width)}
    if kind == ROWS:
        ids = config.trainable_token_indices[table.rpartition(".")[2]]
        return {"trainable_tokens_delta": (len(ids), width)}
    if table == EMBEDDING:
        return {"lora_embedding_A": (r, vocab), "lora_embedding_B": (width, r)}
    return {"lora_A": (r, width), "lora_B": (vocab, r)}


class Adapter:
    """ΔW = s B A for some of a base's Linears: a config, A and B of every module, and their origin.

    Its arrays are host copies that refuse writes, and nothing of it can be set anew: whoever
    wants a change makes another Adapter. Two are equal when their configs, the bits of their
    arrays and the weights of their bases are; names, origin and source don't count.

    config: with the adapted modules' names for "all-linear", and sorted as in a file.
    base: which base it was made for. provenance: where it came from, as JSON values.
    source: what messages call it, its folder where it was read from one.
    minilora_version: of the minilora that wrote the folder, None elsewhere.
    projection: VeRA's A (r, largest in) and B (largest out, r) where it holds them, else ().
    tables: "<table>.<leaf>" -> what is trained of the embedding and the head, mostly nothing.
    rule: PEFT's options that chose the modules, where they were more than names; {} elsewhere.
    """

    __slots__ = (
        "_factors", "_provenance", "base", "config", "minilora_version", "projection", "rule",
        "source", "tables",
    )  # fmt: skip

    def __init__(
        self,
        config: LoRAConfig,
        factors: Mapping[str, tuple[Array, ...]],
        *,
        base: BaseMark = BaseMark(),
        provenance: Mapping | None = None,
        source: str = "the adapter",
        minilora_version: str | None = None,
        rule: Mapping | None = None,
        projection: tuple[Array, ...] = (),
        tables: Mapping[str, Array] | None = None,
    ) -> None:
        """factors: module -> (A (r, in), B (out, r)), r as the config gives that module; with
        use_dora (A, B, magnitude (out,)); with vera (b (out,), d (r,)), and with its
        save_projection the projection too.

        Raises AdapterError for no modules, modules that are not among the config's targets, and
        arrays that are not finite floats of these shapes; ValueError for provenance that JSON has
        no word for.
        """
        own = {name: tuple(_own_copy(x) for x in factors[name]) for name in sorted(factors)}
        projection = tuple(_own_copy(x) for x in projection)
        _check_factors(source, config, own)
        _check_projection(source, config, own, projection)
        tables = {name: _own_copy(x) for name, x in sorted((tables or {}).items())}
        _check_tables(source, config, tables)
        products = [table for table, kind in config.tables.items() if kind == PRODUCT]
        values = {
            "config": in_plain_names(config, [*own, *products]),
            "base": base,
            "source": source,
            "minilora_version": minilora_version,
            "projection": projection,
            "tables": MappingProxyType(tables),
            "rule": MappingProxyType(dict(rule or {})),
            "_factors": own,
            "_provenance": dump_json(dict(provenance or {})),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    # -- reading and writing ---------------------------------------------------------------

    @classmethod
    def read(cls, folder: str | Path) -> Adapter:
        """The adapter in one of PEFT's folders, with what our minilora.json beside it says.

        Only JSON and safetensors are ever opened. Raises AdapterError naming file, what was got
        and what was expected: files that are missing, pickled, truncated or no JSON, options that
        minilora does not support, and tensors that are unexpected, unpaired, of a wrong shape or
        dtype, or not finite.
        """
        parts = read_folder(folder)
        sidecar = parts.sidecar or {}
        marks = {name: sidecar.get(key) for name, key in MARKS.items()}
        try:
            adapter = cls(
                parts.config,
                parts.factors,
                base=BaseMark(parts.base_name, **marks),
                provenance=sidecar.get("provenance"),
                source=str(folder),
                minilora_version=sidecar.get("minilora_version"),
                rule=parts.rule,
                projection=parts.projection,
                tables=parts.tables,
            )
        except AdapterError:
            raise
        except ValueError as error:
            raise AdapterError(f"{folder}: {error}") from None
        _check_sidecar(adapter, sidecar)
        return adapter

    def write(self, folder: str | Path) -> Path:
        """Write PEFT's two files, and minilora.json beside them, to `folder`; returns its path.

        The folder appears whole or not at all, and equal adapters of one provenance give equal
        bytes. Raises ValueError for a folder that holds something else.
        """
        tensors = dict(self._named_arrays())
        sidecar = {
            "base_name": self.base.name,
            **{key: getattr(self.base, name) for name, key in MARKS.items()},
            "adapter_fingerprint": self.fingerprint,
            "scaling": shared_scaling(self.config, self.modules),
            "provenance": self.provenance,
            "provenance_sha256": provenance_sha256(self.provenance),
        }
        return write_folder(folder, self.config, tensors, self.base.name, sidecar)

    # -- what it is ------------------------------------------------------------------------

    @property
    def modules(self) -> tuple[str, ...]:
        """Dotted names of the adapted modules, sorted."""
        return tuple(self._factors)

    def factors(self, module: str) -> tuple[np.ndarray, np.ndarray]:
        """(A (r, in), B (out, r)) of a module, whose ΔW is s B A.

        Raises ValueError as `arrays`, and AdapterError as `require_product`.
        """
        self.require_product()
        return self.arrays(module)

    def require_product(self) -> None:
        """Raise AdapterError for DoRA and VeRA: who knows ΔW = s B A alone must not read them."""
        if self.config.use_dora:
            raise AdapterError(
                f"{self.source} got use_dora True: its ΔW depends on the base's weights and is no "
                "product B A; expected a plain LoRA adapter here (attach it, or merge it into its "
                "base)"
            )
        if self.config.tables:
            raise AdapterError(
                f"{self.source} changes {', '.join(self.config.tables)} too, which no ΔW of a "
                "Linear says; expected a plain LoRA adapter here (attach it, or merge it into its "
                "base)"
            )
        if self.config.vera is not None:
            raise AdapterError(
                f"{self.source} got peft_type VERA: it holds two vectors a module, and matrices "
                "that all modules share; expected a plain LoRA adapter here (attach it, and take "
                "adapter(as_lora=True), which computes the same, or merge it into its base)"
            )

    def arrays(self, module: str) -> tuple[np.ndarray, ...]:
        """(A, B) of a module, or (A, B, magnitude (out,)) with use_dora, or VeRA's (b, d).

        Raises ValueError for one that is not adapted.
        """
        if module not in self._factors:
            raise ValueError(
                f"got module {module!r}, expected one of the {len(self._factors)} that "
                f"{self.source} adapts ({', '.join(self.modules[:4])}, ...)"
            )
        return self._factors[module]

    def scaling(self, module: str) -> float:
        """s of a module, as `LoRAConfig.scaling` defines it. Raises ValueError as `arrays`."""
        self.arrays(module)
        return self.config.at(module).scaling

    def delta(self, module: str) -> np.ndarray:
        """ΔW = s B A of a module, (out, in), as a new array. Raises as `factors`."""
        A, B = self.factors(module)
        return (B * self.scaling(module)) @ A

    @property
    def size(self) -> int:
        """How many numbers the arrays have that it holds."""
        return sum(array.size for _, array in self._named_arrays())

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that it holds."""
        return sum(array.nbytes for _, array in self._named_arrays())

    @property
    def fingerprint(self) -> str:
        """ "sha256:..." over the arrays that it holds, with names, shapes and dtypes."""
        return fingerprint(dict(self._named_arrays()))

    @property
    def base_name(self) -> str:
        """What the base was called, "" where nothing is known."""
        return self.base.name

    @property
    def base_fingerprint(self) -> str | None:
        """ "sha256:..." of all the base's weights, None where that is not known."""
        return self.base.fingerprint

    @property
    def provenance(self) -> dict:
        """Where it came from (data hash, training settings, evaluation): a new dict of JSON."""
        return json.loads(self._provenance)

    def _named_arrays(self) -> list[tuple[str, np.ndarray]]:
        """ "<module>.<leaf>" -> array, VeRA's projection, and those of tables."""
        leaves = leaves_of(self.config)
        return [
            (f"{name}.{leaf}", array)
            for name, own in self._factors.items()
            for leaf, array in zip(leaves, own, strict=True)
        ] + [*zip(PROJECTION, self.projection, strict=False), *self.tables.items()]

    # -- a value ---------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Adapter):
            return NotImplemented
        same = (self.config, self.base, self.modules) == (other.config, other.base, other.modules)
        return same and all(
            (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
            for (_, a), (_, b) in zip(self._named_arrays(), other._named_arrays(), strict=True)
        )

    def __hash__(self) -> int:
        return hash((self.config, self.base, self.modules))

    def __repr__(self) -> str:
        return (
            f"<Adapter r {self.config.r} on {len(self._factors)} modules, {self.nbytes:,} bytes, "
            f"for {self.base.name!r}>"
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"got a new {name} for an Adapter, which is a value; make another")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"an Adapter is a value and can't lose its {name}")

    def __copy__(self) -> Adapter:
        return self

    def __deepcopy__(self, _: dict) -> Adapter:
        return self

    def __reduce__(self) -> tuple:
        return _rebuilt, (
            self.config, dict(self._factors), self.base, self.provenance, self.source,
            self.minilora_version, dict(self.rule), self.projection, dict(self.tables),
        )  # fmt: skip


def _rebuilt(
    config, factors, base, provenance, source, minilora_version, rule, projection, tables
) -> Adapter:
    """An unpickled Adapter: made anew, so that its arrays refuse writes again."""
    return Adapter(
        config, factors, base=base, provenance=provenance, source=source,
        minilora_version=minilora_version, rule=rule, projection=projection, tables=tables,
    )  # fmt: skip


def _own_copy(array: Array) -> np.ndarray:
    copy = np.array(to_numpy(array), order="C")
    copy.flags.writeable = False
    return copy


def _check_factors(
    source: str, config: LoRAConfig, factors: Mapping[str, tuple[np.ndarray, ...]]
) -> None:
    if not factors:
        raise AdapterError(f"{source} got no tensors, expected those of one module at least")
    extra = [name for name in factors if not names_target(config.target_modules, name)]
    if extra:
        raise AdapterError(
            f"{source} got unexpected tensors for {some_of(extra)}, expected only those of "
            f"{some_of(list(config.target_modules))}"
        )
    leaves = leaves_of(config)
    for name, own in factors.items():
        if len(own) != len(leaves):
            got = f"{len(own)} arrays" if config.vera else ", ".join(LORA_LEAVES[: len(own)])
            raise AdapterError(
                f"{source}: {name} got {got}, expected {', '.join(leaves)} with use_dora "
                f"{config.use_dora}"
            )
        r = config.at(name).r
        shapes = {
            "lora_A": (r, None), "lora_B": (None, r), MAGNITUDE: own[1].shape[:1],
            "vera_lambda_b": (None,), "vera_lambda_d": (r,),
        }  # fmt: skip
        for leaf, array in zip(leaves, own, strict=True):
            _check_array(f"{source}: {name}.{leaf}", array, shapes[leaf])


def _check_projection(
    source: str,
    config: LoRAConfig,
    factors: Mapping[str, tuple[np.ndarray, ...]],
    projection: tuple[np.ndarray, ...],
) -> None:
    expected = len(PROJECTION) if config.vera is not None and config.vera.save_projection else 0
    if len(projection) != expected:
        raise AdapterError(
            f"{source} got {len(projection)} shared matrices, expected {expected} "
            f"({', '.join(PROJECTION)}) with vera {config.vera}"
        )
    if projection:
        largest = max(len(b) for b, _ in factors.values())
        shapes = ((config.r, None), (largest, config.r))
        for leaf, array, shape in zip(PROJECTION, projection, shapes, strict=True):
            _check_array(f"{source}: {leaf}", array, shape)


def _check_tables(source: str, config: LoRAConfig, tables: Mapping[str, np.ndarray]) -> None:
    shapes = {
        f"{table}.{leaf}": shape
        for table in config.tables
        for leaf, shape in table_shapes(config, table).items()
    }
    allowed = {f"{t}.{BASE_WEIGHT}" for t, kind in config.tables.items() if kind != WHOLE}
    missing, extra = shapes.keys() - tables.keys(), tables.keys() - shapes.keys() - allowed
    if missing or extra:
        raise AdapterError(
            f"{source}: missing {some_of(sorted(missing)) or 'nothing'}, unexpected "
            f"{some_of(sorted(extra)) or 'nothing'}; expected of tables {sorted(shapes)}"
        )
    for name, array in tables.items():
        _check_array(f"{source}: {name}", array, shapes.get(name, (None, None)))


def _check_array(where: str, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    """shape: None for a size that is not known here. Raises AdapterError."""
    fits = array.ndim == len(shape) and all(
        size in (None, got) for size, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        expected = str(shape).replace("None", "any")
        raise AdapterError(f"{where} got shape {array.shape}, expected {expected}")
    if array.dtype.kind != "f":
        raise AdapterError(f"{where} got {array.dtype}, expected floats")
    if not np.isfinite(array).all():
        raise AdapterError(f"{where} got NaN or infinity, expected finite numbers")


def _check_sidecar(adapter: Adapter, sidecar: Mapping) -> None:
    """Raise AdapterError unless config and tensors are those that minilora.json was written for."""
    scaling = shared_scaling(adapter.config, adapter.modules)
    if sidecar and sidecar.get("scaling") != scaling:
        raise AdapterError(
            f"{adapter.source}: {CONFIG} gives scaling {scaling}, but {SIDECAR} was written for "
            f"{sidecar.get('scaling')!r}; expected r, lora_alpha, use_rslora and the patterns "
            "unchanged"
        )
    expected = sidecar.get("adapter_fingerprint")
    if expected is not None and adapter.fingerprint != expected:
        raise AdapterError(
            f"{adapter.source}: the tensors are {adapter.fingerprint}, but {SIDECAR} was written "
            f"for {expected}: {TENSORS} is damaged, or was changed since; delete {SIDECAR} to use "
            "it unchecked"
        )
