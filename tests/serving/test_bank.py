"""A bank: every row of a batch is what it would be alone, and the base never changes."""

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest

from minilora.autograd import IGNORE, no_grad
from minilora.lora import (
    Adapter,
    AdapterError,
    AttachError,
    BaseMismatchError,
    LoRAConfig,
    TargetError,
    attach,
    base_fingerprint,
    mark_base,
)
from minilora.nn import Parameter, generate, store_base
from minilora.serving import BASE, AdapterBank
from minilora.serving.mixing import group
from minilora.text.answers import Raw, answer_ids
from minilora.training import evaluate
from tests import tiny
from tests.says import refusal

CONFIGS = {
    "plain": LoRAConfig(r=2, lora_alpha=6),
    "wide": LoRAConfig(r=6, lora_alpha=3, target_modules=("q_proj", "o_proj", "down_proj")),
    "rooted": LoRAConfig(r=4, lora_alpha=3, target_modules="all-linear", use_rslora=True),
    "patterned": LoRAConfig(
        r=3, lora_alpha=8, target_modules=("v_proj", "gate_proj"),
        rank_pattern={"gate_proj": 5}, alpha_pattern={r"layers\.1\.self_attn\.v_proj": 20},
    ),
    "one": LoRAConfig(r=1, lora_alpha=2, target_modules=("layers.1.mlp.up_proj",)),
    "activated": LoRAConfig(r=3, lora_alpha=9, target_modules="all-linear", invocation=(3, 1)),
    "woken": LoRAConfig(r=2, lora_alpha=7, invocation=(8,)),
}  # fmt: skip
PROMPTS = [
    [3, 1, 4, 1, 5, 9, 2],
    [9],
    [2, 6, 5],
    [7, 7, 3, 1],
    [8, 2],
    [3, 3, 3],
    [1, 8, 2, 8, 1],
    [5, 3, 1, 3, 1, 8],
    [9, 9],
    [3, 1],
    [6, 6, 8],
]
NAMES = [
    "plain",
    "wide",
    BASE,
    "patterned",
    "plain",
    "rooted",
    "one",
    "activated",
    "activated",
    "activated",
    "woken",
]
ROOM = 7


def a_model(**changes):
    """Small, lively, with a sharp head, so that greedy choices are no ties."""
    return tiny.model(5, initializer_range=0.5, num_hidden_layers=2, **changes).eval()


def an_adapter(model, config: LoRAConfig, seed: int) -> Adapter:
    """An adapter of `config` with a lively B, made for this base."""
    rng = np.random.default_rng(seed)
    attachment = attach(model, config, rng)
    for layer in attachment.layers.values():
        layer.lora_B.data[...] = rng.normal(0, 0.4, layer.lora_B.shape)
    adapter = attachment.adapter(base_name="tiny")
    attachment.detach()
    return adapter


def adapters_for(model) -> dict[str, Adapter]:
    return {
        name: an_adapter(model, config, seed)
        for seed, (name, config) in enumerate(CONFIGS.items(), 1)
    }


def a_bank(model=None, **settings) -> tuple[AdapterBank, dict[str, Adapter]]:
    model = a_model() if model is None else model
    adapters = adapters_for(model)
    bank = AdapterBank(model, **settings)
    for name, adapter in adapters.items():
        bank.add(name, adapter)
    return bank, adapters


def attached(model, adapter: Adapter | None, run):
    """What `run` gives while the adapter is attached in the usual way, to the plain model."""
    if adapter is None:
        return run()
    attachment = attach(model, adapter)
    try:
        return run()
    finally:
        attachment.detach()


def alone(names=NAMES, prompts=PROMPTS, **settings) -> list[list[int]]:
    """Each prompt's answer with its own adapter attached to a plain model."""
    model = a_model()
    adapters = adapters_for(model)
    return [
        attached(model, adapters.get(name), lambda p=p: generate(model, [p], ROOM, **settings)[0])
        for name, p in zip(names, prompts, strict=True)
    ]


# -- rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [2048, 7, 15])  # prompts read at once, one by one, two by two
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_mixed_batch_answers_as_each_row_alone(use_cache, tokens, monkeypatch):
    monkeypatch.setattr(sys.modules["minilora.nn.generate"], "PREFILL_TOKENS", tokens)
    bank, _ = a_bank()
    with bank.rows(NAMES):
        together = generate(bank.model, PROMPTS, ROOM, use_cache=use_cache)
    assert together == alone()
    assert len({tuple(answer) for answer in together}) > len(PROMPTS) - 3


