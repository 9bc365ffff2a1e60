"""The tensors of a Hugging Face folder, one at a time: model.safetensors, or its shards."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Protocol

import numpy as np

from minilora.autograd.quantize import quantize
from minilora.autograd.stored_array import StoredArray
from minilora.nn import Transformer, TransformerConfig, formats_for, store_base
from minilora.storage import SafetensorsFile, one_line, read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = ("F32", "F16", "BF16", "F64")
SMALL = 1 << 18
"""Numbers of a model that is built whatever its file holds: it takes no memory to speak of."""
_LAYER = re.compile(r"model\.layers\.\d+\.")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Weights(Protocol):
    """Named tensors that are read when they are asked for."""

    path: Path
    shapes: dict[str, tuple[int, ...]]

    def read(self, name: str) -> np.ndarray:
        """A fresh float32 array."""

    def stored(self, name: str) -> StoredArray | None:
        """The tensor in the file's own blocks, None where a q4 base can't keep these."""


class WeightsFile:
    """The weights in one safetensors file: `shapes` by name, and `read`.

    Raises ValueError naming the file when it is not whole, or a tensor that is no float.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = SafetensorsFile(path)
        self.shapes = self.file.shapes
        others = {name: dtype for name, dtype in self.file.dtypes.items() if dtype not in DTYPES}
        if others:
            raise ValueError(f"{path}: got {first_of(others)}, expected one of {list(DTYPES)}")

    def read(self, name: str) -> np.ndarray:
        """A tensor as a fresh float32 array; float16 and bfloat16 widen exactly."""
        return self.file.read(name, "float32")

    def stored(self, name: str) -> None:
        """None: these files hold no blocks."""


