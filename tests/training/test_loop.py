"""fit and evaluate: learning, what stays untouched, bad numbers, refusals, the run's folder."""

from __future__ import annotations

import json
import math
from dataclasses import fields

import numpy as np
import pytest

from minilora.autograd import IGNORE
from minilora.lora import base_state
from minilora.nn import NotFiniteError, Parameter
from minilora.processes import recommended_workers
from minilora.storage import read_safetensors, write_safetensors
from minilora.text import Example
from minilora.training import SGD, AdamW, Batches, DivergedError, TrainingConfig, evaluate, fit
from minilora.training.checkpoint import checkpoints, save_checkpoint
from minilora.training.history import History
from minilora.training.parallel import Workers
from minilora.training.step import split_batch
from tests.says import names, refusal


def train(model, tiny, steps=6, out=None, size=4, resume=False, optimizer=None, seed=3, **changes):
    config = TrainingConfig(steps, **{"lr": 0.02, "workers": 1, **changes})
    batches = Batches(tiny.copy_examples(), size, seed)
    return fit(
        model, batches, config, optimizer=optimizer, out_dir=out, resume=resume, progress=False
    )


def bytes_of(model):
    return {name: p.data.tobytes() for name, p in model.named_parameters()}


def test_the_loss_of_a_copy_task_falls(tiny):
    model = tiny.model(num_hidden_layers=2)
    before = evaluate(model, tiny.copy_examples())
    assert before == pytest.approx(math.log(tiny.VOCAB), rel=0.1)
    history = train(model, tiny, steps=150, size=15, warmup=10)
    assert evaluate(model, tiny.copy_examples()) < before / 3
    steps, losses = history.series("loss")
    assert steps == list(range(1, 151))
    assert losses[0] > 2 * losses[-1]
    assert {p.data.dtype for p in model.parameters()} == {np.dtype(np.float32)}


@pytest.mark.processes
@pytest.mark.parametrize("workers", [1, 2])
def test_the_frozen_base_keeps_every_bit(tiny, workers):
    model = tiny.model(adapted=True)
    base = {n: a.tobytes() for n, a in base_state(model).items()}
    start = bytes_of(model)
    train(model, tiny, workers=workers, weight_decay=0.1)
    assert {n: a.tobytes() for n, a in base_state(model).items()} == base
    changed = {n for n, b in bytes_of(model).items() if b != start[n]}
    assert changed == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_evaluate_is_the_mean_over_all_labels(tiny):
    model, examples = tiny.model().train(), tiny.copy_examples()
    losses = []
    for example in examples:
        logits = model(example.ids[None]).data[0].astype(np.float64)
        for row, label in zip(logits, example.labels, strict=True):
            if label != IGNORE:
                losses.append(np.log(np.exp(row - row.max()).sum()) + row.max() - row[label])
    for size in (1, 7, 64):  # batches of different sizes hold different numbers of labels
        assert evaluate(model, examples, size, pad_id=5) == pytest.approx(np.mean(losses), rel=1e-5)
    per_example = [evaluate(model, [e]) for e in examples]
    assert np.mean(per_example) != pytest.approx(np.mean(losses), rel=1e-4)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("mode", [True, False])
def test_evaluate_uses_no_dropout_and_leaves_the_mode(tiny, mode):
    model = tiny.model(adapted=True, dropout=0.5).train(mode)
    for name, p in model.named_parameters():
        if name.endswith("lora_B"):
            p.data = np.full(p.shape, 0.1, np.float32)
    first = evaluate(model, tiny.copy_examples())
    assert evaluate(model, tiny.copy_examples()) == first
    assert model.training is mode and model.model.training is mode


def test_evaluate_without_anything_to_measure_is_refused(tiny):
    with refusal(ValueError):
        evaluate(tiny.model(), [])
    unlabelled = Example(np.array([1, 2]), np.full(2, IGNORE))
    with refusal(ValueError, "label"):
        evaluate(tiny.model(), [unlabelled])