def test_every_adapter_of_these_tests_changes_an_answer():
    for name in CONFIGS:
        assert len({tuple(alone([n], PROMPTS[7:8])[0]) for n in (name, BASE)}) == 2, name


def test_rows_that_end_early_leave_the_others_their_adapters():
    free = alone()
    stops = {free[0][0], free[3][2], free[5][4]}
    expected = alone(stop_ids=stops)
    bank, _ = a_bank()
    with bank.rows(NAMES):
        assert generate(bank.model, PROMPTS, ROOM, stop_ids=stops) == expected
    assert len({len(answer) for answer in expected}) > 2


def test_logits_of_a_row_are_those_of_the_row_alone():
    model = a_model()
    adapters = adapters_for(model)
    ids = np.random.default_rng(0).integers(0, 37, (len(NAMES), 9))
    expected = [
        attached(model, adapters.get(name), lambda i=i: model(ids[i : i + 1]).data[0])
        for i, name in enumerate(NAMES)
    ]
    bank, _ = a_bank(model)
    with bank.rows(NAMES), no_grad():
        got = model(ids).data
    assert np.abs(got - np.stack(expected)).max() <= 1e-5 * np.abs(expected).max()


ORDERS = [NAMES, NAMES[::-1], sorted(NAMES), *([n] * len(NAMES) for n in (BASE, "one", "woken"))]


@pytest.mark.parametrize("order", [*ORDERS, ["plain"] * 10 + ["wide"]])
def test_any_order_of_names_gives_each_row_its_own(order):
    bank, _ = a_bank()
    with bank.rows(order):
        assert generate(bank.model, PROMPTS, ROOM) == alone(order)


def test_the_loss_at_labelled_positions_is_that_of_each_row():
    model = a_model()
    adapters = adapters_for(model)
    rng = np.random.default_rng(2)
    ids, labels = rng.integers(0, 37, (2, len(NAMES), 6))
    labels[rng.random(labels.shape) < 0.5] = IGNORE
    labels[:, 1] = 4
    count = float((labels != IGNORE).sum())
    expected = sum(
        attached(
            model, adapters.get(name),
            lambda i=i: model.loss(ids[i : i + 1], labels[i : i + 1], count).item(),
        )
        for i, name in enumerate(NAMES)
    )  # fmt: skip
    bank, _ = a_bank(model)
    with bank.rows(NAMES):
        assert model.loss(ids, labels, count).item() == pytest.approx(expected, rel=1e-5)


def test_answers_and_evaluation_cut_batches_and_keep_the_names():
    words = tiny.tokenizer()
    model = a_model(tokenizer=words)
    texts = ["Pulse 88, regular", "No", "The patient takes", "mg", "No known", "a", "lisinopril"]
    texts += ["daily", "Pulse", "The", "of 20"]
    examples = tiny.copy_examples(len(NAMES))
    bank, adapters = a_bank(model)
    with bank.rows(NAMES):
        got = answer_ids(model, words, [Raw(t) for t in texts], 4, batch_size=3)
        loss = evaluate(model, examples, batch_size=2)
    bank.close()
    losses, labels = [], []
    for name, text, answer, example in zip(NAMES, texts, got, examples, strict=True):
        run = lambda text=text: answer_ids(model, words, [Raw(text)], 4)[0]  # noqa: E731
        assert attached(model, adapters.get(name), run) == answer
        run = lambda example=example: evaluate(model, [example])  # noqa: E731
        labels.append(int((example.labels != IGNORE).sum()))
        losses.append(attached(model, adapters.get(name), run) * labels[-1])
    assert loss == pytest.approx(sum(losses) / sum(labels), rel=1e-5)


@pytest.mark.parametrize("kind", ["biased", "stored"])
def test_layers_that_are_no_single_matrix_are_mixed_too(kind):
    def model():
        made = tiny.model(5, initializer_range=0.5, num_hidden_layers=2, hidden_size=32,
                          intermediate_size=64)  # fmt: skip
        if kind == "stored":
            store_base(made, "q4")
        else:
            rng = np.random.default_rng(1)
            for block in made.model.layers:
                for layer in (block.self_attn.v_proj, block.mlp.gate_proj):
                    bias = rng.normal(0, 0.4, layer.out_features).astype(np.float32)
                    layer.bias = Parameter(bias)
        return made.eval()

    plain = model()
    adapters = adapters_for(plain)
    expected = [
        attached(plain, adapters.get(name), lambda p=p: generate(plain, [p], ROOM)[0])
        for name, p in zip(NAMES, PROMPTS, strict=True)
    ]
    bank = AdapterBank(model())
    for name, adapter in adapters.items():
        bank.add(name, adapter)
    with bank.rows(NAMES):
        assert generate(bank.model, PROMPTS, ROOM) == expected
    for name, prompt, answer in zip(NAMES, PROMPTS, expected, strict=True):
        bank.use(name)
        assert generate(bank.model, [prompt], ROOM) == [answer]


