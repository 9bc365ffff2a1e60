"""The Transformer: config, names, causality, padding, loss."""

import numpy as np
import pytest

from minilora.autograd import IGNORE
from minilora.autograd import functional as F
from minilora.nn import Transformer, TransformerConfig
from minilora.nn.generate import new_caches
from minilora.nn.transformer import MOST
from tests import tiny
from tests.says import refusal


def lively_model(tied=True, seed=0):
    """A tiny float32 model with weights large enough that positions and tokens matter."""
    shape = dict(vocab_size=11, num_hidden_layers=2, max_position_embeddings=16)
    return tiny.model(seed, initializer_range=0.5, tie_word_embeddings=tied, **shape)


IDS = np.random.default_rng(1).integers(0, 11, (3, 7))

LAYER_NAMES = [
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
]


@pytest.mark.parametrize("tied", [True, False])
def test_parameter_names_and_shapes_are_the_checkpoint_s(tied):
    model = lively_model(tied)
    expected = ["model.embed_tokens.weight"]
    expected += [f"model.layers.{i}.{name}" for i in range(2) for name in LAYER_NAMES]
    expected += ["model.norm.weight"] + ([] if tied else ["lm_head.weight"])
    state = model.state_dict()
    assert list(state) == expected
    assert state["model.layers.1.self_attn.q_proj.weight"].shape == (18, 10)
    assert state["model.layers.1.self_attn.k_proj.weight"].shape == (6, 10)
    assert state["model.layers.1.self_attn.o_proj.weight"].shape == (10, 18)
    assert state["model.layers.1.mlp.down_proj.weight"].shape == (10, 14)
    assert model.head_weight.shape == (11, 10)


def test_the_tied_head_is_the_embedding_and_gets_both_gradients():
    model = lively_model(tied=True)
    assert model.head_weight is model.model.embed_tokens.weight
    labels = np.full((3, 7), IGNORE)
    labels[:, -1] = 4
    ids = IDS % 7  # the rows of tokens 7 to 10 are reached through the head alone
    model.loss(ids, labels).backward()
    tied = model.head_weight.grad
    assert tied.any(axis=1).all()

    untied = lively_model(tied=False)
    state = model.state_dict()
    untied.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
    untied.loss(ids, labels).backward()
    parts = untied.model.embed_tokens.weight.grad, untied.head_weight.grad
    assert not parts[0][7:].any() and parts[1].any(axis=1).all()
    np.testing.assert_allclose(tied, parts[0] + parts[1], rtol=1e-4, atol=1e-6)