def test_after_fit_the_model_is_in_evaluation_mode(tiny):
    model = tiny.model(adapted=True)
    modes = []
    config = TrainingConfig(2, 0.01, workers=1, eval_every=1)
    batches = Batches(tiny.copy_examples(), 4, 0)

    def on_eval(step):
        modes.append(model.training)
        model.eval()
        return {"exact": step / 2}

    history = fit(model, batches, config, on_eval=on_eval, progress=False)
    assert modes == [True, True]
    assert not any(module.training for _, module in model.named_modules())
    assert history.series("exact") == ([1, 2], [0.5, 1.0])
    with pytest.raises(ZeroDivisionError):
        fit(model, batches, config, on_eval=lambda step: 1 / 0, progress=False)
    assert not any(module.training for _, module in model.named_modules())


def test_a_piece_holds_no_column_after_its_last_label():
    class Rows:
        ids = np.arange(12).reshape(3, 4)
        labels = np.array([[1, IGNORE, IGNORE, IGNORE], [1, 2, IGNORE, IGNORE], [IGNORE] * 4])

    pieces = split_batch(Rows, 2, (7, 0))
    assert [p.ids.shape for p in pieces] == [(2, 2), (1, 1)]
    assert [p.seed for p in pieces] == [(7, 0, 0), (7, 0, 1)]
    assert [p.ids.shape for p in split_batch(Rows, 5, (7, 0))] == [(1, 1), (1, 2), (1, 1)]


def test_every_step_draws_other_dropout(tiny):
    """At learning rate ~0 and with one example, losses differ by their masks alone."""
    model, examples = tiny.model(adapted=True, dropout=0.5), tiny.copy_examples(1)
    for name, p in model.named_parameters():
        if name.endswith("lora_B"):
            p.data = np.full(p.shape, 0.3, np.float32)

    def losses(seed):
        config = TrainingConfig(3, 1e-30, workers=1, seed=seed)
        return fit(model, Batches(examples, 1, 0), config, progress=False).series("loss")[1]

    first = losses(seed=0)
    assert len({*first, *losses(seed=1)}) == 6
    assert losses(seed=0) == first
    assert evaluate(model, examples) not in first


# -- numbers that are not finite ---------------------------------------------------------------


class Planting(SGD):
    """Puts NaN into the last norm's weight after a step."""

    def __init__(self, model, at, value):
        super().__init__(model.named_parameters())
        self.weight, self.at, self.value = model.model.norm.weight, at, value

    def step(self, lr):
        super().step(lr)
        if self.steps == self.at:
            self.weight.data[3] = self.value


@pytest.mark.processes
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_state(
    tiny, tmp_path, value, workers
):
    model = tiny.model()
    optimizer = Planting(model, at=5, value=value)
    examples = Batches(tiny.copy_examples(), 4, 3).batch(5).indices.tolist()
    with pytest.raises(DivergedError) as error:
        train(
            model, tiny, 9, tmp_path / "run", optimizer=optimizer, checkpoint_every=2,
            workers=workers,
        )  # fmt: skip
    last = tmp_path / "run" / "checkpoints" / "step-000004"
    assert "step 5:" in str(error.value) and str(examples) in str(error.value)
    assert str(last) in str(error.value)
    assert checkpoints(last.parent)[-1] == last
    records = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(r)["step"] for r in records] == [1, 2, 3, 4, 5]
    assert optimizer.steps == 5  # no update was made from bad gradients


@pytest.mark.processes
@pytest.mark.parametrize("at", [4, 9])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_weight_that_is_not_finite_is_never_saved_nor_returned(tiny, tmp_path, at, workers):
    """Planted by the update before a checkpoint, or by the last one, which no loss follows."""
    model = tiny.model()
    optimizer = Planting(model, at=at, value=np.inf)
    with refusal(DivergedError, at - 1, "model.norm.weight"):
        train(
            model, tiny, 9, tmp_path / "run", optimizer=optimizer, checkpoint_every=2,
            workers=workers,
        )  # fmt: skip
    saved = checkpoints(tmp_path / "run" / "checkpoints")
    assert saved[-1].name == {4: "step-000002", 9: "step-000008"}[at]
    for path in saved:
        for file in path.glob("*.safetensors"):
            assert all(np.isfinite(array).all() for array in read_safetensors(file)[0].values())


