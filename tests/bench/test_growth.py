"""The points of a sweep, what is expected between them, and the clock of its processes."""

import io
import json

import pytest

from minilora.bench import growth, sweep
from minilora.bench import workloads as w


def test_the_base_is_measured_once_and_is_a_point_of_every_axis():
    names = [workload.name for workload in growth.points()]
    values = sum(map(len, growth.AXES.values()))
    assert len(names) == len(set(names)) == values - 2
    for axis, base in growth.BASE.items():
        assert base in growth.AXES[axis]
    heads = growth.workload_at("width", 384).config
    assert (heads.num_attention_heads, heads.head_dim) == (12, 32)


@pytest.mark.parametrize("job", growth.GROWING)
def test_work_a_token_grows_as_it_should(job):
    def work(axis, value):
        return growth.flops_per_token(growth.workload_at(axis, value), job)

    assert work("length", 192) > work("length", 64)
    assert work("width", 256) > 3 * work("width", 128) > 3 * work("width", 64)
    if job == "full":  # with an adapter, B A is built once a piece, whatever is in it
        steps = [work("length", t + 64) - work("length", t) for t in (64, 128, 192)]
        assert steps == pytest.approx([steps[0]] * 3)  # a line: attention is quadratic in a row
        assert work("batch", 16) == pytest.approx(work("batch", 2))


def test_rates_are_of_undisturbed_answers_and_expected_is_theirs_at_the_base():
    found = growth.Growth(["minilora"], 1)
    for workload in growth.points():
        for job in growth.GROWING:
            answers = [(2.0, 0.0), (4.0, 0.0), (90.0, 0.5)]
            found.times["minilora", job, workload.name] = [
                {"seconds": seconds, "foreign": foreign} for seconds, foreign in answers
            ]
    assert found.rate("minilora", "full", "batch", 4) == 4 * 128 / 3.0
    assert found.expected("full", "batch", 8) == 8 * 128 / 3.0
    assert found.expected("full", "width", 512) < found.expected("full", "width", 128) / 4
    assert found.disturbed() == 0
    found.times["minilora", "full", growth.workload_at("batch", 4).name] = [
        {"seconds": 1, "foreign": 0.5}
    ]
    assert found.disturbed() == 1 and found.rate("minilora", "full", "batch", 4) == 4 * 128


def test_a_process_answers_one_point_after_another(tiny):
    steps = []

    def side(spec, turns):
        steps.append(0)
        turns.begin(lambda: 2.5, {"version": spec["kind"]})
        while True:
            steps[-1] += 1
            turns.step_done()

    points = [{"seconds": 0.0, "workload": 1}, {"seconds": 0.01, "workload": 2}]
    answers = io.StringIO()
    asked = io.StringIO("".join(json.dumps(point) + "\n" for point in points))
    sweep.serve(side, {"kind": "other"}, asked, answers)
    told = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert len(told) == 2 and steps[0] == sweep.WARM_STEPS + sweep.LEAST_STEPS < steps[1]
    for answer in told:
        assert answer.keys() == {"loss", "version", "seconds", "cpu", "foreign", "memory"}
        assert (answer["loss"], answer["version"]) == (2.5, "other")


@pytest.mark.processes
def test_a_sweep_runs_our_step_twice_in_one_process(tiny, tmp_path):
    side = growth.Side("minilora", 2, {"sweep": True})
    try:
        for job in ("lora-qv", "full"):
            answer = growth._ask(side, tiny, job, str(tmp_path), 0.0)
            memory = answer["memory"]
            assert answer["seconds"] > 0
            assert memory["peak"] == memory["base"] + memory["growth"] > memory["growth"]
    finally:
        side.close()
    assert w.read_weights(tmp_path)[1] == {}  # those of the full step, without an adapter
