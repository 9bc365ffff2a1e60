"""PEFT's adapter folder, read and judged without a model: config, tensors, and our sidecar.

Only JSON and safetensors are ever opened; a pickled adapter is refused by its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilora.backend import Array
from minilora.lora.config import LoRAConfig
from minilora.lora.peft_options import (
    check_options,
    chosen_by_rule,
    config_of,
    options_of,
    shared_scaling,
)
from minilora.storage import read_safetensors

CONFIG, TENSORS, SIDECAR, PICKLE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "minilora.json",
    "adapter_model.bin",
)
FORMAT_VERSION = 1
"""Of minilora.json."""

_TENSOR_NAME = re.compile(r"base_model\.model\.(.+)\.(lora_[AB])\.weight")


class AdapterError(ValueError):
    """An adapter folder that is incomplete, damaged, or asks for what minilora does not do."""


@dataclass(frozen=True)
class AdapterFolder:
    """What an adapter folder holds.

    config: with the targets as written, or the modules of the tensors where a rule chose them.
    tensors: "<module>.lora_A" (r, in) and "<module>.lora_B" (out, r), float, finite, in pairs.
    options: adapter_config.json as parsed. sidecar: minilora.json as parsed, or None.
    """

    path: Path
    config: LoRAConfig
    tensors: dict[str, np.ndarray]
    options: dict
    sidecar: dict | None

    @property
    def modules(self) -> list[str]:
        """Dotted names of the adapted modules, sorted."""
        return sorted({name.rpartition(".")[0] for name in self.tensors})

    @property
    def by_rule(self) -> bool:
        """Whether more than names chose the modules: a regular expression, exclude_modules, …"""
        return chosen_by_rule(self.options)

    @property
    def scaling(self) -> float | dict[str, float]:
        """s where all modules share it, else each module's."""
        return shared_scaling(self.config, self.modules)


# ----------------------------------------------------------------------------------------- reading


def read_adapter(folder: str | Path) -> AdapterFolder:
    """Read and check an adapter folder; no model is needed.

    Raises AdapterError naming file, what was got and what was expected: files that are missing,
    pickled, truncated or no JSON, another peft_type, options that minilora does not support, and
    tensors that are unexpected, unpaired, of a wrong rank or dtype, or not finite.
    """
    path = Path(folder)
    options = _read_json(path / CONFIG)
    try:
        check_options(options)
        tensors = _read_tensors(path)
        config = config_of(options, sorted({name.rpartition(".")[0] for name in tensors}))
    except AdapterError:
        raise
    except ValueError as error:
        raise AdapterError(f"{path}: {CONFIG} {error}") from None
    _check_ranks(path, config, tensors)
    sidecar = _read_sidecar(path) if (path / SIDECAR).exists() else None
    found = AdapterFolder(path, config, tensors, options, sidecar)
    _check_scaling(found)
    return found


def _read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise AdapterError(f"got no readable {path}, expected an adapter folder with it") from None
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise AdapterError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    if not (path / TENSORS).is_file():
        if (path / PICKLE).exists():
            raise AdapterError(
                f"{path} got {PICKLE}, a pickle, which can run code when opened; expected "
                f"{TENSORS} (save it again with safe_serialization=True)"
            )
        raise AdapterError(f"got no {TENSORS} in {path}, expected one")
    try:
        raw, _ = read_safetensors(path / TENSORS)
    except (OSError, ValueError) as error:
        raise AdapterError(str(error)) from None
    matches = {name: _TENSOR_NAME.fullmatch(name) for name in sorted(raw)}
    odd = [name for name, match in matches.items() if match is None]
    if odd or not raw:
        raise AdapterError(
            f"{path / TENSORS} got {_some(odd) or 'no tensors'}, expected only names such as "
            "base_model.model.<module>.lora_A.weight"
        )
    tensors = {f"{m[1]}.{m[2]}": raw[name] for name, m in matches.items()}
    for name, array in tensors.items():
        if array.dtype.kind != "f":
            raise AdapterError(f"{path / TENSORS}: {name} got {array.dtype}, expected floats")
        if not np.isfinite(array).all():
            raise AdapterError(f"{path / TENSORS}: {name} got NaN or infinity, expected finite")
    return tensors


def _check_ranks(path: Path, config: LoRAConfig, tensors: Mapping[str, np.ndarray]) -> None:
    twin = {"lora_A": "lora_B", "lora_B": "lora_A"}
    for name, array in tensors.items():
        module, _, leaf = name.rpartition(".")
        r = config.at(module).r
        if f"{module}.{twin[leaf]}" not in tensors:
            raise AdapterError(f"{path / TENSORS}: missing {module}.{twin[leaf]} beside {name}")
        expected = f"({r}, in)" if leaf == "lora_A" else f"(out, {r})"
        if array.ndim != 2 or array.shape[0 if leaf == "lora_A" else 1] != r:
            raise AdapterError(
                f"{path / TENSORS}: {name} got shape {array.shape}, expected {expected}"
            )


def _read_sidecar(path: Path) -> dict:
    sidecar = _read_json(path / SIDECAR)
    version = sidecar.get("format_version")
    if version != FORMAT_VERSION:
        raise AdapterError(
            f"{path / SIDECAR} got format_version {version!r}, expected {FORMAT_VERSION}"
        )
    mark = sidecar.get("base_fingerprint")
    if not isinstance(mark, str) or not mark.startswith("sha256:"):
        raise AdapterError(f"{path / SIDECAR} got base_fingerprint {mark!r}, expected 'sha256:...'")
    told = sidecar.setdefault("provenance", {})
    if not isinstance(told, dict):
        raise AdapterError(f"{path / SIDECAR} got provenance {told!r}, expected an object")
    return sidecar


def _check_scaling(found: AdapterFolder) -> None:
    if found.sidecar is None or found.sidecar.get("scaling") == found.scaling:
        return
    raise AdapterError(
        f"{found.path}: {CONFIG} gives scaling {found.scaling}, but {SIDECAR} was written for "
        f"{found.sidecar.get('scaling')!r}; expected r, lora_alpha, use_rslora and the patterns "
        "unchanged"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


# ----------------------------------------------------------------------------------------- writing


def config_json(config: LoRAConfig, modules: list[str], base_name: str) -> str:
    """adapter_config.json, keys and targets sorted, so that equal adapters give equal bytes."""
    return dump_json(options_of(config, modules, base_name))


def peft_tensors(state: Mapping[str, Array]) -> dict[str, Array]:
    """ "<module>.lora_A" -> "base_model.model.<module>.lora_A.weight", sorted."""
    return {f"base_model.model.{name}.weight": state[name] for name in sorted(state)}


def dump_json(value: object) -> str:
    """JSON with sorted keys, indent 2 and a last newline; NumPy scalars become plain numbers.

    Raises ValueError for NaN, infinity, or a value that JSON has no word for.
    """

    def plain(x: object) -> object:
        if isinstance(x, np.generic):
            return x.item()
        if isinstance(x, Path):
            return x.as_posix()
        raise ValueError(f"got {type(x).__name__} {x!r}, expected what JSON can hold")

    try:
        text = json.dumps(
            value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False, default=plain
        )
    except TypeError as error:  # keys of mixed types cannot be sorted
        raise ValueError(f"got {value!r}, expected what JSON can hold: {error}") from None
    return text + "\n"