def test_a_moment_that_overflowed_stops_the_run(tiny):
    """Its weight would stand still from then on, and no loss would ever tell."""
    model = tiny.model()
    optimizer = AdamW(model.named_parameters())
    optimizer.state["v"]["model.norm.weight"][0] = np.inf
    with refusal(DivergedError, "v of model.norm.weight"):
        train(model, tiny, optimizer=optimizer)


def test_a_rate_far_too_high_is_told_once_and_without_warnings(tiny, tmp_path, recwarn):
    with refusal(DivergedError, "finite"):
        train(tiny.model(), tiny, out=tmp_path / "run", lr=1e308, checkpoint_every=1)
    assert not recwarn.list and not checkpoints(tmp_path / "run" / "checkpoints")


def test_a_gradient_that_is_not_finite_is_no_update(tiny, monkeypatch):
    model = tiny.model()
    start = bytes_of(model)
    with monkeypatch.context() as patch:
        patch.setattr("minilora.training.step.clip_grad_norm_", lambda *_: math.inf)
        with refusal(DivergedError, 0, float("inf")):
            train(model, tiny)
    assert bytes_of(model) == start


def test_a_loss_on_held_out_examples_that_is_not_finite_is_refused(tiny, recwarn):
    model, examples = tiny.model(), tiny.copy_examples()
    assert math.isfinite(evaluate(model, examples))
    model.model.norm.weight.data[:] = 3e38
    with refusal(NotFiniteError, len(examples)):
        evaluate(model, examples)
    assert not recwarn.list


def test_an_evaluation_that_is_not_finite_stops_the_run_at_the_last_good_checkpoint(tiny, tmp_path):
    def watch(step):
        if step == 4:
            raise NotFiniteError("the loss of the others is nan")
        return {}

    config = TrainingConfig(6, 0.02, workers=1, eval_every=2, checkpoint_every=3)
    batches = Batches(tiny.copy_examples(), 4, 0)
    with refusal(DivergedError, "others", tmp_path / "run" / "checkpoints" / "step-000003"):
        fit(tiny.model(), batches, config, out_dir=tmp_path / "run", on_eval=watch, progress=False)


# -- the folder of a run -----------------------------------------------------------------------


