"""Hugging Face folders: config.json, model.safetensors, tokenizer.json, a model card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from minilora.hub.tokenizer import Tokenizer
from minilora.lora import is_adapted
from minilora.nn import Transformer, TransformerConfig
from minilora.storage import atomic_folder, read_safetensors, write_safetensors

EXPECTED = {
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_scaling": (None,),
    "quantization_config": (None,),
}
# What a LlamaConfig means by a setting that its config.json leaves out.
DEFAULTS = {"tie_word_embeddings": False, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048}


def read_config(folder: Path | str) -> TransformerConfig:
    """The TransformerConfig of a folder's config.json.

    Raises ValueError naming every setting that this decoder does not have, and what it has.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json, expected a Hugging Face folder")
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a JSON {type(values).__name__}, expected an object")
    odd = {
        key: values[key]
        for key, allowed in EXPECTED.items()
        if key in values and values[key] not in allowed
    }
    rope = values.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        odd["rope_parameters"] = rope
    if odd:
        allowed = {key: EXPECTED[key] for key in odd if key in EXPECTED}
        raise ValueError(f"{path}: got {odd}, supported is the plain Llama family {allowed}")
    given = {key: _first(value) for key, value in values.items() if value is not None}
    try:
        return TransformerConfig.from_dict({**DEFAULTS, **given})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _first(value: object) -> object:
    """The first of several end tokens."""
    return value[0] if isinstance(value, list) and value else value


def save_pretrained(
    folder: Path | str, model: Transformer, tokenizer: Tokenizer, card: str = ""
) -> None:
    """Write a folder that `transformers` and `load_pretrained` read; whole or not at all.

    Raises ValueError for a model that still carries adapters (merge_and_unload it first).
    """
    if is_adapted(model):
        raise ValueError("save_pretrained got an adapted model, expected merge_and_unload first")
    with atomic_folder(folder) as part:
        write_safetensors(part / "model.safetensors", model.state_dict(), {"format": "pt"})
        config = json.dumps(model.config.to_dict(), indent=2, sort_keys=True)
        (part / "config.json").write_text(config + "\n", "utf-8")
        tokenizer.save(part)
        if card:
            (part / "README.md").write_text(card, "utf-8")


def load_pretrained(folder: Path | str) -> tuple[Transformer, Tokenizer]:
    """Model (float32) and tokenizer of a Llama-family folder.

    Raises ValueError for settings this decoder does not have, for missing or unexpected tensors,
    and for NaN or Inf among the weights.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, expected a Hugging Face model folder")
    config = read_config(folder)
    tokenizer = Tokenizer.from_folder(folder)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"{folder} has no model.safetensors, expected one")
    state, _ = read_safetensors(path)
    if config.tie_word_embeddings and "lm_head.weight" in state:
        repeated = state.pop("lm_head.weight")  # some exports write the tied embedding twice
        if not np.array_equal(repeated, state.get("model.embed_tokens.weight", ())):
            raise ValueError(
                f"{path}: got an lm_head.weight that differs from the embedding, expected the "
                "same numbers, as config.json has tie_word_embeddings true"
            )
    bad = sorted(name for name, a in state.items() if not np.isfinite(a).all())
    if bad:
        raise ValueError(f"{path} holds NaN or Inf in {bad[:3]}, expected finite weights")
    model = Transformer(config, rng=None)
    try:
        model.load_state_dict(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return model.eval(), tokenizer
