"""Composing: what each method makes of adapters, and what the report says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minilora.lora import (
    Adapter,
    BaseMismatchError,
    LoRAConfig,
    attach,
    combine,
    take_out,
)
from minilora.lora.deltas import Factors
from minilora.lora.joining import METHODS, change, cut, cut_matrix, dare, knots, ties, trim
from tests.says import refusal

QUERY = "model.layers.0.self_attn.q_proj"
RANKS = {"svd": {"rank": 5}}


def adapter_of(tiny, config: LoRAConfig, seed: int, **kwargs) -> Adapter:
    handle = tiny.randomise(attach(tiny.model(), config, np.random.default_rng(seed)), seed)
    return handle.adapter(base_name="tiny", **kwargs)


@pytest.fixture
def three(tiny) -> list[Adapter]:
    """Adapters with other ranks, alphas, targets, rsLoRA and patterns."""
    configs = (
        LoRAConfig(2, 4, ("q_proj", "up_proj")),
        LoRAConfig(1, 3, ("q_proj", "v_proj"), use_rslora=True),
        LoRAConfig(
            2, 5, ("up_proj",), rank_pattern={r"layers\.0\.mlp\.up_proj": 3},
            alpha_pattern={r"layers\.1\..*": 7},
        ),
    )  # fmt: skip
    return [adapter_of(tiny, config, seed + 1) for seed, config in enumerate(configs)]


def exact(adapters, weights) -> dict[str, np.ndarray]:
    total: dict[str, np.ndarray] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for module in adapter.modules:
            total[module] = total.get(module, 0) + weight * adapter.delta(module).astype(float)
    return total


def test_cat_is_the_exact_sum_whatever_the_adapters_settings(three, tiny):
    weights = (1.0, -0.5, 2.0)
    joined, report = combine(three, weights)
    total = exact(three, weights)
    assert joined.modules == tuple(sorted(total))
    for module, delta in total.items():
        np.testing.assert_allclose(joined.delta(module), delta, atol=2e-6)
    assert {one.module: one.rank for one in report.modules} == {
        module: sum(len(a.factors(module)[0]) for a in three if module in a.modules)
        for module in total
    }
    assert 0 < report.error < 1e-6
    model = tiny.model()
    base = model(tiny.ids).data
    handle = attach(model, joined)
    together = model(tiny.ids).data
    handle.detach()
    for module, delta in total.items():
        weight = model.get_submodule(module).weight
        weight.data = (weight.data + delta).astype(np.float32)
    summed = model(tiny.ids).data
    assert np.abs(together - base).max() > 0.1
    np.testing.assert_allclose(together, summed, atol=1e-4)


@pytest.mark.parametrize("how", METHODS)
def test_one_adapter_at_weight_one_is_itself(how, three):
    for adapter in three:
        joined, report = combine([adapter], [1], how, **RANKS.get(how, {}))
        assert joined == adapter and joined.provenance == adapter.provenance
        assert report.error < 1e-15 and report.how == how


@pytest.mark.parametrize("how", METHODS)
def test_every_method_gives_the_same_bits_twice_and_reads_back(how, three, tmp_path, tiny):
    same_rank = [adapter_of(tiny, LoRAConfig(2, 3), seed) for seed in (1, 2)]
    made = [combine(same_rank, (1, 0.5), how, **RANKS.get(how, {}))[0] for _ in range(2)]
    assert made[0] == made[1]
    read = Adapter.read(made[0].write(tmp_path / how))
    assert read == made[0] and read.provenance == made[0].provenance
    assert read.provenance["composition"]["how"] == how
    attach(tiny.model(), read)


def test_take_out_gives_back_the_rest_bit_for_bit(three, tmp_path):
    names, weights = ("a", "b", "c"), (0.3, -1.0, 2.0)
    joined, _ = combine(three, weights, names=names)
    read = Adapter.read(joined.write(tmp_path / "joined"))
    for i, name in enumerate(names):
        rest = [j for j in range(3) if j != i]
        expected, _ = combine(
            [three[j] for j in rest], [weights[j] for j in rest], names=[names[j] for j in rest]
        )
        left = take_out(read, name)
        assert left == expected
        assert [p["name"] for p in left.provenance["composition"]["parts"]] == [
            names[j] for j in rest
        ]


def test_take_out_of_two_gives_back_the_other_adapter_itself(three):
    a, _, c = three  # their scalings are 2; and 5/2, 7/2 and 5/3
    joined, _ = combine([a, c], [1, 1], names=("a", "c"))
    assert take_out(joined, "c") == a
    other = take_out(joined, "a")
    for module in c.modules:
        np.testing.assert_allclose(other.delta(module), c.delta(module), rtol=1e-5, atol=1e-7)
    with refusal(ValueError, "c", "a"):
        take_out(take_out(combine(three, [1, 1, 1], names="abc")[0], "b"), "b")


def test_take_out_refuses_what_has_no_blocks(three, tiny):
    joined, _ = combine(three, [1, 1, 1], "svd", rank=4)
    with refusal(ValueError, "svd", "cat"):
        take_out(joined, "1")
    with refusal(ValueError, "no composition"):
        take_out(three[0], "1")


def test_svd_is_the_nearest_of_its_rank_and_names_what_it_lost(three):
    weights = (1, 1, 1)
    joined, report = combine(three, weights, "svd", rank=2)
    for one in report.modules:
        total = exact(three, weights)[one.module]
        U, S, Vt = np.linalg.svd(total)
        best = (U[:, :2] * S[:2]) @ Vt[:2]
        np.testing.assert_allclose(joined.delta(one.module), best, atol=1e-5)
        lost = (S[2:] ** 2).sum() / (S**2).sum()
        assert one.energy_lost == pytest.approx(lost, abs=1e-6)
        assert one.error == pytest.approx(np.sqrt(lost), abs=1e-6)
        assert one.exact == pytest.approx(np.linalg.norm(total), rel=1e-5)
    # Only one part changes v_proj, and its rank is 1.
    assert {one.module: one.rank for one in report.modules} == {
        module: 1 if "v_proj" in module else 2 for module in joined.modules
    }
    _, report = combine(three, weights, "svd", rank=7)
    assert report.error < 1e-6 and max(one.energy_lost for one in report.modules) < 1e-12


def test_linear_on_the_factors_is_not_the_sum(tiny):
    a, b = (adapter_of(tiny, LoRAConfig(2, 3), seed) for seed in (1, 2))
    joined, report = combine([a, b], [0.7, 0.3], "linear")
    assert joined.config.r == 2
    assert report.error > 0.4
    twice, report = combine([a, a], [0.5, 0.5], "linear")
    for module in a.modules:  # halves of one adapter: the cross terms double it
        np.testing.assert_allclose(twice.delta(module), 2 * a.delta(module), rtol=1e-4, atol=1e-6)
    assert report.error == pytest.approx(1)


def test_linear_of_a_negative_weight_takes_away(tiny):
    a = adapter_of(tiny, LoRAConfig(2, 3), 1)
    joined, report = combine([a], [-2.0], "linear")
    for module in a.modules:
        np.testing.assert_allclose(joined.delta(module), -2 * a.delta(module), rtol=1e-4, atol=1e-6)
    assert report.error < 1e-6


def test_linear_refuses_unequal_ranks(three):
    with refusal(ValueError, "up_proj", 2, 3):
        combine(three, [1, 1, 1], "linear")


def test_ties_on_an_example_by_hand():
    one = np.array([4.0, -3.0, 1.0, 0.5])
    two = np.array([-1.0, -2.0, 5.0, 0.1])
    np.testing.assert_allclose(trim(one, 0.5), [4, -3, 0, 0])
    # kept: 4 -3 0 0 and 0 -2 5 0
    np.testing.assert_allclose(ties([one, two], 0.5), [4, -2.5, 5, 0])
    # all kept: signs + - + +, and the -1 does not count where + was elected
    np.testing.assert_allclose(ties([one, two], 1.0), [4, -2.5, 3, 0.3])


def test_ties_of_adapters_is_ties_of_their_changes(three):
    joined, report = combine(three, (1, 1, 2), "ties", density=0.4, rank=10)
    for one in report.modules:
        changes = [
            weight * a.delta(one.module).astype(float)
            for a, weight in zip(three, (1, 1, 2), strict=True)
            if one.module in a.modules
        ]
        expected = ties(changes, 0.4)
        np.testing.assert_allclose(joined.delta(one.module), expected, atol=1e-5)
        assert one.difference == pytest.approx(np.linalg.norm(expected - sum(changes)), rel=1e-4)


def test_dare_keeps_a_share_and_its_mean_is_the_sum():
    rng = np.random.default_rng(0)
    changes = [rng.standard_normal((6, 5)) for _ in range(2)]
    once = dare(changes[:1], 0.25, rng)
    kept = once != 0
    np.testing.assert_allclose(once[kept], changes[0][kept] / 0.25)
    mean = np.mean([dare(changes, 0.25, rng) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(mean, sum(changes), atol=0.35)
    np.testing.assert_allclose(dare(changes, 1.0, rng), sum(changes))


def test_dare_follows_its_seed(three):
    made = [combine(three, [1, 1, 1], "dare", seed=seed)[0] for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]


def dense_knots(changes, density):
    """KnOTS as the paper has it, on the whole matrices."""
    width = changes[0].shape[1]
    U, S, Vt = np.linalg.svd(np.concatenate(changes, axis=1), full_matrices=False)
    keep = 1e-9 * S[0] < S
    pieces = [Vt[keep, i * width : (i + 1) * width] for i in range(len(changes))]
    return (U[:, keep] * S[keep]) @ ties(pieces, density)


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_knots_through_the_factors_is_knots_of_whole_matrices(density):
    rng = np.random.default_rng(3)
    parts = [
        Factors(rng.standard_normal((r, 9)), rng.standard_normal((7, r)), f)
        for f, r in ((1.0, 2), (-0.5, 3))
    ]
    made = knots(parts, density)
    assert made.B.shape == (7, 5)
    expected = dense_knots([change(part) for part in parts], density)
    np.testing.assert_allclose(made.B @ made.A, expected, atol=1e-10)


def test_knots_of_zeros_is_zero():
    made = knots([Factors(np.ones((2, 4)), np.zeros((3, 2)))], 0.5)
    assert not (made.B @ made.A).any()


def test_negative_weights_take_a_change_back(three):
    a = three[0]
    joined, report = combine([a, a], [1, -1], names=("plus", "minus"))
    for module in a.modules:
        np.testing.assert_allclose(joined.delta(module), 0, atol=1e-6)
    assert report.error < 1e-6
    negated, _ = combine([a], [-1])
    for module in a.modules:
        np.testing.assert_allclose(negated.delta(module), -a.delta(module), rtol=1e-6, atol=1e-9)


def test_where_the_parts_cancel_out_the_error_is_a_share_of_the_largest(three):
    a = three[0]
    _, report = combine([a, a, a], [0.5, -2.0, 1.5], "linear")
    for one in report.modules:
        size = np.linalg.norm(a.delta(one.module))
        assert one.largest == pytest.approx(2 * size, rel=1e-5) and one.exact < 1e-5 * size
        assert one.error == pytest.approx(one.difference / (2 * size), rel=1e-4)


def test_what_take_out_leaves_says_no_error_of_the_whole(three):
    joined, report = combine(three, (0.3, -1.0, 2.0), names="abc")
    assert joined.provenance["composition"]["error"] == report.error
    assert "error" not in take_out(joined, "b").provenance["composition"]


def test_the_cut_of_factors_is_that_of_the_whole_matrix():
    rng = np.random.default_rng(5)
    B, A = rng.standard_normal((8, 4)), rng.standard_normal((4, 6))
    one, other = cut(Factors(A, B), 3), cut_matrix(B @ A, 3)
    np.testing.assert_allclose(change(one.factors), change(other.factors), atol=1e-10)
    assert one.energy_lost == pytest.approx(other.energy_lost)
    assert cut(Factors(A[:1], B[:, :1]), 2).factors.B.shape == (8, 1)
    assert cut(Factors(A, 0 * B), 2).factors.A.shape == (1, 6)


def test_adapters_of_other_bases_are_refused(tiny, three):
    other = attach(tiny.model(seed=9), LoRAConfig(2, 4), np.random.default_rng(0)).adapter(
        base_name="other"
    )
    with refusal(BaseMismatchError, "one", "two", "tiny", "other"):
        combine([three[0], other], [1, 1], names=("one", "two"))


def test_what_an_adapter_does_not_say_of_its_base_is_taken_from_another(tiny, three):
    silent = adapter_of(tiny, LoRAConfig(2, 4), 4)
    parts = {name: silent.factors(name) for name in silent.modules}
    silent = Adapter(silent.config, parts)
    joined, _ = combine([silent, three[0]], [1, 1])
    assert joined.base == three[0].base and joined.base.fingerprint
    small = {QUERY: (np.ones((1, 4)), np.ones((4, 1)))}
    other = Adapter(LoRAConfig(1, 1, ("q_proj",)), small)
    with refusal(ValueError, QUERY, "(4, 4)", "(18, 10)"):
        combine([three[0], other], [1, 1])


def test_a_tokenizer_stays_only_where_nobody_says_another(tiny, three):
    marks = ("sha256:a", "sha256:a", "sha256:b")
    told = [
        Adapter(
            a.config, {m: a.factors(m) for m in a.modules}, base=replace(a.base, tokenizer=mark)
        )
        for a, mark in zip(three, marks, strict=True)
    ]
    assert combine(told[:2], [1, 1])[0].base.tokenizer == "sha256:a"
    assert combine(told, [1, 1, 1])[0].base.tokenizer is None


def test_a_rank_above_the_smaller_side_is_refused(tiny):
    adapters = [adapter_of(tiny, LoRAConfig(4, 4, ("v_proj",)), seed) for seed in (1, 2)]
    with refusal(ValueError, 8, 6, "svd"):
        combine(adapters, [1, 1])
    assert combine(adapters, [1, 1], "svd", rank=6)[1].error < 1e-6
    assert {one.rank for one in combine(adapters, [1, 1], "ties")[1].modules} == {6}


@pytest.mark.parametrize(
    "settings, said",
    [
        (dict(weights=[1]), (1, 3)),
        (dict(weights=[1, 1, float("nan")]), ("nan",)),
        (dict(how="average"), ("average", "cat")),
        (dict(how="svd"), ("svd",)),
        (dict(how="svd", rank=0), (0,)),
        (dict(rank=3), (3, "cat")),
        (dict(how="ties", density=0), (0,)),
        (dict(how="ties", density=1.5), (1.5,)),
        (dict(names=["a", "a", "b"]), ("a",)),
        (dict(names=["a"]), (1, 3)),
        (dict(how="dare", seed=-1), (-1,)),
    ],
)
def test_settings_that_make_no_sense_are_refused(three, settings, said):
    with refusal(ValueError, *said):
        combine(three, **{"weights": [1, 1, 1], **settings})


def test_no_adapter_is_refused():
    with refusal(ValueError, 0):
        combine([], [])