def folder_bytes(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_with_a_run_is_not_written_to(tiny, tmp_path):
    train(tiny.model(), tiny, out=tmp_path / "run", checkpoint_every=3)
    before = folder_bytes(tmp_path)
    model = tiny.model()
    start = bytes_of(model)
    with pytest.raises(ValueError, match="holds a run already"):
        train(model, tiny, out=tmp_path / "run", checkpoint_every=3)
    assert folder_bytes(tmp_path) == before and bytes_of(model) == start
    with refusal(ValueError, "out_dir"):
        train(model, tiny, resume=True)


CHANGES = {
    "steps": dict(steps=8),
    "lr": dict(lr=0.03),
    "schedule": dict(schedule="linear"),
    "betas": dict(betas=(0.9, 0.99)),
    "clip_norm": dict(clip_norm=0.5),
    "micro_batches": dict(micro_batches=2),
    "workers": dict(workers=2),
    "'seed'": dict(seed_of_run=1),
    "batch_size": dict(size=5),
    "data_seed": dict(seed=9),
}


@pytest.mark.parametrize("named", CHANGES)
def test_a_run_is_not_resumed_with_other_settings(tiny, tmp_path, named):
    train(tiny.model(), tiny, out=tmp_path / "run", checkpoint_every=3)
    before = folder_bytes(tmp_path)
    model, changes = tiny.model(), dict(CHANGES[named])
    if "seed_of_run" in changes:
        config = TrainingConfig(6, 0.02, workers=1, checkpoint_every=3, seed=1)
        batches = Batches(tiny.copy_examples(), 4, 3)
        again = lambda: fit(  # noqa: E731
            model, batches, config, out_dir=tmp_path / "run", resume=True, progress=False
        )
    else:
        again = lambda: train(  # noqa: E731
            model, tiny, out=tmp_path / "run", checkpoint_every=3, resume=True, **changes
        )
    start = bytes_of(model)
    with refusal(ValueError, named):
        again()
    assert folder_bytes(tmp_path) == before and bytes_of(model) == start


@pytest.mark.processes
def test_the_recommended_workers_are_the_run_s_own(tiny, tmp_path):
    """0 means the recommended number, and that number continues the run."""
    count = recommended_workers()
    settings = dict(out=tmp_path / "run", checkpoint_every=3)
    train(tiny.model(), tiny, workers=0, **settings)
    state = checkpoints(tmp_path / "run" / "checkpoints")[-1] / "state.json"
    assert json.loads(state.read_text())["settings"]["workers"] == count
    train(tiny.model(), tiny, workers=count, resume=True, **settings)
    with refusal(ValueError, "workers"):
        train(tiny.model(), tiny, workers=count + 1, resume=True, **settings)


def other_base(tiny, model):
    model.model.norm.weight.data = model.model.norm.weight.data * np.float32(1.5)


def other_alpha(tiny, model):
    return tiny.model(adapted=True, dropout=0.1)


@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("frozen", other_base),
        ("adapter", other_alpha),
        ("optimizer", lambda tiny, model: SGD(model.named_parameters(), momentum=0.5)),
        (
            "lr_scales",
            lambda tiny, model: AdamW(
                model.named_parameters(),
                lr_scales={n: 2.0 for n, p in model.named_parameters() if n.endswith("lora_B")},
            ),
        ),
    ],
)
def test_a_run_is_not_resumed_on_another_base_adapter_or_optimizer(tiny, tmp_path, named, change):
    train(tiny.model(adapted=True), tiny, out=tmp_path / "run", checkpoint_every=3)
    model = tiny.model(adapted=True)
    changed = change(tiny, model)
    optimizer = changed if isinstance(changed, (SGD, AdamW)) else None
    model = changed if changed is not None and optimizer is None else model
    start = bytes_of(model)
    with refusal(ValueError, named):
        train(
            model, tiny, out=tmp_path / "run", checkpoint_every=3, resume=True, optimizer=optimizer
        )
    assert bytes_of(model) == start


def test_a_run_is_not_resumed_on_other_examples(tiny, tmp_path):
    config = TrainingConfig(4, 0.02, workers=1, checkpoint_every=2)
    examples = tiny.copy_examples()
    fit(tiny.model(), Batches(examples, 4, 3), config, out_dir=tmp_path / "run", progress=False)
    examples[7].labels[-1] = 1 + examples[7].labels[-1] % 5
    with refusal(ValueError, "data"):
        fit(
            tiny.model(), Batches(examples, 4, 3), config,
            out_dir=tmp_path / "run", resume=True, progress=False,
        )  # fmt: skip


def test_an_optimizer_that_served_before_does_not_shift_the_steps(tiny, tmp_path):
    """A checkpoint counts the run's steps, not those of the optimizer's whole life."""
    model = tiny.model()
    optimizer = AdamW(model.named_parameters())
    train(model, tiny, steps=4, optimizer=optimizer)
    train(model, tiny, 6, tmp_path / "run", optimizer=optimizer, checkpoint_every=3)
    names = [p.name for p in checkpoints(tmp_path / "run" / "checkpoints")]
    assert names == ["step-000003", "step-000006"]
    resumed = tiny.model()
    second = AdamW(resumed.named_parameters())
    train(resumed, tiny, 6, tmp_path / "run", optimizer=second, checkpoint_every=3, resume=True)
    assert bytes_of(resumed) == bytes_of(model) and second.steps == optimizer.steps == 10


def damage_state(path):
    path.joinpath("state.json").write_text('{"format": 1, "set')


def damage_format(path):
    path.joinpath("state.json").write_text('{"format": 99}')


def damage_weights(path):
    file = path / "trainable.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def damage_numbers(path):
    arrays, _ = read_safetensors(path / "trainable.safetensors")
    arrays["model.norm.weight"][0] = np.nan
    write_safetensors(path / "trainable.safetensors", arrays)


