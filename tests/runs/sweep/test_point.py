"""One run of a sweep: its adapter is trained, put on the base and asked, row by row."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.hub import load_pretrained
from minilora.lora import Adapter, attach
from minilora.runs.sweep import SweepFile, point
from tests.cli.conftest import pairs, write_jsonl

SWEEP = """
base = "{base}"
eval = "eval.jsonl"
choose_rows = 4
report_rows = 6
[grid]
r = 2
lr = 0.05
steps = 3
batch_size = 4
[data.all]
"train.jsonl" = true
"""


@pytest.fixture
def planned(base, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", pairs(20))
    write_jsonl(tmp_path / "eval.jsonl", pairs(30)[20:])
    (tmp_path / "sweep.toml").write_text(SWEEP.format(base=base))
    sweep = SweepFile.read(tmp_path / "sweep.toml")
    (one,) = sweep.points(sweep.write_data(tmp_path / "data"), tmp_path / "runs", None)
    return one


def logits(model):
    with no_grad():
        return model(np.array([[3, 1, 4, 1, 5]])).data


def test_it_is_judged_with_the_adapter_that_it_trained(base, planned, monkeypatch):
    seen = []

    def judged(model, tokenizer, files):
        seen.append(logits(model))
        return {name: [True] for name in files}

    monkeypatch.setattr(point, "judged", judged)
    told = point.run_point(planned)
    model, _ = load_pretrained(base)
    plain = logits(model)
    attach(model, Adapter.read(planned.out))
    assert not np.allclose(seen[0], plain, atol=1e-4)
    np.testing.assert_array_equal(seen[0], logits(model))
    assert told["trained"] == Adapter.read(planned.out).size and told["seconds"] > 0
    assert json.loads(json.dumps(told)) == told


def test_an_answer_is_right_where_it_is_the_row_s_own(base, planned, monkeypatch):
    asked = []

    def score(model, tokenizer, cases, variant, room):
        asked.append([case.expected for case in cases])
        answers = [c.expected if i % 3 else f"{c.expected} or so" for i, c in enumerate(cases)]
        return SimpleNamespace(outputs=answers)

    monkeypatch.setattr(point, "score_variant", score)
    model, tokenizer = load_pretrained(base)
    right = point.judged(model, tokenizer, planned.files)
    assert right == {
        "choose": [False, True, True, False], "report": [False, True, True, False, True, True],
    }  # fmt: skip
    own = [row["completion"] for row in pairs(30)[20:]]
    assert asked == [own[:4], own[4:]]
