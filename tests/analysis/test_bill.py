"""The bill: what is predicted from sizes is what live arrays hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minilora.analysis import METHODS, SHAPES, Batch, bill, bill_of, counted_bill, kept_arrays
from minilora.analysis.bill import base_bytes, prepared
from minilora.autograd import Tensor, ops
from minilora.autograd import functional as F
from minilora.lora import LoRAConfig, Vera, attach
from minilora.nn import BASE_DTYPES, Transformer, TransformerConfig, store_base
from minilora.training.optim import AdamW
from tests.says import refusal

WIDE = TransformerConfig(131, 64, 192, 3, 4, 2, tie_word_embeddings=False)
TIED = replace(WIDE, head_dim=8, tie_word_embeddings=True)
ADAPTERS = (
    LoRAConfig(r=3),
    LoRAConfig(r=5, target_modules="all-linear"),
    LoRAConfig(r=4, target_modules=("k_proj",)),
    LoRAConfig(r=4, target_modules=("o_proj", "up_proj")),
    LoRAConfig(r=4, lora_dropout=0.1),
    LoRAConfig(r=4, target_modules=("model.layers.1.mlp.down_proj",)),
    LoRAConfig(r=4, target_modules="all-linear", rank_pattern={"v_proj": 7}),
    LoRAConfig(r=4, invocation=(5,)),
    LoRAConfig(r=4, target_modules="all-linear", invocation=(5,)),
    LoRAConfig(r=4, target_modules="all-linear", lora_dropout=0.1, invocation=(5,)),
)
BATCHES = (Batch(4, 70, 70), Batch(3, 150, 40), Batch(1, 30, 5))


def counted(config, batch, adapter, dtype="float32"):
    model = store_base(Transformer(config, np.random.default_rng(0)), dtype)
    if adapter is not None:
        attach(model, adapter, np.random.default_rng(1))
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return counted_bill(model, batch, AdamW(trained))


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("adapter", [None, *ADAPTERS], ids=range(1 + len(ADAPTERS)))
@pytest.mark.parametrize("config", [WIDE, TIED], ids=["untied", "tied"])
def test_every_line_is_what_live_arrays_hold(config, adapter, batch):
    for name, held in counted(config, batch, adapter).to_dict().items():
        predicted = bill(config, batch, adapter).to_dict()[name]
        assert predicted == pytest.approx(held, rel=0.01), name


@pytest.mark.parametrize("dtype", BASE_DTYPES)
def test_a_base_in_fewer_bits(dtype):
    adapter, batch = ADAPTERS[1], BATCHES[1]
    held, predicted = counted(WIDE, batch, adapter, dtype), bill(WIDE, batch, adapter, dtype)
    assert predicted.weights == held.weights == base_bytes(WIDE, dtype)
    assert predicted.activations == pytest.approx(held.activations, rel=0.01)


def test_every_method_of_the_command_can_be_counted():
    totals = {}
    for name, method in METHODS.items():
        model = store_base(Transformer(WIDE, np.random.default_rng(0)), method.base_dtype)
        optimizer = prepared(model, method, 2, np.random.default_rng(1))
        held = counted_bill(model, BATCHES[1], optimizer)
        assert bill_of(WIDE, BATCHES[1], name, 2).total == pytest.approx(held.total, rel=0.01)
        totals[name] = held.total
    assert totals.pop("activated q,v") < totals["LoRA q,v"]
    # Each of the other lines is smaller than the one above it.
    assert list(totals.values()) == sorted(totals.values(), reverse=True)


def test_an_activated_adapter_keeps_of_a_prompt_its_keys_and_values():
    plain, activated = LoRAConfig(r=4), LoRAConfig(r=4, invocation=(5,))
    whole, answer, long = Batch(2, 40, 40), Batch(2, 40, 10), Batch(2, 90, 10)
    assert bill(WIDE, answer, activated).total < bill(WIDE, answer, plain).total
    more = bill(WIDE, long, activated).activations - bill(WIDE, answer, activated).activations
    heads, shared = WIDE.num_attention_heads, WIDE.num_key_value_heads * WIDE.head_dim
    # A position of a prompt: read once, seen once joined to the answer's, and scored by each query.
    assert more == 4 * WIDE.num_hidden_layers * 2 * 50 * (4 * shared + heads * 10)
    tables = 4 * 2 * 40 * heads * WIDE.head_dim  # those of the second row, where none is before it
    assert bill(WIDE, whole, activated).total == bill(WIDE, whole, plain).total + tables


def test_full_training_holds_sixteen_bytes_a_number():
    config = SHAPES["llama-2-7b"]
    full = bill(config, Batch(1, 8, 8))
    assert config.parameter_count == 6_738_415_616
    assert full.weights + full.gradients + full.optimizer == 16 * config.parameter_count
    lean = bill(config, Batch(1, 8, 8), LoRAConfig(r=8))
    assert lean.adapter == 4 * 32 * 2 * 8 * (4096 + 4096)
    assert lean.weights + 4 * lean.adapter == lean.total - lean.activations


def test_the_count_leaves_weights_as_they_are():
    model = Transformer(WIDE, np.random.default_rng(0))
    before = {name: array.copy() for name, array in model.state_dict().items()}
    counted_bill(model, BATCHES[2], AdamW(model.named_parameters()))
    assert all(np.array_equal(a, before[name]) for name, a in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_kept_arrays_are_those_that_a_vjp_needs():
    x, w = Tensor(np.ones((5, 4))), Tensor(np.ones((3, 4)), requires_grad=True)
    y = F.linear(x, w)
    assert [id(a) for a in kept_arrays(y)] == [id(x.data)]  # for gW; W's vjp alone is recorded
    z = ops.mul(y, y)
    kept = kept_arrays(z, apart_from=[x.data])
    assert [a.nbytes for a in kept] == [y.data.nbytes]
    view = ops.mul(ops.reshape(y, (15,)), ops.reshape(y, (15,)))
    assert {id(a) for a in kept_arrays(view)} == {id(x.data), id(y.data)}  # a view is its owner


def test_what_has_no_bill_is_refused():
    with refusal(ValueError, "nf4", "float32"):
        bill(WIDE, BATCHES[0], None, "nf4")
    with refusal(ValueError, "query", "q_proj"):
        bill(WIDE, BATCHES[0], LoRAConfig(target_modules=("query",)))
    with refusal(ValueError, 41, 40):
        Batch(2, 40, 41)
    with pytest.raises(ValueError):
        kept_arrays(Tensor(np.ones(3)))


@pytest.mark.parametrize(
    ("adapter", "named"),
    [
        (LoRAConfig(r=40), (40, 32)),
        (LoRAConfig(r=4, rank_pattern={"v_proj": 33}), (33, 32)),
        (LoRAConfig(r=4, use_dora=True), ("use_dora",)),
        (LoRAConfig(r=4, vera=Vera()), ("vera",)),
        (LoRAConfig(r=4, modules_to_save=("lm_head",)), ("tables",)),
    ],
)
def test_an_adapter_that_no_bill_is_known_of_is_refused(adapter, named):
    with refusal(ValueError, *named):
        bill(WIDE, BATCHES[0], adapter)


def test_more_tokens_than_positions_are_not_counted():
    config = replace(WIDE, max_position_embeddings=64)
    with refusal(ValueError, 65, 64):
        counted(config, Batch(2, 65, 10), None)
