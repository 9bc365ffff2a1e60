"""Random Llamas of many shapes, written by transformers in shards and in half precision."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.hub import load_pretrained
from minilora.text import Tokenizer

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
DTYPES = ("float32", "float16", "bfloat16")


def random_config(rng, smallest_vocab):
    """Sizes that divide nothing in particular; the width is not heads times head_dim."""
    kv_heads, groups = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    return transformers.LlamaConfig(
        vocab_size=smallest_vocab + int(rng.integers(0, 40)),
        hidden_size=kv_heads * groups * int(rng.integers(1, 9)),
        intermediate_size=int(rng.integers(3, 50)),
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=kv_heads * groups,
        num_key_value_heads=kv_heads,
        head_dim=2 * int(rng.integers(1, 9)),
        rms_norm_eps=float(10 ** -rng.uniform(2, 7)),
        rope_parameters={"rope_type": "default", "rope_theta": float(10 ** rng.uniform(1, 6))},
        tie_word_embeddings=bool(rng.integers(2)),
        max_position_embeddings=48,
    )


@pytest.mark.parametrize("seed", range(24))
def test_logits_are_those_of_transformers(seed, tmp_path):
    rng = np.random.default_rng(seed)
    tokenizer = Tokenizer.train(["Pulse 88"], 270)
    config = random_config(rng, tokenizer.vocab_size)
    theirs = transformers.LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in theirs.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise if parameter.ndim == 2 else 1.0 + 0.3 * noise)
    theirs = theirs.to(getattr(torch, DTYPES[seed % 3]))
    theirs.save_pretrained(tmp_path, max_shard_size="3KB" if seed % 2 else "1GB")
    tokenizer.save(tmp_path)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == bool(seed % 2)
    ours, _ = load_pretrained(tmp_path)
    ids = rng.integers(0, config.vocab_size, (3, 47))
    # Read again: a model that is widened from bfloat16 keeps rounded rotary frequencies.
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(ours(ids).data, expected, rtol=0, atol=1e-4)
