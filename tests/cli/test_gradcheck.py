"""`minilora gradcheck`: what it prints, and its exit codes."""

import numpy as np
import pytest

from minilora.autograd import functional as F
from minilora.autograd.tensor import Tensor
from minilora.cli import gradcheck as command
from minilora.cli.app import main
from minilora.gradients import mutants
from minilora.gradients.adapter_cases import adapted_cases
from minilora.gradients.model_cases import model_cases
from minilora.gradients.op_cases import Case

MODELS = [*model_cases(), *adapted_cases()]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def wrong_cube(op, x):
    return Tensor.from_op(x.data**3, (x, lambda g: g * 3.03 * x.data**2))


def test_checks_everything_and_exits_0(capsys):
    assert main(["gradcheck"]) == 0
    out = capsys.readouterr().out
    for name in ("add", "causal_attention", "lora_linear", "Transformer", "adapted", "lora_B"):
        assert f" {name} " in out
    assert ", 0 wrong; worst relative error" in out


@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_models_pass_with_another_seed(case):
    report = case.check(np.random.default_rng(3))
    assert report.ok, f"\n{report}"


def test_the_adapted_model_has_gradients_for_A_and_B_alone():
    for case in adapted_cases():
        if case.op == "adapted":
            assert case.inputs
            assert all(name.endswith(("lora_A", "lora_B")) for name in case.inputs)


def test_one_op_shows_every_variant(capsys):
    assert main(["gradcheck", "--op", "RMS_norm", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert "rms_norm (large eps)" in out and "causal_attention" not in out


def test_an_unknown_op_is_refused_with_the_names(capsys):
    assert main(["gradcheck", "--op", "rms_nrom"]) == 1
    message = capsys.readouterr().err
    assert "'rms_nrom'" in message and "rms_norm" in message


def test_a_wrong_gradient_exits_1_and_is_named(monkeypatch, capsys):
    x = np.random.default_rng(0).standard_normal((3, 5))
    case = Case("cube", "", F.silu, wrong_cube, {"x": x})
    monkeypatch.setattr(command, "op_cases", lambda seed: [case])
    assert main(["gradcheck", "--op", "cube"]) == 1
    out = capsys.readouterr().out
    assert "1 wrong" in out and "expected" in out


def test_mutants_are_all_caught(capsys):
    assert main(["gradcheck", "--mutants", "--op", "lora_linear"]) == 0
    out = capsys.readouterr().out
    assert "lora_linear" in out and " 0 survived" in out


def test_a_surviving_mutant_exits_1_and_is_named(monkeypatch, capsys):
    spoils = {**mutants.SPOILS, "far too small": lambda ga: ga * (1 + 1e-12)}
    monkeypatch.setattr(mutants, "SPOILS", spoils)
    assert main(["gradcheck", "--mutants", "--op", "tanh"]) == 1
    out = capsys.readouterr().out
    assert "survived: tanh a: far too small" in out and " 1 survived" in out
