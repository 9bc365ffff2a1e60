"""config.json of a Hugging Face folder: what this decoder runs, and what it refuses by name.

Where a file leaves a setting out, or sets it in two places, it means here what it means to
transformers' LlamaConfig. Settings that contradict each other are refused where versions of
transformers choose differently.
"""

from __future__ import annotations

import reprlib
from numbers import Integral
from pathlib import Path

from minilora.limits import require_finite
from minilora.nn import TransformerConfig
from minilora.storage import read_json

CONFIG, GENERATION = "config.json", "generation_config.json"
EXPECTED = {
    "architectures": (["LlamaForCausalLM"],),
    "model_type": ("llama",),
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_interleaved": (False,),
    "partial_rotary_factor": (1.0,),
    "sliding_window": (),
    "attention_chunk_size": (),
    "per_layer_config": ({},),
    "quantization_config": (),
}
"""Setting -> the values, beside null, with which this decoder computes what is meant."""
DEFAULTS = {
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
}
"""What a LlamaConfig means by a setting that its config.json leaves out."""
ROPE = ("rope_scaling", "rope_parameters")
"""Where folders say how positions turn: older ones in the first, newer ones in the second."""
THETA = 10000.0

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80
_short = _repr.repr  # a broken file must not fill the screen


def read_config(folder: Path | str) -> TransformerConfig:
    """The TransformerConfig of a folder's config.json.

    The tokens that end a text are those of generation_config.json, where it names some.

    Raises ValueError naming every setting that this decoder does not have, and what it has.
    """
    path, generation = Path(folder) / CONFIG, Path(folder) / GENERATION
    if not path.is_file():
        raise ValueError(f"{folder} has no {CONFIG}, expected a Hugging Face folder")
    values = read_json(path)
    try:
        config = config_of(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    ends = read_json(generation).get("eos_token_id") if generation.is_file() else None
    if ends is None:
        return config
    try:
        return config_of({**values, "eos_token_id": ends})
    except ValueError as error:
        raise ValueError(f"{generation}: {error}") from None


def config_of(values: dict) -> TransformerConfig:
    """The TransformerConfig that a parsed config.json means to transformers.

    Raises ValueError naming settings that this decoder does not have, that contradict each other,
    or that are no numbers.
    """
    other = other_settings(values)
    if other:
        allowed = {key: EXPECTED[key] for key in other if key in EXPECTED}
        raise ValueError(f"got {_short(other)}, supported is the plain Llama family {allowed}")
    settings = {**DEFAULTS, **{k: v for k, v in values.items() if v is not None}}
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        settings[key] = _token_ids(key, values.get(key, DEFAULTS.get(key)))
    if not isinstance(settings["tie_word_embeddings"], bool):
        raise ValueError(
            f"got tie_word_embeddings {_short(settings['tie_word_embeddings'])}, "
            "expected true or false"
        )
    settings["rope_theta"] = rope_theta(values)
    _require_heads(settings)
    return TransformerConfig.from_dict(settings)


def other_settings(values: dict) -> dict:
    """The settings of a config.json with which transformers computes what this decoder does not."""
    other = {
        key: values[key]
        for key, allowed in EXPECTED.items()
        if values.get(key) is not None and values[key] not in allowed
    }
    kinds = values.get("layer_types")
    if kinds is not None and (
        not isinstance(kinds, list) or set(map(str, kinds)) != {"full_attention"}
    ):
        other["layer_types"] = kinds
    for key in ROPE:
        rope = values.get(key)
        if isinstance(rope, dict):
            kind = rope.get("rope_type", rope.get("type", "default"))
            if kind != "default" or rope.get("partial_rotary_factor") not in (None, 1.0):
                other[key] = rope
        elif rope is not None:
            other[key] = rope
    return other


def rope_theta(values: dict) -> float:
    """The base of the rotary frequencies.

    transformers 5 takes the one in rope_scaling or rope_parameters before the one beside them,
    transformers 4 the one beside them. Raises ValueError where these differ, and for a base that
    is no number of at least 1.
    """
    places = {f"{key}.rope_theta": values.get(key) or {} for key in ROPE} | {"rope_theta": values}
    bases = {name: place["rope_theta"] for name, place in places.items() if "rope_theta" in place}
    for key, theta in bases.items():
        require_finite(key, theta, 1.0)
    if len({float(theta) for theta in bases.values()}) > 1:
        raise ValueError(f"got {bases}, expected one number: versions of transformers take another")
    return float(next(iter(bases.values()), THETA))


def _require_heads(settings: dict) -> None:
    """Raise ValueError for a head_dim of 0, or a width that no heads share evenly."""
    width, heads = settings.get("hidden_size"), settings.get("num_attention_heads")
    head_dim = settings.get("head_dim")
    if head_dim is None:
        whole = isinstance(width, int) and isinstance(heads, int) and heads > 0
        if whole and width % heads:
            raise ValueError(
                f"got hidden_size {width} and {heads} heads without a head_dim, expected a multiple"
            )
    elif head_dim == 0:
        raise ValueError(f"got head_dim {head_dim}, expected an even number above 0")


def _token_ids(key: str, value: object) -> int | tuple[int, ...] | None:
    """One token id, None, or, of ends, several."""
    several = isinstance(value, list) and key == "eos_token_id"
    ids = value if several else [] if value is None else [value]
    for number in ids:
        if not isinstance(number, Integral) or isinstance(number, bool):
            raise ValueError(f"got {key} {_short(value)}, expected token ids")
    return (tuple(ids) or None) if several else value
