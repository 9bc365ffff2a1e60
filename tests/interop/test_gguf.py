"""Small GGUF files read by transformers' own converter: the same weights, ids and logits."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
ggufs = pytest.importorskip("tests.hub.ggufs")

from minilora.hub import load_pretrained  # noqa: E402

SHAPES = {
    "grouped": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "one head each, untied": {
        "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False
    },
    "head_dim apart": {"hidden_size": 96, "num_attention_heads": 8, "num_key_value_heads": 4},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_and_logits_are_those_of_transformers(shape, kind, tmp_path):
    tokenizer = ggufs.digit_tokenizer(["Pulse 88, regular."] * 3)
    _, metadata, arrays = ggufs.parts(tokenizer, **SHAPES[shape])
    kinds = {name: kind for name, array in arrays.items() if array.ndim == 2}
    ggufs.write_gguf(tmp_path / "tiny.gguf", metadata, arrays, kinds)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", dtype=torch.float32
    ).eval()
    ours, _ = load_pretrained(tmp_path / "tiny.gguf")
    other = dict(theirs.named_parameters())
    assert other.keys() == ours.state_dict().keys()
    for name, array in ours.state_dict().items():
        np.testing.assert_array_equal(array, other[name].detach().numpy(), err_msg=name)
    ids = np.random.default_rng(0).integers(0, ours.config.vocab_size, (2, 40))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(ours(ids).data, expected, rtol=0, atol=1e-4)
