"""The TransformerConfig in a GGUF file's metadata, and what is refused by name."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from minilora.limits import require_count, require_finite
from minilora.nn import TransformerConfig

ARCHITECTURE = "llama"
# Our field -> the key after "llama."
SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
EPS, THETA = "attention.layer_norm_rms_epsilon", "rope.freq_base"
KV_HEADS, KEY_LENGTH = "attention.head_count_kv", "attention.key_length"
# Keys that leave the plain family as it is when they hold these values.
NEUTRAL: dict[str, tuple] = {
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scale_linear": (0.0, 1.0),
    "attention.causal": (True,),
    "expert_count": (0,),
    "expert_used_count": (0,),
}
KNOWN = {*SIZES.values(), EPS, THETA, KV_HEADS, KEY_LENGTH, *NEUTRAL}
KNOWN |= {"vocab_size", "attention.value_length", "rope.dimension_count", "tensor_data_layout"}


TOKENIZER = "tokenizer.ggml."
TEXTS = ("model", "pre")
TEXT_LISTS = ("tokens", "merges")
COUNT_LISTS = ("token_type",)
"""Keys after "tokenizer.ggml." by what they hold."""


def require_kinds(path: Path, metadata: dict[str, Any]) -> None:
    """Raise ValueError naming a key whose value is of another kind than its name says."""
    for key, value in metadata.items():
        own = key.removeprefix(TOKENIZER) if key.startswith(TOKENIZER) else ""
        if own in TEXTS:
            fits, expected = isinstance(value, str), "a text"
        elif own in TEXT_LISTS:
            fits, expected = _is_list(value, str), "a list of texts"
        elif own in COUNT_LISTS:
            fits, expected = _is_list(value, int), "a list of whole numbers"
        elif own.endswith("_token_id"):
            fits, expected = type(value) is int, "a whole number"
        else:
            continue
        if not fits:
            raise ValueError(f"{path}: got {key} {reprlib.repr(value)}, expected {expected}")


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(type(entry) is kind for entry in value)


def config_of(path: Path, metadata: dict[str, Any], tied: bool) -> TransformerConfig:
    """The config that the metadata describes; `tied`: the file has no output head of its own.

    Raises ValueError naming another architecture, settings this decoder lacks, or missing keys.
    """
    found = metadata.get("general.architecture")
    if found != ARCHITECTURE:
        raise ValueError(f"{path} has architecture {found!r}, supported is {ARCHITECTURE!r}")
    require_kinds(path, metadata)
    prefix = f"{ARCHITECTURE}."
    own = {k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}
    for key, value in own.items():  # some writers repeat one number for every layer
        if isinstance(value, list) and len(set(value)) == 1:
            own[key] = value[0]
    heads = own.get("attention.head_count")
    missing = sorted(prefix + key for key in {*SIZES.values(), EPS} - own.keys())
    if missing or not isinstance(heads, int) or heads < 1:
        raise ValueError(
            f"{path} lacks {missing or 'attention heads'}, expected a llama's metadata"
        )
    try:
        for key in {*SIZES.values(), KV_HEADS, KEY_LENGTH} & own.keys():
            require_count(prefix + key, own[key], 1)
        for key in {EPS, THETA} & own.keys():
            require_finite(prefix + key, own[key])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    head_dim = own.get(KEY_LENGTH, own["embedding_length"] // heads)
    _refuse_odd(path, own, head_dim)
    values = {field: own[key] for field, key in SIZES.items()}
    try:
        return TransformerConfig(
            **values,
            vocab_size=len(metadata.get("tokenizer.ggml.tokens", ())),
            num_key_value_heads=own.get(KV_HEADS, heads),
            head_dim=head_dim,
            rms_norm_eps=_short(own[EPS]),
            rope_theta=_short(own.get(THETA, 10000.0)),
            tie_word_embeddings=tied,
            bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
            eos_token_id=metadata.get("tokenizer.ggml.eos_token_id"),
            pad_token_id=metadata.get("tokenizer.ggml.padding_token_id"),
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _refuse_odd(path: Path, own: dict[str, Any], head_dim: int) -> None:
    neutral = dict(NEUTRAL)
    neutral["attention.value_length"] = neutral["rope.dimension_count"] = (head_dim,)
    odd = {key: value for key, value in own.items() if key not in KNOWN}
    odd |= {k: own[k] for k, allowed in neutral.items() if k in own and own[k] not in allowed}
    if odd:
        allowed = {key: neutral[key] for key in odd if key in neutral}
        raise ValueError(f"{path}: got {odd}, supported is the plain Llama family {allowed}")


def _short(value: float) -> float:
    """The number that was meant by a float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
