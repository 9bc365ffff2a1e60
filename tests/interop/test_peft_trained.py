"""Adapters after real steps of training, here and in PEFT, and models that they were merged into.

Both ways, over one grid of options, on tiny Llamas and on the shipped base: the same logits.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from minilora.hub import load_pretrained, save_pretrained  # noqa: E402
from minilora.hub.bases import WARD_BASE  # noqa: E402
from minilora.lora import (  # noqa: E402
    Adapter,
    LoRAConfig,
    attach,
    base_state,
    lora_layers,
)
from minilora.nn import Transformer  # noqa: E402
from minilora.text import Tokenizer  # noqa: E402
from minilora.training import AdamW  # noqa: E402
from tests import tiny  # noqa: E402

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:.*not checked:UserWarning"),
]
TINY = dict(hidden_size=12, num_attention_heads=4, num_key_value_heads=2, vocab_size=311)
BASES = {"grouped heads": {}, "untied, wide": {"tie_word_embeddings": False, "head_dim": 10}}
SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
OPTIONS = {
    "q and v": dict(r=2, lora_alpha=3),
    "seven, rsLoRA": dict(r=5, lora_alpha=0.75, target_modules=SEVEN, use_rslora=True),
    "paths": dict(r=3, target_modules=("mlp.down_proj", "model.layers.1.self_attn.o_proj")),
    "all-linear": dict(r=4, lora_alpha=9, target_modules="all-linear"),
    "ranks": dict(r=2, rank_pattern={"q_proj": 5, r"layers\.1\.self_attn\.v_proj": 1}),
    "alphas": dict(r=2, lora_alpha=3, alpha_pattern={r"layers\.[02]\..*": 0.5, "v_proj": 7}),
    "both, rsLoRA": dict(
        r=2, lora_alpha=5, target_modules="all-linear", use_rslora=True,
        rank_pattern={"mlp.*_proj": 4, "model.layers.0.self_attn.k_proj": 3},
        alpha_pattern={r"self_attn\.[qk]_proj": 2.5},
    ),
}  # fmt: skip
# In a file the keys are sorted, and the first that fits counts: "layers..." comes before "q_proj".
ORDERED = dict(r=2, rank_pattern={"q_proj": 3, "layers.1.self_attn.q_proj": 4},
               alpha_pattern={"v_proj": 1, "layers.0.*": 5})  # fmt: skip


@pytest.fixture(scope="module", params=[*BASES, "ward-base"])
def base(request):
    """A maker of our plain model, the same each time."""
    if request.param == "ward-base":
        return lambda: load_pretrained(WARD_BASE)[0]
    return lambda: tiny.model(**TINY, **BASES[request.param]).eval()


def theirs_of(model):
    """transformers' Llama with the arrays of our plain model."""
    config = transformers.LlamaConfig(**model.config.to_dict())
    theirs = transformers.LlamaForCausalLM(config)
    state = {name: torch.from_numpy(a.copy()) for name, a in base_state(model).items()}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    theirs.load_state_dict(state, strict=True)
    return theirs.eval()


def token_ids(model):
    return np.random.default_rng(3).integers(0, model.config.vocab_size, (3, 11))


def logits(model, ids):
    if isinstance(model, Transformer):
        return model(ids).data
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits.numpy()


@pytest.fixture
def same(record_property):
    """Whether logits are equal within 1e-4, while both differ from the base's; noted in the log."""

    def check(got, expected, plain):
        record_property("max_difference", float(np.abs(got - expected).max()))
        assert min(np.abs(x - plain).max() for x in (got, expected)) > 0.05
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)

    return check


def trained(model, options, steps=5, lr=0.05):
    """The handle of an adapter on our model, after a few steps."""
    handle = attach(model, LoRAConfig(**options), np.random.default_rng(1))
    model.train()
    ids, optimizer = token_ids(model), AdamW(model.named_parameters())
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step(lr)
    for name, layer in lora_layers(model).items():
        assert layer.lora_B.data.any(), name
    model.eval()
    return handle


def loaded(model, folder):
    """The plain model with the folder's adapter."""
    return attach(model, Adapter.read(folder)).model.eval()


def trained_by_peft(model, options, steps=5, lr=0.05):
    """The same with PEFT on transformers' copy of our plain model."""
    targets = options.get("target_modules", ("q_proj", "v_proj"))
    targets = targets if isinstance(targets, str) else list(targets)
    settings = {"lora_alpha": 16, **options, "target_modules": targets, "task_type": "CAUSAL_LM"}
    torch.manual_seed(0)
    theirs = peft.get_peft_model(theirs_of(model), peft.LoraConfig(**settings)).train()
    ids = torch.from_numpy(token_ids(model))
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        theirs(ids, labels=ids).loss.backward()
        optimizer.step()
    return theirs.eval()


