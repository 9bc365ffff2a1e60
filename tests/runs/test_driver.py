"""run(plan): a value in and a value out, in this process, another one and the command's."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from minilora.cli.app import main
from minilora.evaluation.judge import Scores
from minilora.lora import Adapter, AttachError
from minilora.runs import AdaptPlan, PretrainPlan, Reporter, TourPlan, driver, run
from minilora.runs.compare import ComparePlan
from minilora.runs.plan import Sizes
from minilora.training import DivergedError
from tests.cli.conftest import pairs, write_jsonl
from tests.says import refusal


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_result_holds_what_was_written(plan):
    result = run(plan)
    adapter = Adapter.read(plan.out)
    assert adapter.provenance == result.provenance
    assert entries(plan.out) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "minilora.json",
    ]
    assert entries(result.folder) == ["history.jsonl", "run.json"]
    assert [step["step"] for step in result.history] == [1, 2, 3, 4]
    assert isinstance(result.before, Scores) and result.after.loss < result.before.loss
    assert result.sizes == Sizes(result.sizes.base, adapter.size, 8 * adapter.size)
    assert list(result.seconds) == [
        "opening", "judging before", "training", "judging after and saving",
    ]  # fmt: skip
    assert result.seconds["training"] > 0


@pytest.mark.processes
def test_another_process_does_the_same_and_returns_the_same(plan):
    here = run(plan)
    there_plan = replace(plan, out=plan.out.with_name("there"))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        there = pool.submit(run, there_plan).result(timeout=120)
    for name in entries(plan.out):
        assert (there_plan.out / name).read_bytes() == (plan.out / name).read_bytes()
    assert there.plan == there_plan and there.folder == there_plan.folder.path
    assert there.after == here.after and there.before == here.before
    assert there.provenance == here.provenance and there.sizes == here.sizes
    assert [s["loss"] for s in there.history] == [s["loss"] for s in here.history]


def test_the_command_and_the_function_write_the_same_bytes(plan, base, data):
    run(plan)
    flags = ["--steps", "4", "--batch-size", "4", "--lr", "0.02", "--r", "2", "--workers", "1"]
    out = plan.out.with_name("command")
    where = ["--data", str(data), "--base", str(base), "--out", str(out)]
    assert main(["adapt", *where, *flags]) == 0
    assert entries(out) == entries(plan.out)
    for name in entries(out):
        assert (out / name).read_bytes() == (plan.out / name).read_bytes()


PLANS = [
    AdaptPlan(data="d.jsonl", out="o", r=4, target_modules=("q_proj",), device="gpu"),
    TourPlan(ward="pediatrics", steps=7),
    PretrainPlan(out="o", hidden_size=16, start="x"),
]


@pytest.mark.parametrize("one", PLANS, ids=lambda one: type(one).__name__)
def test_a_plan_is_a_value_of_settings_and_paths(one):
    again = pickle.loads(pickle.dumps(one))
    assert again == one and again is not one and hash(again) == hash(one)
    assert not any(isinstance(value, np.ndarray) for value in asdict(one).values())
    with pytest.raises(AttributeError):
        one.seed = 3


def test_texts_are_paths_where_paths_are_meant():
    plan = AdaptPlan(data="d.jsonl", out="o", base="b")
    assert (plan.data, plan.out, plan.eval_data, plan.base) == (
        Path("d.jsonl"),
        Path("o"),
        None,
        "b",
    )
    assert ComparePlan(data="d.jsonl").data == Path("d.jsonl")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("steps", 0), ("steps", 2.5), ("batch_size", 0), ("lr", 0.0), ("lr", float("nan")),
        ("seed", -1), ("workers", -1), ("workers", 10**6), ("r", 0), ("lora_alpha", -1),
        ("lora_dropout", 1.0), ("eval_rows", 0), ("max_length", 0), ("target_modules", ()),
    ],
)  # fmt: skip
def test_a_number_that_makes_no_sense_is_refused_with_the_plan(name, number):
    with refusal(ValueError, name):
        AdaptPlan(data="d", out="o", **{name: number})


class Listener(Reporter):
    """Notes what it hears."""

    def __init__(self):
        self.heard = []

    def left_out(self, path, problems):
        self.heard.append(("left out", path, [problem.source for problem in problems]))

    def planned(self, planned):
        self.heard.append(("planned", planned))


def test_the_reporter_hears_what_is_left_out_and_what_is_planned(plan, data):
    write_jsonl(data, [*pairs(20), "{no json", '{"prompt": 3}'])
    listener = Listener()
    run(plan, listener)
    (first, path, sources), (second, planned) = listener.heard
    assert (first, path, sources) == ("left out", data, [f"{data}:21", f"{data}:22"])
    assert second == "planned" and planned.plan == plan
    assert (planned.train.examples, planned.training.steps, planned.layers) == (18, 4, 4)
    assert pickle.loads(pickle.dumps(planned)) == planned


def test_the_reporter_hears_of_data_that_is_refused(plan, data):
    write_jsonl(data, [*pairs(1), "{no json", '{"prompt": 3}'])
    listener = Listener()
    with refusal(ValueError, data, 2, 3):
        run(plan, listener)
    assert [heard[0] for heard in listener.heard] == ["left out"]


@pytest.mark.parametrize("workers", [2, 3])
def test_as_many_processes_answer_as_train(plan, workers):
    """Of each run that judges before and after."""
    tour = TourPlan(out=plan.out, steps=1)
    pretrain = PretrainPlan(out=plan.out, documents=200, vocab_size=400, hidden_size=16,
                            intermediate_size=24, layers=1, heads=2, max_length=1100)  # fmt: skip
    for one in (plan, tour, pretrain):
        job = replace(one, workers=workers).open(Reporter())
        assert job.judge.workers == job.training.workers == workers


def house_file(path, facts):
    from minilora.ward import house_examples

    lines = [example.to_dict() for example in house_examples("cardiology", "heldout", 3, seed=3)]
    lines[1]["facts"] |= facts
    return write_jsonl(path, lines)


def explode(*_, **__):
    raise DivergedError("step 0: loss nan")


def nothing_left(plan, *others):
    """Only what was there before the run is there."""
    names = [plan.data.name, *others]
    return entries(plan.out.parent) == sorted(names)


def test_what_fails_before_training_leaves_nothing(plan, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr("minilora.evaluation.judge.evaluate", explode)
        with refusal(DivergedError):
            run(plan)
    assert nothing_left(plan)
    with refusal(ValueError, "q_prj"):
        run(replace(plan, target_modules=("q_prj",)))
    assert nothing_left(plan)
    with refusal(ValueError, "no/such"):
        run(replace(plan, base="no/such"))
    assert nothing_left(plan)
    with pytest.raises(OSError):
        run(replace(plan, eval_data=tmp_path / "none.jsonl"))
    assert nothing_left(plan)
    with refusal(ValueError, "--resume"):
        run(replace(plan, resume=True, out=tmp_path / "deep" / "er" / "out"))
    assert nothing_left(plan)


def test_an_earlier_run_is_untouched_by_one_that_fails_before_training(plan, monkeypatch):
    result = run(plan)
    before = {name: (result.folder / name).read_bytes() for name in entries(result.folder)}
    monkeypatch.setattr("minilora.evaluation.judge.evaluate", explode)
    with refusal(DivergedError):
        run(replace(plan, seed=1))
    assert {n: (result.folder / n).read_bytes() for n in entries(result.folder)} == before


def test_a_house_record_that_can_not_be_scored_is_left_out(plan, tmp_path):
    held = house_file(tmp_path / "eval.jsonl", {"no_dose": [{"drug": "aspirin"}]})
    listener = Listener()
    base = replace(plan, eval_data=held, base=str(wide_base(tmp_path)))
    result = run(base, listener)
    assert ("left out", held, [f"{held}:2"]) in listener.heard
    assert result.after.house["cardiology"].count == 2 and result.after.loss_rows == 2
    assert result.provenance["eval"]["bad"] == 1 and result.provenance["judged"] == 2


def test_a_file_of_nothing_but_such_records_is_refused(plan, tmp_path):
    held = tmp_path / "eval.jsonl"
    lines = house_file(held, {"no_dose": [{"drug": "aspirin"}]}).read_text().splitlines()
    held.write_text(lines[1] + "\n")
    with refusal(ValueError, f"{held}:1"):
        run(replace(plan, eval_data=held, base=str(wide_base(tmp_path))))
    assert nothing_left(plan, "eval.jsonl", "wide")


def wide_base(tmp_path):
    """A base with room for a ward's note."""
    from tests.cli.conftest import make_base

    return make_base(tmp_path / "wide", 0, limit=700)


def test_a_run_that_diverges_says_so_in_its_folder(plan, monkeypatch):
    monkeypatch.setattr(driver, "fit", explode)
    with refusal(DivergedError):
        run(plan)
    assert plan.folder.read()["state"] == "diverged" and not plan.out.exists()


def test_the_base_is_plain_again_for_the_next(plan):
    """Two runs in one process do not meet: the second opens a base of its own."""
    first, second = run(plan), run(replace(plan, out=plan.out.with_name("again")))
    assert first.after == second.after
    assert issubclass(AttachError, ValueError)
