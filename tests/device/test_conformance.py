"""Ops, models and whole runs on the strict stand-in: the numbers of NumPy, and few waits."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.autograd import Tensor
from minilora.backend import to_device, to_floats, to_numpy
from minilora.gradients.twins import TWINS
from minilora.lora import Adapter, attach, base_state
from minilora.nn import generate
from minilora.training import SGD, AdamW, clip_grad_norm_, evaluate
from minilora.training.parallel import Workers
from tests.device import conformance as c
from tests.device.strict_cupy import counted
from tests.says import refusal

pytestmark = pytest.mark.usefixtures("cupy")
TOLERANCE = 1e-6


@pytest.mark.parametrize("case", c.OP_CASES, ids=lambda case: case.name)
def test_ops(case):
    c.assert_same_results(lambda device: c.run_case(case, device), TOLERANCE)


@pytest.mark.parametrize(
    "case", [case for case in c.OP_CASES if case.op in TWINS], ids=lambda case: case.name
)
def test_twins(case):
    c.assert_same_results(lambda d: c.run_case(case, d, twin=True), TOLERANCE)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 5e-6), (np.float64, 1e-13)])
@pytest.mark.parametrize("case", c.MODULE_CASES, ids=lambda case: case.name)
def test_layers_and_models(case, dtype, tolerance):
    c.assert_same_results(lambda device: c.run_case(case, device, dtype), tolerance)


@pytest.mark.parametrize("case", c.OP_CASES, ids=lambda case: case.name)
def test_no_op_waits_for_the_device(case):
    with counted() as waits:
        c.run_case(case, "gpu")
    assert not waits


@pytest.mark.parametrize("adapted", [False, True])
def test_training(adapted, tmp_path):
    models = {device: c.tiny_model(device, adapted) for device in c.DEVICES}
    runs = {d: c.train(models[d], out_dir=tmp_path / d) for d in c.DEVICES}
    for key in ("loss", "grad_norm", "lr"):
        (_, expected), (_, got) = (runs[d][0].series(key) for d in c.DEVICES)
        np.testing.assert_allclose(got, expected, rtol=2e-5)
    assert max(runs["cpu"][0].series("grad_norm")[1]) > 0.5  # clipping has been at work
    c.assert_same_model(models["gpu"], models["cpu"], 1e-5)
    examples = c.copy_examples(5)
    losses = [evaluate(models[d], examples, batch_size=2) for d in c.DEVICES]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("adapted", [False, True])
def test_a_step_waits_twice_for_the_device(adapted):
    """Once for the losses of all pieces, once for the gradient norm; whatever the model's size."""
    model = c.tiny_model("gpu", adapted)
    with counted() as waits:
        c.train(model, steps=3)
    assert waits == {"get": 2 * 3 + 1}  # and once after the last: is every weight finite?


def test_evaluating_waits_once_a_batch_and_generating_once_a_token():
    model = c.tiny_model("gpu")
    with counted() as waits:
        evaluate(model, c.copy_examples(6), batch_size=2)
    assert waits == {"float": 3}
    with counted() as waits:
        generate(model, [[1, 2], [3, 4, 5]], 4)
    assert waits == {"get": 4}


@pytest.mark.parametrize("adapted", [False, True])
def test_a_resumed_run_is_the_run(adapted, tmp_path):
    whole, halves = c.tiny_model("gpu", adapted), c.tiny_model("gpu", adapted)
    history, optimizer = c.train(whole, out_dir=tmp_path / "whole")
    c.train(halves, out_dir=tmp_path / "halves")
    (tmp_path / "halves" / "checkpoints" / "step-000004").rename(tmp_path / "dropped")
    again = c.tiny_model("gpu", adapted)
    resumed, moments = c.train(again, out_dir=tmp_path / "halves")
    assert resumed.series("loss") == history.series("loss")
    for name, array in {**whole.state_dict(), **optimizer.state_dict()}.items():
        other = {**again.state_dict(), **moments.state_dict()}[name]
        assert array.tobytes() == other.tobytes(), name


def test_an_engine():
    host, device = (c.engine_answers(name) for name in c.DEVICES)
    assert host == device


@pytest.mark.parametrize("use_cache", [False, True])
def test_a_bank(use_cache):
    c.assert_same_bank(TOLERANCE * 5, use_cache)