def test_a_fresh_model_depends_on_the_generator_alone():
    same = [tiny.model(s).state_dict() for s in (3, 3, 4)]
    assert all(np.array_equal(same[0][k], same[1][k]) for k in same[0])
    assert not np.array_equal(*(s["model.embed_tokens.weight"] for s in same[1:]))
    assert {array.dtype for array in same[0].values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("place", [1, 3, 6])
def test_a_later_token_changes_no_earlier_logit(place):
    model = lively_model()
    other = IDS.copy()
    other[:, place] = (other[:, place] + 1) % 11
    before, after = model(IDS).data, model(other).data
    np.testing.assert_allclose(after[:, :place], before[:, :place], rtol=0, atol=1e-6)
    assert (np.abs(after[:, place:] - before[:, place:]).max(axis=-1) > 1e-4).all()


def test_the_order_of_tokens_matters():
    model = lively_model()
    swapped = IDS[:, [1, 0, 2, 3, 4, 5, 6]]
    assert np.abs(model(swapped).data[:, -1] - model(IDS).data[:, -1]).max() > 1e-4


def test_left_padding_changes_no_result():
    model = lively_model()
    alone = model(IDS[:1, 2:]).data
    padded = np.concatenate([np.full((1, 2), 9), IDS[:1, 2:]], axis=1)
    batch = np.concatenate([padded, IDS[1:2]])
    hidden = model.hidden_states(batch, start=np.array([2, 0]))
    logits = hidden.data @ model.head_weight.data.T
    np.testing.assert_allclose(logits[:1, 2:], alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits[1:], model(IDS[1:2]).data, rtol=0, atol=1e-5)


# -- loss ------------------------------------------------------------------------------------


def labels_with_gaps():
    labels = np.random.default_rng(2).integers(0, 11, IDS.shape)
    labels[0, :4] = IGNORE
    labels[2] = IGNORE
    labels[2, 1] = 5
    return labels


def test_the_loss_is_the_mean_over_labels_of_the_logits_cross_entropy():
    model, labels = lively_model(), labels_with_gaps()
    logits = model(IDS).data.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    rows, columns = np.nonzero(labels != IGNORE)
    expected = -log_p[rows, columns, labels[rows, columns]].mean()
    loss = model.loss(IDS, labels)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_positions_without_a_label_are_spared_and_change_no_gradient(monkeypatch):
    labels = labels_with_gaps()
    spared, whole = lively_model(), lively_model()
    sizes = []
    act = F.swiglu
    monkeypatch.setattr(F, "swiglu", lambda *xs: sizes.append(xs[0].shape[:-1]) or act(*xs))
    spared.loss(IDS, labels).backward()
    F.linear_cross_entropy(whole.hidden_states(IDS), whole.head_weight, labels).backward()
    count = int((labels != IGNORE).sum())
    assert sizes == [IDS.shape, (count,), IDS.shape, IDS.shape]
    for (name, one), other in zip(whole.named_parameters(), spared.parameters(), strict=True):
        assert one.grad.any()
        np.testing.assert_allclose(other.grad, one.grad, rtol=1e-4, atol=1e-6, err_msg=name)


def test_labels_of_another_shape_are_refused():
    with refusal(ValueError, (3, 6), (3, 7)):
        lively_model().loss(IDS, labels_with_gaps()[:, 1:])


def test_micro_batches_with_a_normalizer_add_up_to_the_step():
    labels = labels_with_gaps()
    whole, parts = lively_model(), lively_model()
    loss = whole.loss(IDS, labels)
    loss.backward()
    count = int((labels != IGNORE).sum())
    total = 0.0
    for rows in (slice(0, 1), slice(1, 3)):
        part = parts.loss(IDS[rows], labels[rows], normalizer=count)
        total += part.item()
        part.backward()
    assert total == pytest.approx(loss.item(), rel=1e-6)
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        np.testing.assert_allclose(other.grad, one.grad, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_step_down_the_gradient_lowers_the_loss():
    model, labels = lively_model(), labels_with_gaps()
    loss = model.loss(IDS, labels)
    loss.backward()
    for parameter in model.parameters():
        parameter.data = parameter.data - 0.01 * parameter.grad
    assert model.loss(IDS, labels).item() < loss.item()


# -- config and errors -----------------------------------------------------------------------

VALUES = {
    "vocab_size": 11,
    "hidden_size": 12,
    "intermediate_size": 7,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
}


def test_a_config_goes_round_and_fills_in_what_files_leave_out():
    config = TransformerConfig.from_dict({**VALUES, "head_dim": None, "hidden_act": "silu"})
    assert (config.num_key_value_heads, config.head_dim, config.rope_theta) == (3, 4, 10000.0)
    assert TransformerConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_config_without_a_size_is_refused(name):
    values = {key: value for key, value in VALUES.items() if key != name}
    with refusal(ValueError, name):
        TransformerConfig.from_dict(values)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_attention_heads": 0}, ("num_attention_heads", 0)),
        ({"vocab_size": "11"}, ("vocab_size", "11")),
        ({"hidden_size": 12.0}, ("hidden_size", 12.0)),
        ({"num_key_value_heads": 2}, (3, 2)),
        ({"head_dim": 3}, ("head_dim", 3)),
        ({"head_dim": -2}, ("head_dim", -2)),
        ({"hidden_size": 2}, ("head_dim", 0)),
        ({"rms_norm_eps": float("nan")}, ("rms_norm_eps", float("nan"))),
        ({"rms_norm_eps": "small"}, ("rms_norm_eps", "small")),
        ({"rope_theta": float("inf")}, ("rope_theta", float("inf"))),
        ({"rope_theta": 0}, ("rope_theta", 0)),
        ({"initializer_range": -0.1}, ("initializer_range", -0.1)),
        *[({name: 10**12}, (name, 10**12, most)) for name, most in MOST.items()],
        ({"num_hidden_layers": MOST["num_hidden_layers"] + 1}, ("num_hidden_layers",)),
    ],
)
def test_a_config_that_makes_no_model_is_refused(change, named):
    with refusal(ValueError, *named):
        TransformerConfig.from_dict({**VALUES, **change})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shared", [1, 3])
def test_the_numbers_of_a_config_are_counted_without_building_it(tied, shared):
    sizes = dict(num_hidden_layers=2, num_key_value_heads=shared, head_dim=6)
    config = tiny.config(**sizes, tie_word_embeddings=tied)
    built = Transformer(config, rng=None)
    assert config.parameter_count == sum(p.size for p in built.parameters())
    assert TransformerConfig(**MOST).parameter_count > 2**60


def test_ids_of_the_wrong_shape_length_or_value_are_refused():
    model = lively_model()
    with refusal(ValueError, (7,)):
        model(IDS[0])
    with refusal(ValueError, "max_position_embeddings", 16):
        model(np.zeros((1, 17), dtype=np.int64))
    with refusal(ValueError, 0, 11, 10):
        model(np.array([[0, 11]]))


def test_a_cache_that_is_full_says_so():
    model = lively_model()
    caches = new_caches(model, 1, 4)
    model.hidden_states(IDS[:1, :3], caches=caches)
    with refusal(ValueError, 5, 4):
        model.hidden_states(IDS[:1, 3:5], caches=caches)
