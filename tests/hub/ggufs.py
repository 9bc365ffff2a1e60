"""Small GGUF files, written by the `gguf` package as llama.cpp's converter lays them out."""

from __future__ import annotations

import json

import gguf
import numpy as np
from tokenizers import pre_tokenizers

from minilora.text.tokenizer import CHAT_TEMPLATE, Tokenizer
from tests import tiny

STORED = {hf: ours for ours, hf in {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
}.items()}  # fmt: skip
STORED_LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def stored_name(name):
    """llama.cpp's name of a tensor."""
    stem = name.removesuffix(".weight")
    if stem in STORED:
        return f"{STORED[stem]}.weight"
    _, _, number, rest = stem.split(".", 3)
    return f"blk.{number}.{STORED_LAYER[rest]}.weight"


def permuted(rows, heads):
    """convert_hf_to_gguf's order: in each head, a row of the first half, then one of the second."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def stored_array(name, array, config):
    if name.endswith("q_proj.weight"):
        return permuted(array, config.num_attention_heads)
    if name.endswith("k_proj.weight"):
        return permuted(array, config.num_key_value_heads)
    return array


def metadata_of(config, tokens, merges, kinds):
    """The keys of a llama with a SmolLM tokenizer."""
    return {
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.block_count": config.num_hidden_layers,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": config.rope_theta,
        "llama.rope.dimension_count": config.head_dim,
        "llama.vocab_size": config.vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.eos_token_id": config.eos_token_id,
        "tokenizer.ggml.padding_token_id": config.pad_token_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def add_value(writer, key, value):
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def write_gguf(path, metadata, arrays, kinds, architecture="llama"):
    """arrays: by stored name, already permuted; kinds: the ggml type of each, F32 where unsaid."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        add_value(writer, key, value)
    for name, array in arrays.items():
        kind = gguf.GGMLQuantizationType[kinds.get(name, "F32")]
        blocks = gguf.quants.quantize(np.ascontiguousarray(array, np.float32), kind)
        raw = None if kind.name in ("F32", "F16") else kind
        writer.add_tensor(name, blocks, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def digit_tokenizer(texts):
    """A byte-level BPE that splits digits, as SmolLM2's tokenizer.json says it."""
    tokenizer = Tokenizer.train(texts, 300)
    tokenizer.backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), tokenizer.backend.pre_tokenizer]
    )
    return tokenizer


def parts(tokenizer, **changes):
    """(model, metadata, arrays by stored name): what a file is written from."""
    saved = json.loads(tokenizer.backend.to_str())
    vocab, added = saved["model"]["vocab"], {t["content"] for t in saved["added_tokens"]}
    tokens = sorted(vocab, key=vocab.get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in saved["model"]["merges"]]
    shape = dict(
        hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=3, head_dim=8,
    )  # fmt: skip
    model = tiny.model(norms=0.3, tokenizer=tokenizer, **{**shape, **changes}).eval()
    config = model.config
    arrays = {
        stored_name(name): stored_array(name, array, config)
        for name, array in model.state_dict().items()
    }
    kinds = [3 if token in added else 1 for token in tokens]
    return model, metadata_of(config, tokens, merges, kinds), arrays
