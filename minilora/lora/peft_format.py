"""PEFT's adapter folder, read, judged and written without a model: config, tensors, our sidecar.

Only JSON and safetensors are ever opened; a pickled adapter is refused by its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minilora import __version__
from minilora.backend import Array
from minilora.lora.config import EMBEDDING, HEAD, WHOLE, LoRAConfig
from minilora.lora.peft_options import (
    check_options,
    choosing_rule,
    config_of,
    is_vera,
    options_of,
)
from minilora.lora.targets import is_chosen
from minilora.storage import atomic_folder, read_json, read_safetensors, write_safetensors

CONFIG, TENSORS, SIDECAR, PICKLE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "minilora.json",
    "adapter_model.bin",
)
FORMAT_VERSION = 2
"""Of minilora.json. Version 1 knew the base by its adapted weights alone."""

LONGEST_MESSAGE = 1200

FINGERPRINTS = (
    "base_fingerprint",
    "base_held_fingerprint",
    "base_adapted_fingerprint",
    "adapter_fingerprint",
    "tokenizer_fingerprint",
    "template_fingerprint",
)

MAGNITUDE = "lora_magnitude_vector"
"""The leaf of DoRA's lengths, whose tensor's name PEFT ends with it."""

LORA_LEAVES = ("lora_A", "lora_B", MAGNITUDE)
VERA_LEAVES = ("vera_lambda_b", "vera_lambda_d")
"""A module's arrays in an adapter's order; DoRA's lengths are not always there."""
PROJECTION = ("vera_A", "vera_B")
"""VeRA's matrices, which belong to no module."""

_TENSOR_NAME = re.compile(
    rf"base_model\.model\.(.+)\.(?:(lora_[AB])\.weight|({MAGNITUDE}|vera_lambda_[bd]))"
)
_TABLE_NAME = re.compile(
    r"base_model\.model\.(model\.embed_tokens|lm_head)\."
    r"(?:token_adapter\.)?(trainable_tokens_delta|lora_embedding_[AB]|lora_[AB](?=\.weight)"
    r"|(?:base_layer\.|modules_to_save\.|original_module\.)?weight)(?:\.weight)?"
)
BASE_WEIGHT = "base_layer.weight"
"""The table that A and B, or rows, were trained on: PEFT saves it where it was made larger."""
_PROJECTION_NAME = re.compile(r"base_model\.(vera_[AB])")