@pytest.mark.parametrize("options", [*OPTIONS.values(), ORDERED], ids=[*OPTIONS, "order counts"])
def test_trained_here_it_gives_the_same_logits_in_peft(base, tmp_path, recwarn, same, options):
    handle = trained(base(), options)
    model = handle.model
    handle.adapter(base_name="some/base", provenance={"seed": 1}).write(tmp_path / "a")
    recwarn.clear()
    theirs = peft.PeftModel.from_pretrained(theirs_of(base()), tmp_path / "a").eval()
    told = [str(w.message) for w in recwarn if "key" in str(w.message).lower()]
    assert not told, told  # of names or patterns that it misses or does not know
    ids = token_ids(model)
    same(logits(theirs, ids), logits(model, ids), logits(base(), ids))
    for name, layer in lora_layers(model).items():
        other = theirs.get_submodule(f"base_model.model.{name}")
        assert other.r["default"] == layer.config.r == layer.lora_A.shape[0]
        assert other.scaling["default"] == pytest.approx(layer.scaling, rel=1e-12)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_trained_in_peft_it_gives_the_same_logits_here(base, tmp_path, same, options):
    theirs = trained_by_peft(base(), options)
    theirs.save_pretrained(tmp_path / "a")
    model = loaded(base(), tmp_path / "a")
    ids = token_ids(model)
    same(logits(model, ids), logits(theirs, ids), logits(base(), ids))


@pytest.mark.parametrize(
    "options",
    [
        dict(target_modules=r".*layers\.[12]\..*(q_proj|up_proj)"),
        dict(
            target_modules="all-linear", exclude_modules=["mlp.up_proj", "layers.0.mlp.down_proj"]
        ),
        dict(target_modules=list(SEVEN), exclude_modules=r".*(layers\.1\..*|k_proj)"),
        dict(layers_to_transform=[0, 2], rank_pattern={r"layers\.2\..*": 3}),
        dict(layers_to_transform=0),
        dict(layers_to_transform=[1, 7], layers_pattern=["h", "layers"]),
        dict(init_lora_weights="gaussian"),
        dict(init_lora_weights="orthogonal"),
        dict(init_lora_weights=False),
    ],
    ids=str,
)
def test_other_choices_of_modules_and_starts_load_here(base, tmp_path, same, options):
    theirs = trained_by_peft(base(), dict(r=2, **options))
    theirs.save_pretrained(tmp_path / "a")
    handle = attach(base(), Adapter.read(tmp_path / "a"))
    model = handle.model.eval()
    assert 0 < len(lora_layers(model)) < 7 * model.config.num_hidden_layers
    ids = token_ids(model)
    same(logits(model, ids), logits(theirs, ids), logits(base(), ids))
    # And what is saved again, with names in place of rules, means the same to PEFT.
    handle.adapter(base_name="some/base").write(tmp_path / "b")
    again = peft.PeftModel.from_pretrained(theirs_of(base()), tmp_path / "b").eval()
    same(logits(again, ids), logits(theirs, ids), logits(base(), ids))


def test_overlapping_keys_load_here_as_they_do_in_peft(base, tmp_path, same):
    """PEFT sorts the keys when it saves; what it computes after loading is what counts."""
    theirs = trained_by_peft(base(), dict(r=2, alpha_pattern=ORDERED["alpha_pattern"]))
    theirs.save_pretrained(tmp_path / "a")
    again = peft.PeftModel.from_pretrained(theirs_of(base()), tmp_path / "a").eval()
    model = loaded(base(), tmp_path / "a")
    ids = token_ids(model)
    assert np.abs(logits(again, ids) - logits(theirs, ids)).max() > 1e-3
    same(logits(model, ids), logits(again, ids), logits(base(), ids))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["The pulse is 88, regular."], 300)


@pytest.mark.parametrize("name", ["q and v", "both, rsLoRA"])
def test_merged_here_it_loads_in_transformers(base, tokenizer, tmp_path, same, name):
    handle, ids = trained(base(), OPTIONS[name]), token_ids(base())
    expected = logits(handle.model, ids)
    save_pretrained(tmp_path / "merged", handle.merge_and_unload(), tokenizer)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    same(logits(theirs.eval(), ids), expected, logits(base(), ids))


@pytest.mark.parametrize("name", ["q and v", "both, rsLoRA"])
def test_merged_in_peft_it_loads_here(base, tokenizer, tmp_path, same, name):
    theirs, ids = trained_by_peft(base(), OPTIONS[name]), token_ids(base())
    expected = logits(theirs, ids)
    theirs.merge_and_unload().save_pretrained(tmp_path / "merged")
    tokenizer.save(tmp_path / "merged")
    model, _ = load_pretrained(tmp_path / "merged")
    same(logits(model, ids), expected, logits(base(), ids))


def test_the_sidecar_holds_what_peft_drops(base, tmp_path, same):
    said = {"data_sha256": "ab", "evaluation": {"exact": 0.95}}
    handle = trained(base(), OPTIONS["ranks"])
    model = handle.model
    handle.adapter(base_name="some/base", provenance=said).write(tmp_path / "a")
    known = set(peft.LoraConfig().to_dict())
    assert set(json.loads((tmp_path / "a" / "adapter_config.json").read_text())) <= known
    attach(base(), Adapter.read(tmp_path / "a")).adapter().write(tmp_path / "b")
    first, second = Adapter.read(tmp_path / "a"), Adapter.read(tmp_path / "b")
    assert second == first and second.provenance == first.provenance == said
    theirs = peft.PeftModel.from_pretrained(theirs_of(base()), tmp_path / "a").eval()
    theirs.save_pretrained(tmp_path / "c")
    assert Adapter.read(tmp_path / "c").base_fingerprint is None
    with pytest.warns(UserWarning, match="not checked"):
        again = loaded(base(), tmp_path / "c")
    ids = token_ids(model)
    same(logits(again, ids), logits(model, ids), logits(base(), ids))
