"""The race of mixed batches: every side decodes with the same adapters."""

import pytest

from minilora.bench import workloads as w
from minilora.bench.race import race
from minilora.bench.records import best_title, cpu_title, race_record
from minilora.bench.summary import goal_lines

BANK = w.JOBS["bank"]


def test_adapters_are_drawn_alike_and_differ(tiny):
    first, second = w.bank_factors(tiny, 2), w.bank_factors(tiny, 2)
    one, other = next(first), next(first)
    assert all((a == b).all() for a, b in zip(one.values(), next(second).values(), strict=True)
               for a, b in zip(a, b, strict=True))  # fmt: skip
    name = "model.layers.0.self_attn.v_proj"
    assert (one[name][0] != other[name][0]).any()
    assert len(one) == 2 * tiny.config.num_hidden_layers


@pytest.mark.processes
def test_our_sides_race_and_are_held_against_one_adapter(tiny):
    sides = [("minilora", 1), ("bank-1", 1), ("bank-8", 1), ("bank-64", 1)]
    record = race_record(race(tiny, BANK, sides, pairs=1, starts=1, seconds=0.01))
    for count in (1, 8, 64):
        ratio = record["ratios"][best_title(f"bank-{count}")]
        assert (ratio["over"], ratio["under"]) == (f"bank-{count}@1", "minilora@1")
        assert ratio["pairs"] + ratio["dropped"] == record["rounds"]
    record["ratios"][best_title("bank-8")]["median"] = None  # every round was disturbed
    record["workload"]["name"] = "W"
    lines = {line.aim: line for line in goal_lines([record])}
    expected = record["ratios"][cpu_title("bank-8")]["median"]
    assert lines[1.1].value == expected and "processor" in lines[1.1].measure
    assert {side["loss"] for side in record["sides"].values()} == {
        record["sides"]["minilora@1"]["loss"]
    }
