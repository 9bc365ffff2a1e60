"""The step of one token on arrays computes what the model computes."""

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.lora import LoRAConfig, attach
from minilora.nn import Parameter, Transformer, decode, store_base
from minilora.nn.decode import Decoding
from minilora.nn.generate import new_caches
from tests import tiny


def a_model(kind: str) -> Transformer:
    """A lively model: plain, untied, with biases, adapted, merged, or over stored blocks."""
    shape = dict(hidden_size=32, intermediate_size=64)  # whole blocks, for what is stored
    model = tiny.model(**shape, tie_word_embeddings=kind != "untied")
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data = rng.normal(0, 0.4, parameter.shape).astype(np.float32)
    if kind == "biased":
        for block in model.model.layers:
            for layer in (block.self_attn.k_proj, block.mlp.down_proj):
                layer.bias = Parameter(rng.normal(0, 0.4, layer.out_features).astype(np.float32))
    if kind == "stored":
        store_base(model, "q4")
    if kind in ("adapted", "merged", "stored"):
        handle = attach(
            model,
            LoRAConfig(r=3, lora_alpha=7, target_modules=("q_proj", "v_proj", "o_proj", "up_proj")),
            rng,
        )
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.data[...] = rng.normal(0, 0.4, parameter.shape)
    if kind == "merged":
        handle.merge()
    return model.eval()


@pytest.mark.parametrize("wide", [0, decode.WIDE])  # the product turned, or as it is
@pytest.mark.parametrize("start", [None, np.array([0, 3, 1])])
@pytest.mark.parametrize("kind", ["plain", "untied", "biased", "adapted", "merged", "stored"])
def test_a_step_gives_the_logits_of_the_whole_row(kind, start, wide, monkeypatch):
    monkeypatch.setattr(decode, "WIDE", wide)
    model = a_model(kind)
    ids = np.random.default_rng(1).integers(0, model.config.vocab_size, (3, 9))
    with no_grad():
        whole = model.hidden_states(ids, start).data @ model_head(model).T
        caches = new_caches(model, 3, 12)
        model.hidden_states(ids[:, :5], start, caches)
        decoding = Decoding(model, caches, start)
        for at in range(5, 9):
            logits = decoding.step(ids[:, at])
            assert np.abs(whole[:, at] - whole[:, at - 1]).max() > 0.1
            np.testing.assert_allclose(logits, whole[:, at], rtol=1e-4, atol=1e-4)
    assert {cache.length for cache in caches} == {9}


def model_head(model: Transformer) -> np.ndarray:
    """The output head as plain numbers."""
    weight = model.head_weight.data
    return weight if isinstance(weight, np.ndarray) else weight.dense()


def test_an_adapter_is_part_of_the_step():
    ids = np.array([[3, 1, 4], [1, 5, 9], [2, 6, 5]])
    logits = []
    for kind in ("plain", "adapted"):
        model = a_model(kind)
        caches = new_caches(model, 3, 4)
        with no_grad():
            model.hidden_states(ids[:, :2], None, caches)
            logits.append(Decoding(model, caches, None).step(ids[:, 2]))
    assert np.abs(logits[0] - logits[1]).max() > 0.1


@pytest.mark.parametrize(("numbers", "rows", "calls"), [(12, 1, 0), (12, 2, 1), (13, 2, 0)])
def test_a_wide_matrix_is_multiplied_from_its_long_side(numbers, rows, calls, monkeypatch):
    """W h^T for several rows; a single row, and a small matrix, as they are."""
    rng = np.random.default_rng(3)
    monkeypatch.setattr(decode, "WIDE", numbers)
    w, h, out = rng.normal(size=(4, 3)), rng.normal(size=(rows, 3)), np.empty((rows, 4))
    first, plain = [], np.matmul

    def matmul(a, b, *rest):
        first.append(a)
        return plain(a, b, *rest)

    times = decode.times(w)
    monkeypatch.setattr(np, "matmul", matmul)
    assert times(h, out) is out
    np.testing.assert_allclose(out, plain(h, w.T))
    assert sum(a is w for a in first) == calls and len(first) == 1