class AdapterError(ValueError):
    """An adapter folder that is incomplete, damaged, or asks for what minilora does not do.

    Its message is one line of LONGEST_MESSAGE characters at most, whatever the folder's files say.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        if len(line) > LONGEST_MESSAGE:
            line = f"{line[: LONGEST_MESSAGE // 2]} ... {line[-LONGEST_MESSAGE // 3 :]}"
        super().__init__(line)


@dataclass(frozen=True)
class FolderParts:
    """What an adapter folder holds.

    config: with the targets as written, or the modules of the tensors where a rule chose them.
    factors: module -> (A, B), each there, with DoRA's magnitude as third where there is one; of
    VeRA (b, d). projection: VeRA's A and B where they are there, else (). tables: of the embedding
    and the head, "<table>.<leaf>" -> array. rule:
    PEFT's options that chose the modules where they were more than names, else {}. sidecar:
    minilora.json as parsed, or None.
    """

    config: LoRAConfig
    factors: dict[str, tuple[np.ndarray, ...]]
    projection: tuple[np.ndarray, ...]
    tables: dict[str, np.ndarray]
    base_name: str
    rule: dict
    sidecar: dict | None


# ----------------------------------------------------------------------------------------- reading


def read_folder(folder: str | Path) -> FolderParts:
    """Read an adapter folder; no model is needed.

    Raises AdapterError naming file, what was got and what was expected: files that are missing,
    pickled, truncated or no JSON, another peft_type, options that minilora does not support, and
    tensors that are unexpected or unpaired.
    """
    path = Path(folder)
    options = _read_json(path / CONFIG)
    try:
        check_options(options)
        factors, projection, tables = _read_tensors(path, is_vera(options))
        config, rule = config_of(options, sorted(factors)), choosing_rule(options)
        config, tables = _without_repeats(config, tables)
        idle = [name for name in factors if rule and not is_chosen(name, rule)]
    except AdapterError:
        raise
    except ValueError as error:
        raise AdapterError(f"{path}: {CONFIG} {error}") from None
    if idle:
        raise AdapterError(
            f"{path / TENSORS} got unexpected tensors for {some_of(idle)}, which {CONFIG} does not "
            "choose; expected only those that it does"
        )
    sidecar = _read_sidecar(path) if (path / SIDECAR).exists() else None
    names = (options.get("base_model_name_or_path"), (sidecar or {}).get("base_name"))
    for name in names:
        if name is not None and not isinstance(name, str):
            raise AdapterError(f"{path} got base name {name!r}, expected a text")
    return FolderParts(
        config, factors, projection, tables, names[0] or names[1] or "", rule, sidecar
    )


def _read_json(path: Path) -> dict:
    """The object in a file of the folder; what is wrong with it is an AdapterError."""
    try:
        return read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        below = adapters_below(path.parent)
        raise AdapterError(f"got no {path}, expected an adapter folder with it{below}") from None
    except ValueError as error:
        raise AdapterError(str(error)) from None


def adapters_below(path: Path) -> str:
    """What to say of the adapters in folders of `path`, where PEFT puts those that have a name."""
    with contextlib.suppress(OSError):
        names = sorted(inner.parent.name for inner in path.glob(f"*/{CONFIG}"))
        if names:
            return f"; there are adapters in its folders: {some_of([f'{path / n}' for n in names])}"
    return ""


def _read_tensors(
    path: Path, vera: bool
) -> tuple[dict[str, tuple[np.ndarray, ...]], tuple[np.ndarray, ...], dict[str, np.ndarray]]:
    """Module -> its arrays, by the sorted names, then VeRA's projection, and those of tables."""
    if not (path / TENSORS).is_file():
        if (path / PICKLE).exists():
            raise AdapterError(
                f"{path} got {PICKLE}, a pickle, which can run code when opened; expected "
                f"{TENSORS} (save it again with safe_serialization=True)"
            )
        raise AdapterError(f"got no {TENSORS} in {path}, expected one")
    try:
        raw, _ = read_safetensors(path / TENSORS)
    except ValueError as error:
        raise AdapterError(str(error)) from None
    leaves, needed = (VERA_LEAVES, VERA_LEAVES) if vera else (LORA_LEAVES, LORA_LEAVES[:2])
    shared = {m[1]: raw.pop(n) for n in list(raw) if vera and (m := _PROJECTION_NAME.fullmatch(n))}
    of_tables = {name: m for name in sorted(raw) if (m := _TABLE_NAME.fullmatch(name))}
    tables = {_table_leaf(m): raw.pop(name) for name, m in of_tables.items()}
    matches = {name: _TENSOR_NAME.fullmatch(name) for name in sorted(raw)}
    unknown = [name for name, m in matches.items() if m is None or (m[2] or m[3]) not in leaves]
    if unknown or not raw:
        example = "vera_lambda_b" if vera else "lora_A.weight"
        raise AdapterError(
            f"{path / TENSORS} got {some_of(unknown) or 'no tensors'}, expected only names such as "
            f"base_model.model.<module>.{example}"
        )
    if len(shared) == 1:
        other = next(name for name in PROJECTION if name not in shared)
        raise AdapterError(f"{path / TENSORS}: missing {other} beside {next(iter(shared))}")
    tensors = {(m[1], m[2] or m[3]): raw[name] for name, m in matches.items()}
    for module, leaf in tensors:
        for other in needed:
            if (module, other) not in tensors:
                raise AdapterError(
                    f"{path / TENSORS}: missing {module}.{other} beside {module}.{leaf}"
                )
    factors = {
        name: tuple(tensors[name, leaf] for leaf in leaves if (name, leaf) in tensors)
        for name in sorted({module for module, _ in tensors})
    }
    return factors, tuple(shared[name] for name in PROJECTION if name in shared), tables


def _table_leaf(match: re.Match) -> str:
    """ "<table>.<leaf>" of a tensor of the embedding or the head."""
    return f"{match[1]}.{match[2]}"


