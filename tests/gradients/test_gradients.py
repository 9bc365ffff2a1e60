"""Every case of the house against finite differences, and planted mistakes against the check."""

from collections import Counter

import numpy as np
import pytest

from minilora.autograd import functional, ops
from minilora.autograd.attention import SAFE_EXPONENT
from minilora.gradients.cases import all_cases
from minilora.gradients.mutants import FORGETFUL, SPOILS, run_mutants
from minilora.gradients.op_cases import op_cases

CASES = all_cases(seed=0)
WHOLE_MODELS = ("Transformer", "adapted", "bottlenecks")
"""Their mistakes are planted by the command (tests/cli/test_gradcheck.py), as they take longer."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients_equal_finite_differences(case):
    report = case.check(np.random.default_rng(1))
    assert report.ok, f"\n{report}"


@pytest.mark.parametrize("seed", [1, 2])
def test_gradients_hold_for_other_numbers(seed):
    reports = [case.check(np.random.default_rng(seed)) for case in op_cases(seed)]
    assert [str(report.worst) for report in reports if not report.ok] == []


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.op not in WHOLE_MODELS], ids=lambda case: case.name
)
def test_every_planted_mistake_is_rejected(case):
    mutants = run_mutants(case, np.random.default_rng(2))
    assert [mutant for mutant in mutants if not mutant.caught] == []
    per_input = Counter(mutant.input for mutant in mutants if mutant.mistake in SPOILS)
    assert all(per_input[name] >= 3 for name in case.checked), per_input
    assert len(mutants) - sum(per_input.values()) == len(FORGETFUL.get(case.op, {}))


def test_every_op_has_a_case_and_every_wrong_formula_an_op():
    not_ops = {"IGNORE", "dropout_mask", "labelled_positions", "rope_tables"}
    fused = set(functional.__all__) - not_ops
    helpers = {"unbroadcast", "as_tensor"}
    primitive = {
        name
        for name, f in vars(ops).items()
        if getattr(f, "__module__", "") == ops.__name__ and not name.startswith(("_", "<"))
    } - helpers
    covered = {case.op for case in op_cases()}
    assert fused | primitive == covered
    assert FORGETFUL.keys() <= covered


def test_the_scores_of_the_large_case_leave_the_guarded_range():
    large = [case for case in CASES if "large scores" in case.variant]
    assert large
    for case in large:
        q, k = case.inputs["q"], case.inputs["k"]
        scores = np.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
        assert scores.max() > SAFE_EXPONENT


def test_the_adapted_model_has_gradients_for_what_an_adapter_holds_alone():
    adapted = [case for case in CASES if case.op == "adapted"]
    assert len(adapted) >= 5
    for case in adapted:
        assert case.checked
        held = ("lora_", "vera_lambda_", ".table.", ".head.")
        assert all(any(part in name for part in held) for name in case.checked)


def test_cases_are_named_apart_and_cover_every_kind_of_layer():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    ops_of_modules = {case.op for case in CASES if case.module is not None}
    assert ops_of_modules >= {"Linear", "Attention", "Block", "Transformer", "LoRALinear"}
    assert ops_of_modules >= {"adapted", "BottleneckLinear", "bottlenecks"}


def test_a_mistake_that_the_check_passes_survives(monkeypatch):
    monkeypatch.setitem(SPOILS, "far too small", lambda ga: ga * (1 + 1e-12))
    case = next(case for case in CASES if case.op == "tanh")
    mutants = run_mutants(case, np.random.default_rng(2))
    assert [mutant.mistake for mutant in mutants if not mutant.caught] == ["far too small"]


def test_a_mutant_with_other_values_is_refused(monkeypatch):
    monkeypatch.setitem(FORGETFUL, "tanh", {"cube": lambda a: a * a * a})
    case = next(case for case in CASES if case.op == "tanh")
    with pytest.raises(ValueError):
        run_mutants(case, np.random.default_rng(2))
