"""An activated adapter: nothing before its invocation, everything from there on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilora.autograd import IGNORE
from minilora.lora import (
    Adapter,
    Attachment,
    LoRAConfig,
    MergeError,
    attach,
    combine,
)
from minilora.lora.exchange import wearing
from minilora.lora.peft_format import AdapterError
from minilora.nn import generate, store_base
from minilora.nn.generate import new_caches, read_ahead, shared_columns
from minilora.nn.rows import NEVER, last_place
from tests import tiny as tiny_models
from tests.lora.conftest import make_model, randomise
from tests.says import refusal

INVOCATION = (4, 1)
ROWS = np.array([[4, 1, 3, 9, 4, 1, 5], [2, 6, 4, 1, 35, 4, 8], [7, 7, 3, 4, 9, 1, 2]])
BEGINS = [4, 2, NEVER]


def config(targets="all-linear", **changes) -> LoRAConfig:
    return LoRAConfig(3, 4, targets, invocation=INVOCATION, **changes)


def adapted(targets="all-linear", **changes) -> Attachment:
    handle = attach(make_model(), config(targets, **changes), np.random.default_rng(2))
    handle.model.eval()
    return randomise(handle)


def plain_twin(handle: Attachment) -> Attachment:
    """A model that carries the same A and B at every position."""
    twin = attach(
        make_model(), LoRAConfig(3, 4, handle.config.target_modules), np.random.default_rng(2)
    )
    twin.model.eval()
    return randomise(twin)


@pytest.mark.parametrize(
    ("ids", "place"),
    [(row, at) for row, at in zip(ROWS, BEGINS, strict=True)] + [(ROWS[0, :1], NEVER)],
)
def test_the_last_occurrence_counts(ids, place):
    assert last_place(ids, INVOCATION) == place


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), "all-linear"])
def test_before_the_invocation_keys_values_and_logits_are_the_bases_bit_for_bit(targets):
    handle, base, plain = adapted(targets), make_model().eval(), plain_twin(adapted(targets))
    got, expected = handle.model(ROWS).data, base(ROWS).data
    everywhere = plain.model(ROWS).data
    for row, begins in enumerate(BEGINS):
        assert got[row, :begins].tobytes() == expected[row, :begins].tobytes()
        assert (
            not np.array_equal(got[row, begins:][:1], expected[row, begins:][:1]) or begins == NEVER
        )
        assert np.abs(got[row] - everywhere[row]).max() > 0.01
    caches = new_caches(handle.model, 3, 7), new_caches(base, 3, 7)
    handle.model.hidden_states(ROWS, caches=caches[0])
    base.hidden_states(ROWS, caches=caches[1])
    for layer, (ours, theirs) in enumerate(zip(*caches, strict=True)):
        for name in ("keys", "values"):
            mine, its = getattr(ours, name), getattr(theirs, name)
            for row, begins in enumerate(BEGINS):
                assert mine[row, :, :begins].tobytes() == its[row, :, :begins].tobytes()
            if layer or name == "values":
                assert np.abs(mine[0, :, 4:] - its[0, :, 4:]).max() > 1e-3


def test_a_row_that_begins_with_the_invocation_is_a_plain_adapters():
    ids = np.array([[4, 1, 3, 9, 7], [4, 1, 8, 8, 2]])
    np.testing.assert_array_equal(adapted().model(ids).data, plain_twin(adapted()).model(ids).data)


def test_answers_are_those_of_each_row_alone_with_and_without_the_cache():
    handle = adapted()
    prompts = [row.tolist() for row in ROWS] + [[9], [3, 4, 1]]
    answers = generate(handle.model, prompts, 12)
    assert answers == [generate(handle.model, [p], 12)[0] for p in prompts]
    assert answers == generate(handle.model, prompts, 12, use_cache=False)
    base = generate(make_model(), prompts, 12)
    assert answers[2:4] == base[2:4] and all(answers[i] != base[i] for i in (0, 1, 4))


def test_an_invocation_in_the_answer_changes_nothing():
    """What acts is decided by the prompt, as in PEFT: a row without one stays the base's."""
    handle, base = adapted(), make_model()
    for seed in range(40):
        prompt = np.random.default_rng(seed).integers(5, 36, 4).tolist()
        answer = generate(base, [prompt], 20)[0]
        if last_place(np.array(answer), answer[2:4]) != NEVER:
            said = tuple(answer[2:4])
            break
    own = attach(
        make_model(), LoRAConfig(3, 4, "all-linear", invocation=said), np.random.default_rng(2)
    )
    randomise(own)
    assert last_place(np.array(prompt), said) == NEVER
    assert generate(own.model, [prompt], 20)[0] == answer
    assert generate(own.model, [prompt], 20, use_cache=False)[0] == answer
    handle.detach()