def damage_settings(path):
    path.joinpath("state.json").write_text('{"format": 1, "step": 6}')


def damage_moments(path):
    file = path / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:50])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (damage_state, ("step-000006",)),
        (damage_format, (99, 1)),
        (damage_settings, ("settings",)),
        (damage_weights, ("trainable.safetensors",)),
        (damage_numbers, ("trainable.safetensors", "model.norm.weight")),
        (damage_moments, ("optimizer.safetensors",)),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(tiny, tmp_path, damage, named):
    train(tiny.model(), tiny, out=tmp_path / "run", checkpoint_every=3)
    damage(checkpoints(tmp_path / "run" / "checkpoints")[-1])
    model = tiny.model()
    start = bytes_of(model)
    with refusal(ValueError, *named):
        train(model, tiny, out=tmp_path / "run", checkpoint_every=3, resume=True)
    assert bytes_of(model) == start


def test_checkpoints_are_ordered_by_number_and_the_oldest_go(tiny, tmp_path):
    model = tiny.model()
    optimizer = AdamW(model.named_parameters())
    for step in (999_998, 999_999, 1_000_000):
        save_checkpoint(tmp_path, model, optimizer, {}, step=step)
    (tmp_path / "step-notes").mkdir()
    assert [p.name for p in checkpoints(tmp_path)] == ["step-999999", "step-1000000"]


# -- history -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["", '{"step": 3, "lo', '{"step": 3, "loss": 1.0}'])
def test_rewinding_keeps_whole_lines_up_to_the_step(tmp_path, cut):
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n' + cut)
    history = History(path=path)
    history.rewind(2)
    history.add({"step": 3, "loss": 0.5})
    assert path.read_text().splitlines() == [json.dumps(r) for r in history.records]
    assert [r["step"] for r in history.records] == [1, 2, 3]
    assert history.series("loss") == ([1, 2, 3], [3.0, 2.0, 0.5])


def test_a_rewind_that_fails_leaves_the_old_history(tmp_path, monkeypatch):
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        History(path=path).rewind(1)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(steps=0), "steps"),
        (dict(steps=-1), "steps"),
        (dict(steps=1.5), "steps"),
        (dict(lr=0.0), "lr"),
        (dict(lr=math.nan), "lr"),
        (dict(lr=math.inf), "lr"),
        (dict(lr="0.1"), "lr"),
        (dict(micro_batches=-1), "micro_batches"),
        (dict(workers=-1), "workers"),
        (dict(workers=10**6), "workers"),
        (dict(seed=-1), "seed"),
        (dict(warmup=-1), "warmup"),
        (dict(eval_every=-1), "eval_every"),
        (dict(checkpoint_every=-1), "checkpoint_every"),
        *[
            ({name: value}, name)
            for name in ("final_lr", "weight_decay", "clip_norm")
            for value in (-1.0, math.nan, math.inf)
        ],
        *[(dict(betas=(0.9, value)), "betas[1]") for value in (-0.1, 1.0, math.nan, math.inf)],
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, named):
    """One error names the one setting, and no other."""
    (value,) = changes.values()
    got = value[1] if named == "betas[1]" else value
    with refusal(ValueError, named, got) as caught:
        TrainingConfig(**{"steps": 1, "lr": 0.1, **changes})
    others = {field.name for field in fields(TrainingConfig)} - set(changes)
    assert not [name for name in others if names(caught, name)]


def test_too_many_workers_are_refused_before_any_is_started(tiny):
    with refusal(ValueError, 65, 1, 64):
        Workers(tiny.model(), 65)


def test_a_model_with_nothing_to_train_is_refused(tiny):
    model = tiny.model().requires_grad_(False)
    with refusal(ValueError):
        train(model, tiny)
    assert isinstance(model.model.norm.weight, Parameter)


def test_a_batch_without_a_label_is_named(tiny):
    examples = [Example(np.array([1, 2], np.int32), np.full(2, IGNORE, np.int32))]
    config = TrainingConfig(1, 0.1, workers=1)
    with refusal(ValueError, 0, [0]):
        fit(tiny.model(), Batches(examples, 1, 0), config, progress=False)
