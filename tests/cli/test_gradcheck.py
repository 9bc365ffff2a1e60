"""`minilora gradcheck`: what it prints, and its exit codes."""

import re

import numpy as np
import pytest

from minilora.autograd.tensor import Tensor
from minilora.cli import gradcheck as command
from minilora.cli.app import main
from minilora.gradients import mutants
from minilora.gradients.case import Case
from minilora.gradients.cases import all_cases
from tests.says import error_line, names


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def wrong_cube(x):
    return Tensor.from_op(x.data**3, (x, lambda g: g * 3.03 * x.data**2))


def test_checks_everything_and_exits_0(capsys):
    assert main(["gradcheck", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    for name in (
        "add",
        "causal_attention",
        "lora_linear",
        "Transformer",
        "adapted",
        "bottlenecks",
        "lora_B",
    ):
        assert f" {name} " in out
    assert re.search(r"^(\d+) gradients, 0 ", out, re.MULTILINE)


def test_one_op_shows_every_variant(capsys):
    assert main(["gradcheck", "--op", "RMS_norm", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert "rms_norm (large eps)" in out and "causal_attention" not in out


def test_an_unknown_op_is_refused_with_the_names(capsys):
    assert main(["gradcheck", "--op", "rms_nrom"]) == 1
    assert names(error_line(capsys), "'rms_nrom'", "rms_norm")


def test_a_wrong_gradient_exits_1_and_is_named(monkeypatch, capsys):
    x = np.random.default_rng(0).standard_normal((3, 5))
    case = Case("cube", "", wrong_cube, {"x": x})
    monkeypatch.setattr(command, "all_cases", lambda seed: [case])
    assert main(["gradcheck", "--op", "cube"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^[1-9]\d* gradients, [1-9]", out, re.MULTILINE) and names(out, "cube", "x")


def test_mutants_are_all_caught(monkeypatch, capsys):
    """In the first case of each op; tests/gradients plants them in all."""
    firsts = {case.op: case for case in reversed(all_cases())}.values()
    monkeypatch.setattr(command, "all_cases", lambda seed: list(firsts))
    assert main(["gradcheck", "--mutants"]) == 0
    out = capsys.readouterr().out
    for name in ("lora_linear", "linear", "Linear", "Transformer", "adapted", "bottlenecks"):
        assert len(re.findall(rf"^ +{name} +(\d+) +\1 *$", out, re.MULTILINE)) == 1, name
    assert " 0 survived" in out


def test_a_surviving_mutant_exits_1_and_is_named(monkeypatch, capsys):
    spoils = {**mutants.SPOILS, "far too small": lambda ga: ga * (1 + 1e-12)}
    monkeypatch.setattr(mutants, "SPOILS", spoils)
    assert main(["gradcheck", "--mutants", "--op", "tanh"]) == 1
    out = capsys.readouterr().out
    assert names(out, "tanh a", "far too small", 1)
