"""Our Transformer against `transformers`: same names, same logits, same greedy tokens."""

import numpy as np
import pytest

from minilora.autograd import IGNORE
from minilora.hub import config as hub_config
from minilora.nn import Transformer, generate
from tests import tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.interop

CONFIGS = {
    "heads alike, tied": {},
    "grouped": {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 36},
    "one group, explicit head_dim": {"num_key_value_heads": 1, "head_dim": 10},
    "untied": {"tie_word_embeddings": False},
    "odd sizes, wide eps, small theta": {
        "vocab_size": 37,
        "hidden_size": 21,
        "intermediate_size": 11,
        "head_dim": 6,
        "rms_norm_eps": 0.05,
        "rope_theta": 31.0,
        "num_hidden_layers": 3,
        "tie_word_embeddings": False,
    },
}


def config_of(name):
    shape = dict(hidden_size=24, num_hidden_layers=2, num_key_value_heads=3, head_dim=0)
    return tiny.config(**{**shape, **CONFIGS[name]})


@pytest.fixture(params=list(CONFIGS))
def pair(request, tmp_path):
    """(our model, theirs) with the same random weights, theirs built from our config.json."""
    config = config_of(request.param)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config.to_dict())).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in theirs.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise if parameter.ndim == 2 else 1.0 + 0.3 * noise)
    ours = Transformer(config, np.random.default_rng(0))
    # named_parameters lists a tied head once, as we do
    ours.load_state_dict({n: p.detach().numpy() for n, p in theirs.named_parameters()})
    return ours, theirs


def batch(config, rows=3, time=9):
    return np.random.default_rng(2).integers(0, config.vocab_size, (rows, time))


def test_parameter_names_and_shapes_are_the_same(pair):
    ours, theirs = pair
    expected = {name: tuple(p.shape) for name, p in theirs.named_parameters()}
    assert {name: p.shape for name, p in ours.named_parameters()} == expected


def test_config_json_goes_both_ways(pair):
    ours, theirs = pair
    assert hub_config.config_of(theirs.config.to_dict()) == ours.config


def test_logits_are_equal(pair):
    ours, theirs = pair
    ids = batch(ours.config)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    logits = ours(ids).data
    assert np.abs(expected).max() > 1.0  # not a comparison of zeros
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_loss_and_every_gradient_are_equal(pair):
    ours, theirs = pair
    ids = batch(ours.config)
    labels = np.roll(ids, -1, axis=1)
    labels[:, -1], labels[0, :4] = IGNORE, IGNORE
    loss = ours.loss(ids, labels)
    loss.backward()
    logits = theirs(torch.from_numpy(ids)).logits
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(labels).flatten(), ignore_index=IGNORE
    )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    other = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        scale = np.abs(other[name]).max()
        assert scale > 0
        np.testing.assert_allclose(
            parameter.grad, other[name], rtol=0, atol=1e-4 * scale, err_msg=name
        )


def test_greedy_tokens_are_equal(pair):
    ours, theirs = pair
    prompt = batch(ours.config, rows=1, time=5)
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(
        torch.from_numpy(prompt), attention_mask=torch.ones(1, 5, dtype=torch.long), **options
    )
    assert generate(ours, prompt.tolist(), 10) == expected[:, 5:].tolist()
