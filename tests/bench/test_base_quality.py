"""Quality by base dtype: which rate is taken, on which rows, what is kept, what the table says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilora.bench import base_quality
from minilora.bench.base_quality import FRESH, VALIDATION, Quality, measured, notes_of, table
from minilora.bench.replay import RATES, SEEDS, TUNING_SEED
from minilora.evaluation.paired import wilson
from minilora.lora import Adapter, LoRAConfig, attach
from minilora.nn import BASE_DTYPES
from minilora.runs.tour import DATA, read_examples
from tests.tiny import model as tiny_model


def cell(exact, loss=0.01, **more):
    """What one measurement gives."""
    return {
        "exact": exact, "loss": loss, "invented": 0.0, "rows": 200, "missing_doses": 100, **more,
    }  # fmt: skip


def test_the_rate_is_chosen_on_validation_notes_by_exact_answers_then_loss():
    asked = []
    # By loss alone the first would be best, and the third is no better than the second.
    exact, loss = (0.8, 0.9, 0.9), (0.001, 0.02, 0.03)

    class Known:
        def base(self, dtype):
            return cell(1.0)

        def adapted(self, dtype, rate, seed, notes):
            asked.append((rate, seed, notes))
            i = RATES.index(rate)
            return cell(exact[i], loss[i], lr=rate)

    arm = measured(Known(), "q4")
    assert arm["lr"] == RATES[1] and len(arm["tuning"]) == len(RATES)
    reported = [(rate, seed) for rate, seed, notes in asked if notes == FRESH]
    assert reported == [(RATES[1], seed) for seed in SEEDS]
    assert {seed for _, seed, notes in asked if notes == VALIDATION} == {TUNING_SEED}
    assert TUNING_SEED not in SEEDS


def test_rows_that_rates_are_chosen_on_are_neither_reported_nor_in_a_file():
    few = {name: (20, seed) for name, (_, seed) in {"v": VALIDATION, "f": FRESH}.items()}
    chosen, reported = ({row["prompt"] for row in notes_of(*few[name])} for name in few)
    shipped = {
        row["prompt"]
        for part in ("train", "eval")
        for row in read_examples(DATA / f"cardiology.{part}.jsonl")
    }
    assert len(chosen) == len(reported) == 20
    assert not chosen & reported and not (chosen | reported) & shipped


def test_a_cell_is_measured_once(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(base_quality, "open_base", lambda *names: names)
    monkeypatch.setattr(base_quality, "own_scores", lambda *a: calls.append(a) or cell(0.5))
    first, again = (Quality(tmp_path / "cells").base("nf4") for _ in range(2))
    assert first == again == cell(0.5) and calls == [("ward-base", "nf4")]
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.filterwarnings("ignore:the adapter says nothing of its base")
def test_the_float32_adapter_itself_is_moved_onto_the_other_base(tmp_path, monkeypatch):
    model = tiny_model()
    handle = attach(model, LoRAConfig(r=2), np.random.default_rng(0))
    handle.adapter(base_name="ward-base").write(tmp_path / "adapter-1")
    trained = Adapter.read(tmp_path / "adapter-1")
    other, seen = tiny_model(seed=1), {}
    monkeypatch.setattr(base_quality, "open_base", lambda name, dtype: (other, None))
    monkeypatch.setattr(base_quality, "notes_of", lambda *a: [])

    def scores(model, tokenizer, notes):
        seen.update(dict(model.named_parameters()))
        return cell(0.5)

    monkeypatch.setattr(base_quality, "house_scores", scores)
    assert Quality(tmp_path).moved("q4", 1)["seed"] == 1
    for name in trained.modules:
        A, _ = trained.factors(name)
        (own,) = (p for n, p in seen.items() if n.startswith(name) and "lora_A" in n)
        assert np.array_equal(own.data, A)


def test_the_table_has_mean_range_and_the_interval_of_one_run():
    runs = [cell(0.9, 0.03), cell(0.96, 0.01), cell(0.93, 0.02)]
    arm = {"dtype": "nf4", "base": cell(1.0, 0.25), "lr": 0.01, "runs": runs}
    lines = table([arm])
    row = next(line for line in lines if line.startswith("| summaries, exact"))
    low, high = wilson(0.93 * 200, 200)
    assert f"93.0% (90.0% to 96.0%) [{low:.1%}, {high:.1%}]" in row
    assert "| 0.0200 (0.0100 to 0.0300) |" in "".join(lines)
    big = dict.fromkeys(("notes", "plain", "summaries_before", "summaries_after"), 1.5)
    longer = table([{**arm, "moved": runs, "smollm2": big}])
    assert len(longer) == len(lines) + 6 and longer[-1].endswith("| 1.5000 |")


def test_the_page_shows_the_table_of_its_json():
    folder = base_quality.PLAIN_TEXT.parent
    found = json.loads((folder / "quality.json").read_text("utf-8"))
    assert "\n".join(table(found["arms"])) in (folder / "README.md").read_text("utf-8")
    assert [arm["dtype"] for arm in found["arms"]] == list(BASE_DTYPES)
    assert all(len(arm["smollm2"]["steps"]) == base_quality.BIG_STEPS for arm in found["arms"])


def test_the_plain_text_is_read_whole():
    lines = base_quality.PLAIN_TEXT.read_text("utf-8").splitlines()
    assert len(lines) == 10 and all(len(line) > 100 for line in lines)


@pytest.mark.processes
def test_the_command_measures_quality_in_place_of_time(tmp_path, monkeypatch, capsys):
    from minilora.bench import base_dtypes

    arm = {"dtype": "q4", "base": cell(1.0), "lr": 0.01, "runs": [cell(0.5)]}
    got = []
    monkeypatch.setattr(base_dtypes, "measure_quality", lambda *a: got.append(a) or [arm])
    monkeypatch.setattr(base_dtypes, "measure", lambda *a: pytest.fail("it raced"))
    words = ["base_dtypes", "--quality", "--dtypes", "q4", "--out", str(tmp_path / "x.json")]
    monkeypatch.setattr("sys.argv", [*words, "--no-smollm2"])
    base_dtypes.main()
    assert got == [(tmp_path / "x.json", base_dtypes.Path("quality.cells"), ["q4"], False)]
    assert "| summaries, exact | 50.0%" in capsys.readouterr().out