@pytest.mark.parametrize("use_cache", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("adapted", [False, True])
def test_generation(adapted, temperature, use_cache):
    prompts = [[1, 2], [3, 4, 5, 6], [7]]
    tokens = [
        generate(
            c.tiny_model(device, adapted), prompts, 7, temperature=temperature, top_p=0.9,
            rng=np.random.default_rng(6), stop_ids=(0,), use_cache=use_cache,
        )
        for device in c.DEVICES
    ]  # fmt: skip
    assert tokens[0] == tokens[1]


def test_an_adapter_merges_saves_and_loads(tmp_path):
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    handles = {device: c.tiny_adapted(device) for device in c.DEVICES}
    models = {device: handle.model.eval() for device, handle in handles.items()}
    adapted = {device: to_numpy(model(ids).data) for device, model in models.items()}
    c.assert_close(adapted["gpu"], adapted["cpu"], TOLERANCE)
    for device, model in models.items():
        base = {name: to_numpy(a).tobytes() for name, a in base_state(model).items()}
        handles[device].adapter(base_name="tiny").write(tmp_path / device)
        handles[device].merge()
        c.assert_close(model(ids).data, adapted["cpu"], 1e-5)
        handles[device].unmerge()
        assert base == {name: to_numpy(a).tobytes() for name, a in base_state(model).items()}
    for file in ("adapter_model.safetensors", "adapter_config.json", "minilora.json"):
        assert (tmp_path / "cpu" / file).read_bytes() == (tmp_path / "gpu" / file).read_bytes()
    again = attach(c.tiny_model("gpu"), Adapter.read(tmp_path / "cpu"))
    np.testing.assert_array_equal(to_numpy(again.model.eval()(ids).data), adapted["gpu"])
    merged = handles["cpu"].merge_and_unload()
    c.assert_same_model(again.merge_and_unload(), merged, TOLERANCE)


@pytest.mark.parametrize("merged", [False, True])
def test_an_adapted_model_moves_there_and_back(merged):
    handle = c.tiny_adapted("cpu")
    model = handle.model
    before = {name: array.tobytes() for name, array in base_state(model).items()}
    if merged:
        handle.merge()
    model.eval()
    ids = np.array([[1, 2, 3]])
    expected = model(ids).data
    model.to("gpu")
    arrays = {name: p.data for name, p in model.named_parameters()}
    for name, array in {**arrays, **base_state(model)}.items():  # with what merging has kept
        c.assert_on(array, "gpu", name)
    c.assert_close(model(ids).data, expected, TOLERANCE)
    model.to("cpu")
    np.testing.assert_array_equal(model(ids).data, expected)
    assert {name: array.tobytes() for name, array in base_state(model).items()} == before
    assert not any(array.flags.writeable for array in base_state(model).values())
    if merged:
        weights = [layer.base_layer.weight.data for layer in handle.layers.values()]
        assert not any(array.flags.writeable for array in weights)
        handle.unmerge()
    handle.detach()
    assert all(array.flags.writeable for array in base_state(model).values())


def test_an_adapter_put_on_a_device_model_freezes_it_on_the_host_too():
    handle = attach(c.tiny_model("gpu"), c.LORA, np.random.default_rng(1))
    handle.model.to("cpu")
    assert not any(array.flags.writeable for array in base_state(handle.model).values())
    merged = handle.merge_and_unload()
    assert all(array.flags.writeable for array in base_state(merged).values())


def test_a_gradient_moves_with_its_parameter():
    model = c.tiny_model("cpu")
    model.loss(np.array([[1, 2]]), np.array([[2, 3]])).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    for name, parameter in model.to("gpu").named_parameters():
        c.assert_on(parameter.grad, "gpu", name)
        np.testing.assert_array_equal(to_numpy(parameter.grad), expected[name])


def test_moving_refuses_other_devices(monkeypatch):
    model = c.tiny_model("cpu")
    arrays = [p.data for p in model.parameters()]
    with refusal(ValueError, "cpu", "gpu"):
        model.to("cuda")
    with monkeypatch.context() as patch:
        patch.setattr("minilora.backend.is_gpu_available", lambda: False)
        with refusal(ValueError, "CuPy", "CUDA"):
            model.to("gpu")
    assert all(p.data is array for p, array in zip(model.parameters(), arrays, strict=True))
    assert all(p.data is a for p, a in zip(model.to("cpu").parameters(), arrays, strict=True))


@pytest.mark.parametrize("make", [AdamW, lambda named: SGD(named, momentum=0.9), SGD])
def test_optimizers_keep_float32_on_the_device(make):
    model = c.tiny_model("gpu")
    optimizer = make(model.named_parameters())
    model.loss(np.array([[1, 2]]), np.array([[2, 3]])).backward()
    clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step(0.01)
    for name, parameter in model.named_parameters():
        c.assert_on(parameter.data, "gpu", name)
        assert parameter.dtype == parameter.grad.dtype == np.float32
    assert optimizer.state.keys() == set(optimizer.slots)
    assert all(c.assert_on(a, "gpu") is None for d in optimizer.state.values() for a in d.values())


@pytest.mark.parametrize("device", c.DEVICES)
def test_ids_and_labels_on_the_host_are_checked_and_moved(device):
    model = c.tiny_model(device)
    with refusal(ValueError, 1, 13, 0, 12):
        model(np.array([[1, 13]]))
    with refusal(ValueError, 13, 0, 12):
        model.loss(np.array([[1, 2]]), np.array([[13, -100]]))


def test_labels_on_the_device_give_the_same_loss():
    ids, labels = np.array([[1, 2, 3]]), np.array([[-100, 3, 4]])
    model = c.tiny_model("gpu")
    loss = model.loss(to_device(ids, "gpu"), to_device(labels, "gpu"))
    assert loss.item() == model.loss(ids, labels).item()


@pytest.mark.parametrize("device", c.DEVICES)
def test_floats_come_in_one_copy(device):
    values = [to_device(np.array(x, dtype=np.float32), device) for x in (0.5, -3.0)]
    with counted() as waits:
        assert to_floats(values) == [0.5, -3.0]
    assert waits.total() == (device == "gpu")
    assert to_floats([]) == []


def test_workers_are_refused_on_a_device():
    with refusal(ValueError, 1, "GPU"):
        Workers(c.tiny_model("gpu"), 2)


def test_a_constant_follows_its_tensor():
    x = Tensor(to_device(np.ones(3, dtype=np.float32), "gpu"), requires_grad=True)
    y = (2.0 - x) / (1 + x * 3)
    c.assert_on(y.data, "gpu")
    assert y.dtype == np.float32
