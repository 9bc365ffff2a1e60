"""BaseMark: which base an adapter was made for, and what tells another base from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass

import numpy as np

from minilora.autograd.products import is_stored
from minilora.lora.state import base_fingerprint, base_state
from minilora.nn import Module, TransformerConfig
from minilora.storage import fingerprint
from minilora.text import Tokenizer
from minilora.text.chat_template import template_of

SILENT = (
    "initializer_range", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
"""Fields of a model's config that don't change what it computes for the tokens that it is given."""

PROBE = "Pulse 88/min; café,  naïve\n\tΔW = 0.5·B·A — 血圧 120 👍🏽 _x1'll <|end|>"
"""A text whose tokens show how a tokenizer splits words, numbers, spaces, accents and bytes."""


@dataclass(frozen=True)
class BaseMark:
    """Which base an adapter was made for. A base is known by its numbers, not by its name.

    fingerprint: "sha256:..." of all weights, as the numbers that they mean. held: the same of a
    stored base's blocks as they are held, which is quick to take; equal blocks are equal numbers.
    config: the numbers of its config that change what it computes. adapted: "sha256:..." of the
    adapted modules' weights alone, which is all that adapters of the first sidecars knew.
    tokenizer, template: "sha256:..." of how texts become tokens, and of the chat template; these
    change what a text means to the model, and no number of it. None for what is not known.
    """

    name: str = field(default="", compare=False)
    fingerprint: str | None = None
    held: str | None = field(default=None, compare=False)
    config: Mapping | None = field(default=None, hash=False)
    adapted: str | None = None
    tokenizer: str | None = field(default=None, compare=False)
    template: str | None = field(default=None, compare=False)


def mark_base(
    model: Module, name: str = "", tokenizer: Tokenizer | None = None, *, quick: bool = False
) -> BaseMark:
    """The mark of a model's base, with or without an adapter on it.

    Every weight is hashed. quick: over a stored base leave `fingerprint` None, for which all of
    its numbers must be made; `attach` takes it where `held` is not enough.
    """
    stored = any(is_stored(array) for array in base_state(model).values())
    return BaseMark(
        name,
        None if stored and quick else base_fingerprint(model),
        held_fingerprint(model) if stored else None,
        computing_config(model),
        tokenizer=None if tokenizer is None else tokenizer_fingerprint(tokenizer),
        template=None if tokenizer is None else template_fingerprint(tokenizer),
    )


def held_fingerprint(model: Module) -> str:
    """ "sha256:..." of all the base's arrays as they are held, stored ones by their fields."""
    arrays = {}
    for name, array in base_state(model).items():
        if is_stored(array):
            kind = f"{array.format} {array.dtype} {array.shape}"
            arrays |= {f"{name} {kind} {i}": x for i, x in enumerate(array.fields)}
        else:
            arrays[name] = array
    return fingerprint(arrays)


def computing_config(model: Module) -> dict:
    """The numbers of the model's config that change what it computes; {} without a config."""
    config = getattr(model, "config", None)
    if not is_dataclass(config):
        return {}
    return {name: value for name, value in asdict(config).items() if name not in SILENT}


def config_differences(got: Mapping, expected: Mapping) -> dict[str, tuple]:
    """Field -> (got, expected) where two bases' numbers differ, compared as float32.

    A field that one side does not name has TransformerConfig's default: it came later than the
    file. Fields without a default are left to those that name them.
    """
    defaults = {f.name: f.default for f in fields(TransformerConfig) if f.default is not MISSING}
    different = {}
    for name in sorted((got.keys() | expected.keys()) - set(SILENT)):
        values = tuple(side.get(name, defaults.get(name)) for side in (got, expected))
        if _plain(values[0]) != _plain(values[1]):
            different[name] = values
    return different


def _plain(value: object) -> object:
    """A number as the float32 that the model computes with; anything else as JSON has it."""
    if isinstance(value, float):
        return float(np.float32(value))
    return value if isinstance(value, (int, str, type(None))) else json.dumps(value, default=str)


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """ "sha256:..." of the tokens with their ids and merges, and of how PROBE is split.

    Not of the files: one tokenizer has several (tokenizer.json, GGUF).
    """
    vocabulary = sorted(tokenizer.backend.get_vocab(with_added_tokens=True).items())
    model = json.loads(tokenizer.backend.to_str())["model"]
    merges = [m.split(" ") if isinstance(m, str) else m for m in model.get("merges") or []]
    scores = model.get("vocab") if isinstance(model.get("vocab"), list) else None
    ends = [tokenizer.eos_id, tokenizer.pad_id]
    return _hashed([vocabulary, merges, scores, tokenizer.encode(PROBE), ends])


def template_fingerprint(tokenizer: Tokenizer) -> str:
    """ "sha256:..." of the chat template's text."""
    return _hashed(template_of(tokenizer.config))


def _hashed(value: object) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(value).encode()).hexdigest()
