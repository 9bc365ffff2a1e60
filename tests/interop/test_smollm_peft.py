"""SmolLM2-135M with an adapter trained here: PEFT, on the same weights, gives the same logits."""

from __future__ import annotations

import gc

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from minilora.hub.bases import open_base  # noqa: E402
from minilora.lora import (  # noqa: E402
    Adapter,
    LoRAConfig,
    Vera,
    attach,
    base_state,
)
from minilora.training import AdamW  # noqa: E402

pytestmark = [pytest.mark.interop, pytest.mark.slow]
NAME = "smollm2-135m"
# Logits reach 37 here. In float32 transformers is up to 1.1e-4 from its own float64, and so are we:
# 1e-4, which holds on the small bases, is what rounding alone costs.
TOLERANCE = 2e-4
TEXTS = [
    "Patient takes 20 mg of lisinopril daily; pulse 88, regular.",
    "drug: lisinopril | dose: 20 mg | pulse: 88",
]
ROWS = (*range(250, 260), 28, 216)
CONFIGS = {
    "q and v": LoRAConfig(r=8, lora_alpha=16),
    "all-linear, rsLoRA, patterns": LoRAConfig(
        r=4, lora_alpha=6, target_modules="all-linear", use_rslora=True,
        rank_pattern={r"layers\.(0|29)\..*": 8, "down_proj": 2}, alpha_pattern={"v_proj": 3},
    ),
    "VeRA": LoRAConfig(r=256, vera=Vera(7, d_initial=1.0)),
    "rows of tokens, tied": LoRAConfig(r=4, trainable_token_indices={"embed_tokens": ROWS}),
}  # fmt: skip


@pytest.fixture(scope="module")
def opened():
    """Our model and its token ids."""
    try:
        model, tokenizer = open_base(NAME)
    except (ValueError, OSError) as error:
        pytest.skip(f"{NAME} is not here: {error}")
    rows = [tokenizer.encode(text) for text in TEXTS]
    time = min(map(len, rows))
    return model, np.array([row[:time] for row in rows])


@pytest.fixture(scope="module")
def theirs(opened):
    """transformers' Llama with the arrays that our model has, float32."""
    model, _ = opened
    config = transformers.LlamaConfig(**model.config.to_dict())
    with torch.device("meta"):
        other = transformers.LlamaForCausalLM(config)  # no weights to draw first
    state = {name: torch.from_numpy(np.array(a)) for name, a in base_state(model).items()}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    other.load_state_dict(state, strict=True, assign=True)
    # The rotary table is no weight: make it anew, off the meta device.
    other.model.rotary_emb = type(other.model.rotary_emb)(config)
    yield other.eval()
    del other, state
    gc.collect()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits.numpy()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_an_adapter_trained_here_gives_the_same_logits_in_peft(
    opened, theirs, tmp_path, record_property, config
):
    model, ids = opened
    plain = model(ids).data
    np.testing.assert_allclose(logits(theirs, ids), plain, rtol=0, atol=TOLERANCE)
    handle = attach(model, config, np.random.default_rng(0))
    model.train()
    optimizer = AdamW(model.named_parameters())
    for _ in range(3):
        model.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step(2e-3)
    adapted = model.eval()(ids).data
    adapter = handle.adapter(base_name="HuggingFaceTB/SmolLM2-135M-Instruct")
    adapter.write(tmp_path / "a")
    handle.detach()
    wrapped = peft.PeftModel.from_pretrained(theirs, tmp_path / "a").eval()
    got = logits(wrapped, ids)
    wrapped.unload()
    record_property("max_difference", float(np.abs(got - adapted).max()))
    record_property("adapted_by", float(np.abs(adapted - plain).max()))
    assert np.abs(adapted - plain).max() > 0.5
    np.testing.assert_allclose(got, adapted, rtol=0, atol=TOLERANCE)
    assert Adapter.read(tmp_path / "a") == adapter
    handle = attach(model, adapter)
    assert model(ids).data.tobytes() == adapted.tobytes()
    assert handle.detach()(ids).data.tobytes() == plain.tobytes()
