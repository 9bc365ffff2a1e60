"""Embedding and head in PEFT's format, made here or there: logits, gradients and merges."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from minilora.lora import Adapter, LoRAConfig, attach  # noqa: E402
from minilora.nn import Transformer  # noqa: E402
from tests import tiny  # noqa: E402
from tests.interop.test_peft import IDS, close, logits  # noqa: E402

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:.*not checked:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*save_embedding_layers.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tied.*:UserWarning"),
]
Q = ["q_proj"]
WAYS = {
    "whole embedding": {"modules_to_save": ["embed_tokens"]},
    "whole head": {"modules_to_save": ["lm_head"]},
    "whole both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "rows": {"trainable_token_indices": [5, 1, 30]},
    "rows by name": {"trainable_token_indices": {"embed_tokens": [5, 1, 30]}},
    "product embedding": {"target_modules": [*Q, "embed_tokens"]},
    "product head": {"target_modules": [*Q, "lm_head"]},
    "product both": {"target_modules": [*Q, "embed_tokens", "lm_head"]},
}
UNTIED = {"rows of both": {"trainable_token_indices": {"embed_tokens": [5], "lm_head": [1, 8]}}}
CASES = [pytest.param(how, tied, id=f"{n}, {tied}") for n, how in WAYS.items() for tied in (1, 0)]
CASES += [pytest.param(how, 0, id=name) for name, how in UNTIED.items()]


def ours(tied) -> Transformer:
    shape = dict(
        hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=bool(tied),
    )  # fmt: skip
    return tiny.model(**shape).eval()


def theirs(tied) -> torch.nn.Module:
    model = ours(tied)
    config = transformers.LlamaConfig(**model.config.to_dict())
    config._attn_implementation = "eager"
    peer = transformers.LlamaForCausalLM(config)
    state = {name: torch.from_numpy(a.copy()) for name, a in model.state_dict().items()}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    peer.load_state_dict(state, strict=True)
    return peer.eval()


def stir(parameters) -> None:
    rng = np.random.default_rng(3)
    for _, parameter in parameters:
        if parameter.requires_grad:
            noise = (rng.standard_normal(tuple(parameter.shape)) * 0.3).astype(np.float32)
            parameter.data = torch.from_numpy(noise) if torch.is_tensor(parameter) else noise


def our_config(how) -> LoRAConfig:
    how = {name: tuple(x) if isinstance(x, list) else x for name, x in how.items()}
    rows = how.pop("trainable_token_indices", {})
    rows = rows if isinstance(rows, dict) else {"embed_tokens": rows}
    return LoRAConfig(
        3, 5.0, how.pop("target_modules", tuple(Q)), trainable_token_indices=rows, **how
    )


def peft_model(how, tied):
    config = peft.LoraConfig(
        r=3, lora_alpha=5.0, task_type="CAUSAL_LM", **{"target_modules": Q, **how}
    )
    model = peft.get_peft_model(theirs(tied), config).eval()
    stir(model.named_parameters())
    return model


@pytest.mark.parametrize(("how", "tied"), CASES)
def test_one_saved_here_works_in_peft(tmp_path, how, tied):
    handle = attach(ours(tied), our_config(how), np.random.default_rng(1))
    stir(handle.model.named_parameters())
    handle.adapter(base_name="tiny").write(tmp_path / "a")
    loaded = peft.PeftModel.from_pretrained(theirs(tied), tmp_path / "a").eval()
    assert np.abs(logits(handle.model) - logits(ours(tied))).max() > 0.05
    assert close(logits(loaded), logits(handle.model))
    expected = logits(handle.model)
    assert close(logits(handle.merge_and_unload()), expected)


@pytest.mark.parametrize(("how", "tied"), CASES)
def test_one_saved_by_peft_works_here(tmp_path, how, tied):
    model = peft_model(how, tied)
    expected = logits(model)
    model.save_pretrained(tmp_path / "a")
    handle = attach(ours(tied), Adapter.read(tmp_path / "a"))
    assert np.abs(expected - logits(ours(tied))).max() > 0.05
    assert close(logits(handle.model), expected)
    assert close(logits(handle.merge_and_unload()), expected)


@pytest.mark.parametrize(("how", "tied"), CASES)
def test_the_gradients_are_pefts(tmp_path, how, tied):
    model = peft_model(how, tied)
    model.save_pretrained(tmp_path / "a")
    handle = attach(ours(tied), Adapter.read(tmp_path / "a"), trainable=True)
    labels = np.roll(IDS, -1, axis=1)
    handle.model.loss(IDS, labels).backward()
    out = model(torch.from_numpy(IDS)).logits
    torch.nn.functional.cross_entropy(
        out.reshape(-1, out.shape[-1]), torch.from_numpy(labels).reshape(-1)
    ).backward()
    peer = sorted((p.grad.numpy() for p in model.parameters() if p.grad is not None), key=key)
    found = sorted((p.grad for p in handle.model.parameters() if p.grad is not None), key=key)
    assert [g.shape for g in found] == [g.shape for g in peer]
    for gradient, expected in zip(found, peer, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def key(gradient) -> tuple:
    """By shape and size: names differ between the two libraries."""
    return (gradient.shape, round(float(np.abs(gradient).sum()), 3))
