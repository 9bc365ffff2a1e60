"""The shipped base and an adapter on it, in transformers and PEFT: the same logits and answers."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.hub import load_pretrained
from minilora.hub.bases import WARD_BASE
from minilora.lora import LoRAConfig, adapter_state, attach
from minilora.text.answers import answers
from minilora.ward import house_examples

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
PROMPTS = [example.prompt for example in house_examples("cardiology", "heldout", 6, 77)]


@pytest.fixture(scope="module")
def theirs():
    model = transformers.AutoModelForCausalLM.from_pretrained(WARD_BASE, dtype=torch.float32)
    return model.eval()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def test_logits_ids_and_chat_text_are_the_same_in_transformers(theirs):
    model, tokenizer = load_pretrained(WARD_BASE)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(WARD_BASE)
    for prompt in PROMPTS:
        ids = tokenizer.encode_prompt(prompt)
        chat = [{"role": "user", "content": prompt}]
        text = their_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert their_tokenizer(text, add_special_tokens=False)["input_ids"] == ids
        ours = model(np.array([ids])).data[0]
        np.testing.assert_allclose(ours, logits(theirs, ids), atol=1e-4, rtol=1e-4)


def test_greedy_answers_are_the_same_in_transformers(theirs):
    model, tokenizer = load_pretrained(WARD_BASE)
    for prompt, ours in zip(PROMPTS, answers(model, tokenizer, PROMPTS, 64), strict=True):
        ids = tokenizer.encode_prompt(prompt)
        out = theirs.generate(
            torch.tensor([ids]), max_new_tokens=64, do_sample=False, pad_token_id=0
        )
        assert tokenizer.decode(out[0, len(ids) :].tolist()) == ours


def test_an_adapter_of_the_shipped_base_loads_in_peft(tmp_path):
    peft = pytest.importorskip("peft")
    model, tokenizer = load_pretrained(WARD_BASE)
    ids = tokenizer.encode_prompt(PROMPTS[0])
    plain = model(np.array([ids])).data[0]
    handle = attach(model, LoRAConfig(r=4, lora_alpha=6), np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for array in adapter_state(model).values():
        array += 0.1 * rng.standard_normal(array.shape).astype(np.float32)
    ours = model.eval()(np.array([ids])).data[0]
    handle.adapter(base_name="ward-base").write(tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(WARD_BASE, dtype=torch.float32)
    their_logits = logits(peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval(), ids)
    assert np.abs(ours - plain).max() > 0.1
    np.testing.assert_allclose(ours, their_logits, atol=1e-4, rtol=1e-4)