def _without_repeats(
    config: LoRAConfig, tables: dict[str, np.ndarray]
) -> tuple[LoRAConfig, dict[str, np.ndarray]]:
    """Less what PEFT saves twice where a base was given more tokens; the config that this means.

    Beside a table that is trained whole it saves the one that was there, which nothing uses any
    more, and the head, as one that is whole. A tied head has the embedding's rows a second time.
    Raises ValueError for second ones that differ.
    """
    tables = {n: x for n, x in tables.items() if not n.endswith(".original_module.weight")}
    pairs = {n: n.replace(".modules_to_save.", ".") for n in tables if ".modules_to_save." in n}
    if HEAD not in config.tables:
        heads = (f"{HEAD}.trainable_tokens_delta", f"{HEAD}.{BASE_WEIGHT}")
        pairs |= {n: n.replace(HEAD, EMBEDDING, 1) for n in heads if n in tables}
        if f"{HEAD}.weight" in tables and config.tables.get(EMBEDDING) == WHOLE:
            config = replace(config, modules_to_save=(*config.modules_to_save, HEAD))
    for second, first in pairs.items():
        if first not in tables or not np.array_equal(tables[second], tables[first]):
            raise ValueError(f"got {second} that is not {first}, expected the same numbers")
        del tables[second]
    return config, tables


def is_of_table(name: str) -> bool:
    """Whether an adapter's array of this name is of the embedding or the head."""
    return name.startswith((f"{EMBEDDING}.", f"{HEAD}."))


def pair_names(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Module -> the names of its A and B among the names of a file's tensors, where both are."""
    parts = {(m[1], m[2] or m[3]): name for name in names if (m := _TENSOR_NAME.fullmatch(name))}
    return {
        module: (name, parts[module, "lora_B"])
        for (module, leaf), name in parts.items()
        if leaf == "lora_A" and (module, "lora_B") in parts
    }


def _read_sidecar(path: Path) -> dict:
    """minilora.json, as one of FORMAT_VERSION says it."""
    sidecar = _read_json(path / SIDECAR)
    version = sidecar.get("format_version")
    if version not in (1, FORMAT_VERSION) or isinstance(version, bool):
        raise AdapterError(
            f"{path / SIDECAR} got format_version {version!r}, expected 1 or {FORMAT_VERSION}"
        )
    needed = "base_fingerprint" if version == 1 else "adapter_fingerprint"
    for key in FINGERPRINTS:
        mark = sidecar.get(key)
        is_mark = isinstance(mark, str) and mark.startswith("sha256:")
        if not is_mark and (key == needed or mark is not None):
            raise AdapterError(f"{path / SIDECAR} got {key} {mark!r}, expected 'sha256:...'")
    for key in ("provenance", "base_config"):
        value = sidecar.get(key)
        if value is not None and not isinstance(value, dict):
            raise AdapterError(f"{path / SIDECAR} got {key} {value!r}, expected an object")
    if version == 1:
        sidecar["base_adapted_fingerprint"] = sidecar.pop("base_fingerprint")
    return sidecar


def provenance_sha256(provenance: Mapping) -> str:
    """ "sha256:..." of provenance as minilora.json has it: a changed byte in it can be found."""
    return f"sha256:{hashlib.sha256(dump_json(dict(provenance)).encode()).hexdigest()}"


def some_of(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


# ----------------------------------------------------------------------------------------- writing


def write_folder(
    folder: str | Path,
    config: LoRAConfig,
    tensors: Mapping[str, Array],
    base_name: str,
    sidecar: Mapping,
) -> Path:
    """Write the three files; the folder appears whole or not at all. Returns its path.

    tensors: "<module>.lora_A", "<module>.lora_B" and, of DoRA, "<module>.lora_magnitude_vector" ->
    array; of VeRA "<module>.vera_lambda_b" and "_d", and "vera_A" and "vera_B". sidecar: what
    minilora.json says beside the versions. Keys, targets and tensors are sorted, so that equal
    adapters give equal bytes. Raises ValueError for what JSON has no word for, before anything is
    written.
    """
    about = {"format_version": FORMAT_VERSION, "minilora_version": __version__, **sidecar}
    modules = sorted(
        {n.rpartition(".")[0] for n in tensors if n not in PROJECTION and not is_of_table(n)}
    )
    texts = {CONFIG: options_of(config, modules, base_name), SIDECAR: about}
    texts = {name: dump_json(value).encode() for name, value in texts.items()}
    named = {_tensor_name(name): tensors[name] for name in sorted(tensors)}
    with atomic_folder(folder) as part:
        for name, text in texts.items():
            (part / name).write_bytes(text)
        write_safetensors(part / TENSORS, named, {"format": "pt"})
    return Path(folder)


def _tensor_name(name: str) -> str:
    if name in PROJECTION:
        return f"base_model.{name}"
    table, _, leaf = name.rpartition(".")
    if leaf == "trainable_tokens_delta":
        return f"base_model.model.{table}.token_adapter.{leaf}"
    end = ".weight" if name.endswith((".lora_A", ".lora_B")) else ""
    return f"base_model.model.{name}{end}"


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