def test_gradients_pass_only_from_the_invocation_on():
    handle = adapted()
    handle.model.train()
    labels = np.full_like(ROWS, IGNORE)
    labels[2] = 3  # a row without an invocation
    handle.model.loss(ROWS, labels).backward()
    grads = [p.grad for p in handle.model.parameters() if p.requires_grad]
    assert grads and all(not g.any() for g in grads)
    labels[0, 5:] = 3
    handle.model.loss(ROWS, labels).backward()
    assert all(g.any() for g in grads)


def test_dropout_stays_behind_the_invocation():
    handle = adapted(lora_dropout=0.5)
    handle.model.train()
    got, base = handle.model(ROWS).data, make_model()(ROWS).data
    assert got[0, :4].tobytes() == base[0, :4].tobytes()
    assert not np.array_equal(got[0, 4:], handle.model(ROWS).data[0, 4:])


def test_merging_is_refused_and_changes_nothing():
    handle = adapted()
    before = handle.model(ROWS).data
    for action in (handle.merge, handle.merge_and_unload):
        with refusal(MergeError, "activated", str(INVOCATION)):
            action()
    layer = next(iter(handle.layers.values()))
    with refusal(MergeError, "activated"):
        layer.merge()
    assert not layer.merged and handle.model(ROWS).data.tobytes() == before.tobytes()


def test_it_is_read_and_written_with_its_invocation(tmp_path):
    handle = adapted(("q_proj", "v_proj"))
    adapter = handle.adapter(base_name="tiny")
    adapter.write(tmp_path / "a")
    again = Adapter.read(tmp_path / "a")
    assert again == adapter and again.config.invocation == INVOCATION
    model = attach(make_model(), again).model
    assert model(ROWS).data.tobytes() == handle.model(ROWS).data.tobytes()


@pytest.mark.parametrize("tokens", [(), "41", [1.5], [True], [-1], [None], {4: 1}, 3])
def test_an_invocation_that_is_no_token_ids_is_refused(tokens, tmp_path):
    with refusal(ValueError, "invocation"):
        LoRAConfig(invocation=tokens)
    adapted().adapter(base_name="tiny").write(tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    options = json.loads(path.read_text())
    options["alora_invocation_tokens"] = tokens if not isinstance(tokens, dict) else "x"
    path.write_text(json.dumps(options))
    with refusal(AdapterError, "invocation"):
        Adapter.read(tmp_path / "a")


def test_compositions_keep_a_shared_invocation_and_refuse_different_ones():
    one, other = adapted().adapter(), plain_twin(adapted()).adapter()
    joined, _ = combine([one, one], [0.5, 0.5])
    assert joined.config.invocation == INVOCATION
    with refusal(ValueError, "invocation"):
        combine([one, other], [0.5, 0.5])


def test_positions_after_unknown_ones_are_refused():
    handle = adapted()
    caches = new_caches(handle.model, 1, 8)
    handle.model.hidden_states(ROWS[:1, :4], caches=caches)
    with refusal(ValueError, "not known"):
        handle.model.hidden_states(ROWS[:1, 4:], caches=caches)


def test_over_a_stored_base_rows_are_those_alone():
    model = tiny_models.model(
        num_hidden_layers=2, hidden_size=32, intermediate_size=32, head_dim=32
    )
    store_base(model, "float16")
    handle = randomise(attach(model, config(), np.random.default_rng(2)))
    prompts = [row.tolist() for row in ROWS]
    assert generate(handle.model, prompts, 6) == [
        generate(handle.model, [p], 6)[0] for p in prompts
    ]


def test_several_adapters_go_on_from_one_reading_with_the_tokens_of_runs_of_their_own():
    prompts = [ROWS[0].tolist(), ROWS[1, :6].tolist(), [9, 3, 4, 1, 2]]
    rng = np.random.default_rng(5)
    configs = [config(), LoRAConfig(2, 9, ("q_proj", "v_proj"), invocation=(1,)), None]
    adapters = []
    for i, one in enumerate(configs[:2]):
        handle = randomise(attach(make_model(), one, rng), seed=i)
        adapters.append(handle.adapter(base_name="tiny"))
    model = make_model()
    columns = shared_columns(prompts, [INVOCATION, (1,)])
    assert columns == min(0 + 4, 1 + 2, 2 + 2)
    reading = read_ahead(model, prompts, columns)
    held = [cache.keys.copy() for cache in reading.caches]
    answers = []
    for adapter in [*adapters, None]:
        with wearing(model, adapter, None):
            alone = generate(model, prompts, 15)
            assert generate(model, prompts, 15, reading=reading) == alone
            answers.append(alone)
    assert answers[0] != answers[1] != answers[2] != answers[0]
    for cache, keys in zip(reading.caches, held, strict=True):
        assert cache.keys.tobytes() == keys.tobytes() and cache.length == columns
    with refusal(ValueError, "other prompts"):
        generate(model, prompts[:2], 15, reading=reading)
    for wrong in (0, len(ROWS[0])):
        with refusal(ValueError, "columns"):
            read_ahead(model, prompts, wrong)
    assert shared_columns([[9, 9]], [INVOCATION]) == 1
