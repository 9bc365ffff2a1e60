"""An adapter made here works in PEFT, and one made in PEFT works here, on the same Llama."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from minilora.lora import (  # noqa: E402
    Adapter,
    AdapterError,
    Attachment,
    LoRAConfig,
    attach,
    base_state,
    combine,
    lora_layers,
)
from minilora.lora.joining import METHODS  # noqa: E402
from minilora.nn import Transformer, generate  # noqa: E402
from tests import tiny  # noqa: E402
from tests.says import refusal  # noqa: E402

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:.*not checked:UserWarning"),
]

IDS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 35, 8, 9]])
TARGETS = [
    ("q_proj", "v_proj"),
    ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ("mlp.down_proj", "model.layers.1.self_attn.o_proj"),
    "all-linear",
]
SETTINGS = [(2, 3, False), (4, 4, True), (5, 0.75, False)]
"""(r, lora_alpha, use_rslora)"""


def ours() -> Transformer:
    shape = dict(
        hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return tiny.model(**shape).eval()


def theirs() -> torch.nn.Module:
    """transformers' Llama with the arrays of our Transformer."""
    config = transformers.LlamaConfig(**ours().config.to_dict())
    config._attn_implementation = "eager"
    model = transformers.LlamaForCausalLM(config)
    state = {name: torch.from_numpy(a.copy()) for name, a in base_state(ours()).items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    return model.eval()


def logits(model) -> np.ndarray:
    if isinstance(model, Transformer):
        return model(IDS).data
    with torch.no_grad():
        return model(torch.from_numpy(IDS)).logits.numpy()


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() < 1e-4)


def randomise(parameters, seed: int = 0) -> None:
    """Random A and B in place of both libraries' start, where B = 0 hides A."""
    rng = np.random.default_rng(seed)
    for name, parameter in parameters:
        if "lora_" in name:
            noise = (rng.standard_normal(tuple(parameter.shape)) * 0.4).astype(np.float32)
            parameter.data = torch.from_numpy(noise) if torch.is_tensor(parameter) else noise


def adapted(targets, r, alpha, rslora) -> Attachment:
    config = LoRAConfig(r, alpha, targets, use_rslora=rslora)
    handle = attach(ours(), config, np.random.default_rng(1))
    randomise(handle.model.named_parameters())
    return handle


def peft_model(targets, r=3, alpha=5.0, **settings):
    targets = list(targets) if isinstance(targets, tuple) else targets
    config = peft.LoraConfig(
        r=r, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM", **settings
    )
    model = peft.get_peft_model(theirs(), config).eval()
    randomise(model.named_parameters())
    return model


def test_the_two_plain_models_agree():
    assert close(logits(ours()), logits(theirs()))


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize(("r", "alpha", "rslora"), SETTINGS)
def test_an_adapter_saved_here_works_in_peft(tmp_path, recwarn, targets, r, alpha, rslora):
    handle = adapted(targets, r, alpha, rslora)
    model = handle.model
    handle.adapter(base_name="tiny", provenance={"seed": 1}).write(tmp_path / "a")
    recwarn.clear()
    loaded = peft.PeftModel.from_pretrained(theirs(), tmp_path / "a").eval()
    told = [str(w.message) for w in recwarn if "key" in str(w.message).lower()]
    assert not told, told  # PEFT only warns of names that it misses or does not know
    assert np.abs(logits(model) - logits(ours())).max() > 0.05
    assert close(logits(loaded), logits(model))
    plain = loaded.merge_and_unload()
    assert close(logits(plain), logits(model))
    state = base_state(handle.merge_and_unload())
    for name, tensor in plain.state_dict().items():
        if name != "lm_head.weight":  # tied
            np.testing.assert_allclose(state[name], tensor.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("targets", [*TARGETS, r".*\.(q_proj|up_proj)"])
@pytest.mark.parametrize(("r", "alpha", "rslora"), SETTINGS)
def test_an_adapter_saved_by_peft_works_here(tmp_path, targets, r, alpha, rslora):
    model = peft_model(targets, r, alpha, use_rslora=rslora, lora_dropout=0.1)
    model.save_pretrained(tmp_path / "a")
    handle = attach(ours(), Adapter.read(tmp_path / "a"))
    loaded = handle.model
    expected = logits(model)
    assert np.abs(expected - logits(ours())).max() > 0.05
    assert close(logits(loaded), expected)
    found = Adapter.read(tmp_path / "a")
    assert (found.config.r, found.config.lora_alpha) == (r, alpha)
    state = base_state(handle.merge_and_unload())
    merged = model.merge_and_unload().state_dict()
    for name, array in state.items():
        np.testing.assert_allclose(array, merged[name].numpy(), rtol=0, atol=1e-6)


def test_an_adapter_trained_by_peft_works_here(tmp_path):
    model = peft_model(("q_proj", "down_proj")).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    ids = torch.from_numpy(IDS)
    before = logits(model.eval())
    for _ in range(5):
        optimizer.zero_grad()
        model.train()(ids, labels=ids).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path / "a")
    assert np.abs(logits(model) - before).max() > 0.05
    assert close(logits(attach(ours(), Adapter.read(tmp_path / "a")).model), logits(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_adapter_works_here(tmp_path, dtype):
    model = peft_model(("q_proj", "v_proj"))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    model.save_pretrained(tmp_path / "a")
    # PEFT casts up when it loads, as we do.
    loaded = peft.PeftModel.from_pretrained(theirs(), tmp_path / "a").eval()
    assert close(logits(attach(ours(), Adapter.read(tmp_path / "a")).model), logits(loaded))


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"use_qalora": True}, "use_qalora"),
        ({"modules_to_save": ["norm"]}, "layernorm.weight"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"target_parameters": ["self_attn.q_proj.weight"]}, "target_parameters"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_options_that_are_not_supported_are_refused_by_name(tmp_path, settings, option):
    targets = ("v_proj",) if "target_parameters" in settings else ("q_proj", "v_proj")
    peft_model(targets, **settings).save_pretrained(tmp_path / "a")
    model = ours()
    before = logits(model)
    with refusal(AdapterError, option):
        attach(model, Adapter.read(tmp_path / "a"))
    assert not lora_layers(model) and logits(model).tobytes() == before.tobytes()


