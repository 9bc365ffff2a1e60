"""The replay experiment: which rate is taken, what is kept, and what its table says."""

from __future__ import annotations

import json

from minilora.bench import replay
from minilora.bench.replay import RATES, SEEDS, Cells, measured, rows_of, table
from minilora.evaluation.paired import wilson
from minilora.ward import GROUPS


def cell(house, base):
    return {
        "house": house, "house_rows": 200, "invented": 0.0, "missing_doses": 100, "base": base,
        "groups": dict.fromkeys(GROUPS, base), "group_rows": dict.fromkeys(GROUPS, 60),
    }  # fmt: skip


def test_the_rate_is_chosen_on_validation_rows_and_the_seeds_are_others(monkeypatch):
    asked = []

    class Known:
        def get(self, kind, share, rate, seed):
            asked.append((kind, rate, seed))
            # On the rows that are reported another rate would look best.
            house = {"tuned": 0.9, "reported": 0.5}[kind] + (rate == RATES[1]) * 0.05
            return {**cell(house, 0.9 - (kind == "reported") * (rate == RATES[1])), "lr": rate}

    arm = measured(Known(), 0.2)
    assert arm["lr"] == RATES[1] and len(arm["tuning"]) == len(RATES)
    assert {a for a in asked if a[0] == "reported"} == {("reported", RATES[1], s) for s in SEEDS}
    tuned_with = {seed for kind, _, seed in asked if kind == "tuned"}
    assert not tuned_with & set(SEEDS)


def test_rows_that_rates_are_chosen_on_are_not_those_that_are_reported():
    (notes, suite), (shown_notes, shown_suite) = rows_of("tuned"), rows_of("reported")
    assert not {r["prompt"] for r in notes} & {r["prompt"] for r in shown_notes}
    with_notes = {r["prompt"] for r in suite if "name" in r["facts"]}
    assert with_notes and not with_notes & {r["prompt"] for r in shown_suite}


def test_a_cell_is_measured_once(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(replay, "adapter_trained", lambda *a: calls.append(a))
    monkeypatch.setattr(replay, "open_base", lambda name: (None, None))
    monkeypatch.setattr(replay, "scores", lambda *a: cell(0.9, 0.8))
    first = Cells(tmp_path / "cells").get("tuned", 0.2, 0.01, 5)
    again = Cells(tmp_path / "cells").get("tuned", 0.2, 0.01, 5)
    assert first == again and len(calls) == 1 and first["share"] == 0.2
    Cells(tmp_path / "cells").base()  # asked without an adapter
    assert len(calls) == 1
    assert capsys.readouterr().out.count("\n") == 2


def test_the_table_has_mean_range_and_the_interval_of_one_run():
    runs = [cell(0.9, 0.5), cell(0.96, 0.5), cell(0.93, 0.5)]
    lines = table(cell(0.0, 1.0), [{"share": 0.2, "lr": 0.01, "runs": runs}])
    row = next(line for line in lines if line.startswith("| house, exact"))
    low, high = wilson(0.93 * 200, 200)
    for text in ("0.0%", "93.0%", "90.0% to 96.0%", f"{low:.1%}", f"{high:.1%}"):
        assert text in row
    assert len(lines) == 3 + 3 + len(GROUPS)
    assert json.dumps(lines) and all(line.count("|") == 4 for line in lines)
