"""Models on disk: Hugging Face folders (read and written) and GGUF files (read)."""

from __future__ import annotations

import json
from pathlib import Path

from minilora.hub.config import read_config
from minilora.hub.gguf import load_gguf
from minilora.hub.weights import WEIGHTS, fill_model, open_weights, require_size
from minilora.lora import is_adapted
from minilora.nn import Transformer
from minilora.storage import atomic_folder, write_safetensors
from minilora.text.tokenizer import Tokenizer


def save_pretrained(
    folder: Path | str, model: Transformer, tokenizer: Tokenizer, card: str = ""
) -> None:
    """Write a folder that `transformers` and `load_pretrained` read; whole or not at all.

    Weights of a stored base are written as the float32 numbers that they mean.
    Raises ValueError for a model that still carries adapters (merge_and_unload it first).
    """
    if is_adapted(model):
        raise ValueError("save_pretrained got an adapted model, expected merge_and_unload first")
    with atomic_folder(folder) as part:
        write_safetensors(part / WEIGHTS, model.state_dict(), {"format": "pt"})
        config = json.dumps(model.config.to_dict(), indent=2, sort_keys=True)
        (part / "config.json").write_text(config + "\n", "utf-8")
        tokenizer.save(part)
        if card:
            (part / "README.md").write_text(card, "utf-8")


def load_pretrained(path: Path | str, dtype: str = "float32") -> tuple[Transformer, Tokenizer]:
    """Model (in eval mode) and tokenizer of a Llama-family folder or GGUF file.

    A folder holds config.json, tokenizer.json and model.safetensors, single or in shards, of
    float32, float16 or bfloat16 tensors. The weights are read tensor by tensor, and kept as
    dtype says: "float32", or frozen as "float16" or "q4" (see `nn.store_base`).

    Raises ValueError for settings this decoder does not have, for a file that is damaged, for
    missing or unexpected tensors, and for NaN or Inf among the weights.
    """
    path = Path(path)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return load_gguf(path, dtype)
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder, expected a Hugging Face model folder or a .gguf")
    config = read_config(path)
    tokenizer = Tokenizer.from_folder(path)
    require_fit(path, tokenizer, config.vocab_size)
    weights = open_weights(path)
    require_size(config, weights)
    model = Transformer(config, rng=None)
    fill_model(model, weights, dtype)
    return model.eval(), tokenizer


def require_fit(path: Path, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raise ValueError for a tokenizer that would ask for rows which the embedding has not."""
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} ids, expected at most vocab_size = "
            f"{vocab_size}"
        )