INVOCATION = (4, 1)
INVOKED = [[3, 4, 1, 5, 4, 1], [2, 4, 1, 9, 8], [7, 5, 3, 9]]
"""Twice (the last counts), once in the middle, and never."""


def peft_answer(model, ids: list[int], count: int) -> list[int]:
    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
    return out[0, len(ids) :].tolist()


@pytest.mark.parametrize("theirs_first", [False, True])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), "all-linear"])
def test_activated_adapters_are_the_same_in_both(tmp_path, theirs_first, targets):
    if theirs_first:
        model = peft_model(targets, alora_invocation_tokens=list(INVOCATION))
        model.save_pretrained(tmp_path / "a")
        handle = attach(ours(), Adapter.read(tmp_path / "a"))
    else:
        config = LoRAConfig(3, 5, targets, invocation=INVOCATION)
        handle = attach(ours(), config, np.random.default_rng(1))
        randomise(handle.model.named_parameters())
        handle.adapter(base_name="tiny").write(tmp_path / "a")
        model = peft.PeftModel.from_pretrained(theirs(), tmp_path / "a").eval()
    assert handle.config.invocation == INVOCATION
    answers = generate(handle.model, INVOKED, 9)
    for row, answer in zip(INVOKED, answers, strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([row])).logits.numpy()
        assert close(handle.model(np.array([row])).data, expected)
        assert answer == peft_answer(model, row, 9)
    assert answers[2] == generate(ours(), INVOKED[2:], 9)[0]
    assert answers[:2] != generate(ours(), INVOKED[:2], 9)


def test_a_pickled_adapter_is_refused(tmp_path):
    model = peft_model(("q_proj",))
    model.save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    torch.save(peft.get_peft_model_state_dict(model), tmp_path / "a" / "adapter_model.bin")
    with refusal(AdapterError, "adapter_model.bin"):
        Adapter.read(tmp_path / "a")


def test_our_config_reads_as_pefts(tmp_path):
    adapted(("v_proj", "q_proj"), 3, 5, True).adapter(base_name="tiny").write(tmp_path / "a")
    config = peft.PeftConfig.from_pretrained(tmp_path / "a")
    assert isinstance(config, peft.LoraConfig) and config.use_rslora and config.bias == "none"
    assert config.target_modules == {"q_proj", "v_proj"} and (config.r, config.lora_alpha) == (3, 5)
    known = set(peft.LoraConfig().to_dict())
    assert set(json.loads((tmp_path / "a" / "adapter_config.json").read_text())) <= known


def test_both_start_A_with_the_same_law():
    """Same bound and spread of a fresh A; B zero in both."""
    config = peft.LoraConfig(r=5, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(theirs(), config)
    config = LoRAConfig(5, target_modules="all-linear")
    mine = attach(ours(), config, np.random.default_rng(0)).model
    for width in (12, 20):
        a = [p.detach().numpy() for n, p in model.named_parameters()
             if "lora_A" in n and p.shape[1] == width]  # fmt: skip
        b = [x.lora_A.data for x in lora_layers(mine).values() if x.in_features == width]
        for sample in (np.concatenate(a), np.concatenate(b)):
            assert 0.9 < np.abs(sample).max() * width**0.5 <= 1 + 1e-6
            assert abs(sample.var() * 3 * width - 1) < 0.25


@pytest.mark.parametrize("how", METHODS)
def test_a_composition_loads_in_peft_with_equal_logits(how, tmp_path):
    same = how == "linear"  # which adds factors, so their ranks must be equal
    configs = (
        LoRAConfig(2, 3, ("q_proj", "up_proj"), use_rslora=True),
        LoRAConfig(2 if same else 3, 4, ("q_proj", "v_proj")),
        LoRAConfig(
            2, 5, ("up_proj", "o_proj"), alpha_pattern={r"layers\.1\..*": 7},
            rank_pattern={} if same else {r"layers\.1\.mlp\.up_proj": 1},
        ),
    )  # fmt: skip
    parts = []
    for seed, config in enumerate(configs):
        handle = attach(ours(), config, np.random.default_rng(seed))
        randomise(handle.model.named_parameters(), seed)
        parts.append(handle.adapter())
    rank = {"rank": 3} if how == "svd" else {}
    joined, _ = combine(parts, (1, -0.5, 0.7), how, **rank)
    joined.write(tmp_path / how)
    loaded = peft.PeftModel.from_pretrained(theirs(), tmp_path / how).eval()
    model = ours()
    attach(model, Adapter.read(tmp_path / how))
    assert not close(logits(model), logits(ours()))
    assert close(logits(model), logits(loaded))