class Shards:
    """The tensors of several safetensors files, as model.safetensors.index.json places them.

    Raises ValueError naming a shard that is missing, and a tensor that is in no shard, in
    another than the index says, or in two.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places = self._read_index(path)
        self.files: dict[str, WeightsFile] = {}
        for name in sorted(set(self.places.values())):
            if not (path.parent / name).is_file():
                raise ValueError(f"{path} names the shard {name}, which is not there")
            self.files[name] = WeightsFile(path.parent / name)
        found: dict[str, str] = {}
        for shard, file in self.files.items():
            for name in file.shapes:
                if name in found:
                    raise ValueError(f"{path}: {name} is in two shards, {found[name]} and {shard}")
                found[name] = shard
        for name, shard in self.places.items():
            if found.get(name) != shard:
                raise ValueError(
                    f"{path} places {name} in {shard}, which has no such tensor "
                    f"(it is in {found.get(name, 'no shard')})"
                )
        extra = sorted(found.keys() - self.places.keys())
        if extra:
            raise ValueError(f"{path} does not list {extra[:3]} of {found[extra[0]]}")
        self.shapes = {name: self.files[s].shapes[name] for name, s in self.places.items()}

    @staticmethod
    def _read_index(path: Path) -> dict[str, str]:
        places = read_json(path).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise ValueError(f"{path} has no weight_map, expected tensor names and their shards")
        for name, shard in places.items():
            if not isinstance(shard, str) or Path(shard).name != shard:
                raise ValueError(f"{path} places {name} in {shard!r}, expected a file beside it")
        return places

    def read(self, name: str) -> np.ndarray:
        """A tensor as a fresh float32 array."""
        return self.files[self.places[name]].read(name)

    def stored(self, name: str) -> None:
        """None: these files hold no blocks."""


def open_weights(folder: Path) -> Weights:
    """The weights of a folder. Raises ValueError where there are none that can be read."""
    if (folder / WEIGHTS).is_file():
        return WeightsFile(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return Shards(folder / INDEX)
    pickles = sorted(p.name for p in folder.glob("*.bin"))
    found = f"; it has {pickles[0]}, a pickle, which could run code" if pickles else ""
    raise ValueError(f"{folder} has no {WEIGHTS}, expected one or {INDEX}{found}")


def require_size(config: TransformerConfig, weights: Weights) -> None:
    """Raise ValueError for a config of more than twice the file's numbers, or of other layers.

    Asked before the model is built, as building it would take the memory. A config that is small,
    or nearer to the file, is judged by `fill_model`, which names the tensors that do not fit.
    """
    held = sum(math.prod(shape) for shape in weights.shapes.values())
    if config.parameter_count > max(SMALL, 2 * held):
        raise ValueError(
            f"{weights.path}: got {held:,} numbers, expected {config.parameter_count:,} for the "
            "sizes of the config"
        )
    got = {match[0] for match in map(_LAYER.match, weights.shapes) if match}
    expected = {f"model.layers.{i}." for i in range(config.num_hidden_layers)}
    if got != expected:
        missing, extra = ([n[:-1] for n in sorted(x)] for x in (expected - got, got - expected))
        raise ValueError(
            f"{weights.path} holds {len(got)} layers, expected num_hidden_layers = "
            f"{config.num_hidden_layers}: missing {_some_of(missing)}, unexpected {_some_of(extra)}"
        )


def fill_model(model: Transformer, weights: Weights, dtype: str = "float32") -> None:
    """Read every tensor into the model, one by one: the peak is the model and one tensor.

    dtype: how matrices are kept, as `store_base` says it. "q4" keeps a GGUF file's Q4_1 and Q8_0
    blocks as they are, so the model computes with the same numbers as in float32.
    Raises ValueError naming missing and unexpected tensors and shapes that differ, before any is
    read, and the first tensor that holds NaN or Inf.
    """
    shapes = dict(weights.shapes)
    # Some exports write a tied embedding twice.
    repeated = model.lm_head is None and shapes.pop(HEAD, None) is not None
    own = {name: p.shape for name, p in model.named_parameters()}
    missing, extra = sorted(own.keys() - shapes.keys()), sorted(shapes.keys() - own.keys())
    if missing or extra:
        raise ValueError(
            f"{weights.path}: missing {_some_of(missing)}, unexpected {_some_of(extra)}"
        )
    wrong = [f"{n} got {shapes[n]}, expected {s}" for n, s in own.items() if shapes[n] != s]
    if wrong:
        raise ValueError(f"{weights.path}: {_some_of(wrong)}")
    formats, ready = formats_for(model, dtype), {}
    for name, parameter in model.named_parameters():
        blocks = weights.stored(name) if dtype == "q4" and name in formats else None
        if blocks is not None:
            ready[name] = blocks
            continue
        array = weights.read(name)
        if not np.isfinite(array).all():
            raise ValueError(f"{weights.path} holds NaN or Inf in {name}, expected finite weights")
        if name in formats:
            ready[name] = _stored(weights, name, array, formats[name])
        else:
            parameter.data = array
    store_base(model, dtype, ready)
    if repeated and not np.array_equal(weights.read(HEAD), weights.read(EMBEDDING)):
        raise ValueError(
            f"{weights.path}: got an {HEAD} that differs from the embedding, expected the same "
            "numbers, as config.json has tie_word_embeddings true"
        )


def _stored(weights: Weights, name: str, array: np.ndarray, format: str) -> StoredArray:
    try:
        return quantize(array, format)
    except ValueError as error:
        raise ValueError(f"{weights.path}: {name}: {error}") from None


def _some_of(findings: list[str]) -> str:
    """The first few of several findings, and how many more there are."""
    more = f" and {len(findings) - 4} more" if len(findings) > 4 else ""
    return ", ".join(one_line(text) for text in findings[:4]) + more or "none"


def first_of(findings: dict[str, object]) -> str:
    """The first three of several findings, and how many there are."""
    shown = ", ".join(one_line(f"{name}: {value}") for name, value in list(findings.items())[:3])
    return shown + (f" and {len(findings) - 3} more" if len(findings) > 3 else "")