@pytest.mark.parametrize("positions", [1, 7])
@pytest.mark.parametrize("seed", range(12))
def test_groups_hold_each_row_once(seed, positions):
    rng = np.random.default_rng(seed)
    adapter_of = rng.integers(-1, [1, 3, 20][seed % 3], rng.integers(1, 70))
    if (adapter_of < 0).all():
        adapter_of[0] = 0
    groups = group(adapter_of, positions)
    rows = np.arange(len(adapter_of)) if groups.rows is None else groups.rows
    assert np.array_equal(rows, np.flatnonzero(adapter_of >= 0))
    take = np.arange(len(adapter_of)) if groups.take is None else groups.take
    place = np.arange(len(take)) if groups.place is None else groups.place
    size, left = divmod(len(take), len(groups.of))
    assert left == 0 and np.array_equal(take[place], rows)
    assert np.array_equal(groups.of[place // size], adapter_of[rows])


def test_one_adapter_is_one_group_and_each_row_its_own_where_all_differ():
    assert group(np.zeros(64, int))[0].tolist() == [0]
    eight = group(np.arange(64) % 8)
    assert eight.of.tolist() == list(range(8)) and len(eight.take) == 64
    assert group(np.repeat(np.arange(8), 8)).take is None  # they lie together already
    many = group(np.random.default_rng(0).permutation(64))
    assert len(many.of) == 64 and many.take is None


# -- use --------------------------------------------------------------------------------------


def test_a_swap_computes_what_attach_computes_and_leaves_the_base_as_it_was():
    bank, adapters = a_bank()
    model, before = bank.model, base_fingerprint(bank.model)
    plain, ids = generate(model, PROMPTS, ROOM), np.array([[1, 2, 3, 4]])
    for name in [*CONFIGS, BASE, "wide"]:
        bank.use(name)
        assert bank.using == name
        got, answers = model(ids).data, generate(model, PROMPTS, ROOM)
        other = a_model()
        run = lambda m=other: (m(ids).data, generate(m, PROMPTS, ROOM))  # noqa: E731
        expected = attached(other, adapters.get(name), run)
        np.testing.assert_allclose(got, expected[0], rtol=1e-5, atol=1e-5)
        if name not in ("activated", "woken"):
            np.testing.assert_array_equal(got, expected[0])
        assert answers == expected[1]
        assert base_fingerprint(model) == before
    bank.use(BASE)
    assert generate(model, PROMPTS, ROOM) == plain


def test_after_rows_the_adapter_of_before_is_used_again():
    bank, _ = a_bank()
    bank.use("wide")
    with bank.rows([BASE, "one"]):
        mixed = generate(bank.model, PROMPTS[:2], ROOM)
    assert bank.using == "wide"
    assert mixed == alone([BASE, "one"], PROMPTS[:2])
    assert generate(bank.model, PROMPTS[:1], ROOM) == alone(["wide"], PROMPTS[:1])


def test_close_gives_the_base_back():
    model = a_model()
    model.model.layers.train()
    linear, modes = model.model.layers[0].self_attn.q_proj, dict.fromkeys(model._modules, None)
    state = {name: p.data.copy() for name, p in model.named_parameters()}
    flags = [(p.requires_grad, p.data.flags.writeable) for p in model.parameters()]
    bank, _ = a_bank(model)
    assert not any(p.requires_grad or p.data.flags.writeable for p in model.parameters())
    assert list(state) == [name for name, _ in model.named_parameters()]
    bank.use("rooted")
    model.eval()
    assert bank.close() is model
    assert model.model.layers[0].self_attn.q_proj is linear and list(modes) == list(model._modules)
    assert [(p.requires_grad, p.data.flags.writeable) for p in model.parameters()] == flags
    assert model.model.layers.training and not model.training
    for name, parameter in model.named_parameters():
        assert np.array_equal(parameter.data, state[name]), name
    with refusal(AttachError, "use"):
        bank.use(BASE)
    AdapterBank(model).close()


# -- refusals ---------------------------------------------------------------------------------


def test_what_does_not_fit_the_base_leaves_the_bank_as_it_was(tmp_path):
    bank, adapters = a_bank()
    bank.use("wide")
    good = adapters["plain"]
    other = an_adapter(tiny.model(6, num_hidden_layers=2), LoRAConfig(r=2), 0)
    foreign = Adapter(
        LoRAConfig(r=2, target_modules=("c_attn",)),
        {"model.layers.0.self_attn.c_attn": good.factors("model.layers.0.self_attn.q_proj")},
    )
    broken = good.write(tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    for what, kind in ((other, BaseMismatchError), (foreign, TargetError), (broken, AdapterError)):
        before = (bank.names, bank.using, generate(bank.model, PROMPTS, 3))
        with pytest.raises(kind):
            bank.add("new", what)
        assert (bank.names, bank.using, generate(bank.model, PROMPTS, 3)) == before


def test_names_that_are_taken_or_not_there_are_refused():
    bank, adapters = a_bank()
    for name in ("plain", BASE, ""):
        with refusal(ValueError, repr(name)):
            bank.add(name, adapters["one"])
    for run in (bank.use, bank.remove, bank.adapter):
        with refusal(ValueError, "nobody", 7):
            run("nobody")
    with refusal(ValueError, "nobody"), bank.rows(["plain", "nobody"]):
        pass
    for names in ([], "plain"):
        with refusal(ValueError, repr(names)), bank.rows(names):
            pass
    assert bank.using == BASE


@pytest.mark.parametrize("prompts", [PROMPTS[:2], PROMPTS[:4]])
def test_another_number_of_rows_than_was_named_is_refused(prompts):
    bank, _ = a_bank()
    with bank.rows(["plain", BASE, "one"]), refusal(ValueError, len(prompts), 3):
        generate(bank.model, prompts, 2)


@pytest.mark.parametrize("verb", ["use", "rows", "close"])
def test_nothing_is_swapped_while_an_answer_is_being_made(verb):
    bank, _ = a_bank()
    run = {
        "use": lambda: bank.use("wide"),
        "rows": lambda: bank.rows(["wide"]).__enter__(),
        "close": bank.close,
    }[verb]
    with refusal(ValueError, verb):
        generate(bank.model, PROMPTS[:1], 3, on_token=lambda _: run())
    assert bank.using == BASE and bank.model.generations == 0
    bank.use("wide")  # after it, all is well
    with bank.rows(["plain"]), refusal(ValueError, verb):
        run()


def test_an_adapter_in_use_is_not_removed():
    bank, _ = a_bank()
    bank.use("one")
    with refusal(ValueError, "one"):
        bank.remove("one")
    with bank.rows(["plain"]), refusal(ValueError, "plain"):
        bank.remove("plain")
    bank.remove("wide")
    bank.use(BASE)
    bank.remove("one")
    assert bank.names == ("activated", "patterned", "plain", "rooted", "woken")


def test_a_merged_or_adapted_model_is_no_base_and_a_bank_is_no_plain_model():
    model = a_model()
    attachment = attach(model, adapters_for(model)["plain"])
    with pytest.raises(AttachError):
        AdapterBank(model)
    attachment.merge()
    with pytest.raises(AttachError):
        AdapterBank(model)
    attachment.unmerge()
    attachment.detach()
    bank, adapters = a_bank(model)
    for run in (lambda: attach(model, adapters["plain"]), lambda: AdapterBank(model)):
        with pytest.raises(AttachError):
            run()
    assert not hasattr(bank.model.model.layers[0].self_attn.q_proj, "merge")


def test_a_mix_refuses_to_be_trained():
    bank, _ = a_bank()
    embedding = bank.model.model.embed_tokens
    embedding.weight.requires_grad = True
    with bank.rows(["plain"]), pytest.raises(ValueError):
        bank.model(np.array([[1, 2]]))


# -- memory -----------------------------------------------------------------------------------


def folders_for(model, folder) -> dict[str, str]:
    return {n: str(a.write(folder / n)) for n, a in adapters_for(model).items()}


def test_adapters_beyond_the_bound_are_read_again_with_ranks_and_scaling(tmp_path):
    model = a_model()
    folders = folders_for(model, tmp_path)
    bank = AdapterBank(model, most_resident=2)
    for name, folder in folders.items():
        bank.add(name, folder)
    assert bank.names == tuple(sorted(CONFIGS)) and bank.resident == ("activated", "woken")
    for name in itertools.islice(itertools.cycle(CONFIGS), 15):
        bank.use(name)
        assert len(bank.resident) == 2 and bank.resident[-1] == name
        assert generate(model, PROMPTS[:1], ROOM) == alone([name], PROMPTS[:1])
    assert bank.nbytes == sum(bank.adapter(name).nbytes for name in bank.resident)
    bank.use(BASE)
    for pair in itertools.combinations(CONFIGS, 2):
        with bank.rows(pair):
            assert set(bank.resident) == set(pair)
            assert generate(model, PROMPTS[:2], ROOM) == alone(pair, PROMPTS[:2])


def test_the_least_recently_used_is_left_to_disk(tmp_path):
    model = a_model()
    folders = folders_for(model, tmp_path)
    bank = AdapterBank(model, most_resident=3)
    for name, folder in folders.items():
        bank.add(name, folder)
    assert bank.resident == ("one", "activated", "woken")
    bank.use("one")
    bank.use("plain")
    assert bank.resident == ("woken", "one", "plain")


def test_what_is_in_use_stays_in_memory(tmp_path):
    model = a_model()
    folders = folders_for(model, tmp_path)
    bank = AdapterBank(model, most_resident=2)
    for name, folder in folders.items():
        bank.add(name, folder)
    bank.use("wide")
    for name in ("one", "plain"):  # "wide" is the one that was named longest ago
        with bank.rows([name]):
            assert bank.resident == ("wide", name)


def test_more_adapters_in_a_batch_than_may_lie_in_memory_are_refused(tmp_path):
    model = a_model()
    folders = folders_for(model, tmp_path)
    bank = AdapterBank(model, most_resident=2)
    for name, folder in folders.items():
        bank.add(name, folder)
    with refusal(ValueError, "wide", 2), bank.rows(["plain", "one", "wide", "one"]):
        pass
    bank.use("plain")
    with refusal(ValueError, 2, "wide"), bank.rows(["wide", "one"]):
        pass
    with bank.rows(["plain", "one"]):
        pass
    assert bank.using == "plain" and "plain" in bank.resident


def test_values_stay_in_memory_and_are_bounded_too(tmp_path):
    model = a_model()
    adapters = adapters_for(model)
    bank = AdapterBank(model, most_resident=2)
    bank.add("plain", adapters["plain"])
    bank.add("wide", adapters["wide"])
    with refusal(ValueError, "one", 2):
        bank.add("one", adapters["one"])
    bank.add("one", adapters["one"].write(tmp_path / "one"))
    assert bank.resident == ("plain", "wide") and bank.adapter("one") == adapters["one"]


def test_an_adapter_that_changed_on_disk_is_refused(tmp_path):
    model = a_model()
    folders = folders_for(model, tmp_path)
    bank = AdapterBank(model, most_resident=1)
    bank.add("plain", folders["plain"])
    bank.add("one", folders["one"])
    bank.adapter("plain")
    other = replace(CONFIGS["plain"], lora_alpha=7)
    adapter = adapters_for(a_model())["plain"]
    factors = {name: adapter.factors(name) for name in adapter.modules}
    Adapter(other, factors, base=adapter.base).write(folders["plain"])
    with refusal(AdapterError, "plain"):
        bank.use("plain")
    assert bank.using == BASE and bank.resident == ("one",)


def test_float32_adapters_share_their_arrays_with_the_bank():
    bank, adapters = a_bank()
    for name, adapter in adapters.items():
        held = bank._entries[name].loaded
        assert held.factors.keys() == set(adapter.modules)
        for module, factors in held.factors.items():
            assert all(a is b for a, b in zip(factors[:2], adapter.factors(module), strict=True))
    assert bank.nbytes == sum(adapter.nbytes for adapter in adapters.values())


def test_the_base_is_marked_once(monkeypatch):
    model = a_model()
    adapters = adapters_for(model)
    mark = mark_base(model, "tiny")

    def no_more(*_, **__):
        raise AssertionError("the base was hashed again")

    monkeypatch.setattr("minilora.lora.fitting.base_fingerprint", no_more)
    monkeypatch.setattr("minilora.lora.fitting.mark_base", no_more)
    monkeypatch.setattr("minilora.serving.bank.mark_base", no_more)
    bank = AdapterBank(model, base=mark)
    for name, adapter in adapters.items():
        bank.add(name, adapter)
        bank.use(name)
