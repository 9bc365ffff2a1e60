"""config.json of a Hugging Face folder: what this decoder runs, and what it refuses by name."""

from __future__ import annotations

from pathlib import Path

from minilora.limits import require_finite
from minilora.nn import TransformerConfig
from minilora.storage import read_json

EXPECTED = {
    "architectures": (["LlamaForCausalLM"],),
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_interleaved": (False,),
    "partial_rotary_factor": (1.0,),
    "quantization_config": (None,),
}
# What a LlamaConfig means by a setting that its config.json leaves out.
DEFAULTS = {"tie_word_embeddings": False, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048}

ROPE = ("rope_scaling", "rope_parameters")
"""Where folders say how positions turn: older ones in the first, newer ones in the second."""
THETA = 10000.0


def read_config(folder: Path | str) -> TransformerConfig:
    """The TransformerConfig of a folder's config.json.

    Raises ValueError naming every setting that this decoder does not have, and what it has.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json, expected a Hugging Face folder")
    values = read_json(path)
    odd = odd_settings(values)
    if odd:
        allowed = {key: EXPECTED[key] for key in odd if key in EXPECTED}
        raise ValueError(f"{path}: got {odd}, supported is the plain Llama family {allowed}")
    try:
        values["rope_theta"] = rope_theta(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    given = {key: value for key, value in values.items() if value is not None}
    if isinstance(given.get("eos_token_id"), list):
        given["eos_token_id"] = tuple(given["eos_token_id"]) or None
    try:
        return TransformerConfig.from_dict({**DEFAULTS, **given})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def rope_theta(values: dict) -> float:
    """The base of the rotary frequencies.

    transformers 5 takes the one in rope_scaling or rope_parameters before the one beside them,
    transformers 4 the one beside them. Raises ValueError where these differ, and for a base that
    is no number.
    """
    places = [values, *(values.get(key) or {} for key in ROPE)]
    bases = [place["rope_theta"] for place in places if place.get("rope_theta") is not None]
    for theta in bases:
        require_finite("rope_theta", theta, above=True)
        if theta != bases[0]:
            raise ValueError(f"got rope_theta {bases[0]} and {theta}, expected one number")
    return float(bases[0]) if bases else THETA


def odd_settings(values: dict) -> dict:
    """The settings of a config.json that this decoder would get wrong."""
    odd = {
        key: values[key]
        for key, allowed in EXPECTED.items()
        if values.get(key) is not None and values[key] not in allowed
    }
    for key in ROPE:
        rope = values.get(key)
        if rope is not None and not isinstance(rope, dict):
            odd[key] = rope
        elif rope is not None:
            kind = rope.get("rope_type", rope.get("type", "default"))
            if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
                odd[key] = rope
    return odd
