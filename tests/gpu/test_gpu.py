"""The conformance runs of tests/device on a real CuPy and a CUDA device, and what only that shows.

Run with --all. Without a CUDA device every test here is skipped.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
import pytest

from minilora.autograd import Tensor
from minilora.backend import device_memory, get_array_module, to_device, to_numpy
from minilora.lora import Adapter, attach, base_state
from minilora.nn import Linear, Transformer, TransformerConfig, generate
from minilora.training import evaluate
from tests.device import conformance as c

pytestmark = pytest.mark.gpu
SINGLE, DOUBLE, TRAINED = 1e-5, 1e-12, 1e-3


@pytest.mark.parametrize("case", c.OP_CASES, ids=lambda case: case.name)
def test_ops(case):
    c.assert_same_results(lambda device: c.run_case(case, device), SINGLE)
    c.assert_same_results(lambda device: c.run_case(case, device, np.float64), DOUBLE)


@pytest.mark.parametrize("case", c.MODULE_CASES, ids=lambda case: case.name)
def test_layers_and_models(case):
    c.assert_same_results(lambda device: c.run_case(case, device), 5 * SINGLE)
    c.assert_same_results(lambda device: c.run_case(case, device, np.float64), DOUBLE)


@pytest.mark.parametrize("adapted", [False, True])
def test_training(adapted, tmp_path):
    models = {device: c.tiny_model(device, adapted) for device in c.DEVICES}
    runs = {d: c.train(models[d], out_dir=tmp_path / d) for d in c.DEVICES}
    for key in ("loss", "grad_norm"):
        (_, expected), (_, got) = (runs[d][0].series(key) for d in c.DEVICES)
        np.testing.assert_allclose(got, expected, rtol=TRAINED)
    c.assert_same_model(models["gpu"], models["cpu"], TRAINED)
    losses = [evaluate(models[d], c.copy_examples(5), batch_size=2) for d in c.DEVICES]
    assert losses[1] == pytest.approx(losses[0], rel=TRAINED)


def test_an_engine():
    host, device = (c.engine_answers(name) for name in c.DEVICES)
    assert host == device


@pytest.mark.parametrize("use_cache", [False, True])
def test_a_bank(use_cache):
    c.assert_same_bank(5 * SINGLE, use_cache)


@pytest.mark.parametrize("use_cache", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
def test_greedy_generation(adapted, use_cache):
    prompts = [[1, 2], [3, 4, 5, 6], [7]]
    models = (c.tiny_model(device, adapted) for device in c.DEVICES)
    host, device = (generate(model, prompts, 7, use_cache=use_cache) for model in models)
    assert host == device


def test_an_adapter_merges_saves_and_loads(tmp_path):
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    handles = {device: c.tiny_adapted(device) for device in c.DEVICES}
    models = {device: handle.model.eval() for device, handle in handles.items()}
    expected = models["cpu"](ids).data
    base = {name: to_numpy(a).tobytes() for name, a in base_state(models["gpu"]).items()}
    for device, model in models.items():
        handles[device].adapter(base_name="tiny").write(tmp_path / device)
        handles[device].merge()
        c.assert_close(model(ids).data, expected, 10 * SINGLE)
        handles[device].unmerge()
    assert base == {name: to_numpy(a).tobytes() for name, a in base_state(models["gpu"]).items()}
    for file in ("adapter_model.safetensors", "adapter_config.json", "minilora.json"):
        assert (tmp_path / "cpu" / file).read_bytes() == (tmp_path / "gpu" / file).read_bytes()
    again = attach(c.tiny_model("gpu"), Adapter.read(tmp_path / "cpu"))
    c.assert_close(again.model.eval()(ids).data, expected, SINGLE)
    merged = handles["cpu"].merge_and_unload()
    c.assert_same_model(again.merge_and_unload(), merged, SINGLE)


def test_an_adapted_model_moves_there_and_back():
    handle = c.tiny_adapted("cpu")
    handle.merge()
    model = handle.model.eval()
    before = {name: p.data.tobytes() for name, p in model.named_parameters()}
    model.to("gpu").to("cpu")
    assert {name: p.data.tobytes() for name, p in model.named_parameters()} == before
    assert not any(array.flags.writeable for array in base_state(model).values())
    handle.unmerge()
    assert not any(x.base_weight.flags.writeable for x in handle.layers.values())


# --------------------------------------------------------------------- memory and time, roughly

WIDTH, ROWS = 1024, 4096


def test_memory_of_the_device_is_taken_and_given_back():
    before = device_memory("gpu").used
    array = to_device(np.zeros((WIDTH, WIDTH), dtype=np.float32), "gpu")
    assert device_memory("gpu").used - before >= array.nbytes
    del array
    assert device_memory("gpu").used == before


def test_freezing_costs_less_memory_than_training():
    """A frozen weight has no gradient: at least its size less is in use after backward."""
    held = {}
    for frozen in (False, True):
        layer = Linear(WIDTH, WIDTH, np.random.default_rng(0)).to("gpu")
        layer.weight.requires_grad = not frozen
        x = Tensor(to_device(np.ones((ROWS, WIDTH), dtype=np.float32), "gpu"), True)
        out = layer(x)
        out.backward(to_device(np.ones(out.shape, dtype=np.float32), "gpu"))
        gc.collect()
        held[frozen] = device_memory("gpu").used
        del layer, x, out
    assert held[False] - held[True] >= 4 * WIDTH * WIDTH


def _seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The best of some runs after a first one, which compiles; waits for the device's end."""
    xp = get_array_module(to_device(np.zeros(1), "gpu"))
    times = []
    for _ in range(repeats + 1):
        xp.cuda.Device().synchronize()
        began = time.perf_counter()
        work()
        xp.cuda.Device().synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def test_times_of_a_step_are_told(capsys):
    """No limit is set, since cards differ; the times of both devices are printed."""
    config = TransformerConfig(
        vocab_size=2048, hidden_size=512, intermediate_size=1408, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4,
    )  # fmt: skip
    ids = np.random.default_rng(0).integers(0, 2048, (8, 256))
    seconds = {}
    for device in c.DEVICES:
        model = Transformer(config, np.random.default_rng(0)).to(device)

        def step(model: Transformer = model) -> float:
            model.zero_grad()
            loss = model.loss(ids, ids)
            loss.backward()
            return loss.item()

        assert np.isfinite(step())
        seconds[device] = _seconds(step, repeats=5 if device == "gpu" else 1)
    with capsys.disabled():
        told = ", ".join(f"{device} {1000 * s:.1f} ms" for device, s in seconds.items())
        print(f"\nforward and backward of 2048 tokens, width 512, 4 blocks: {told}")
    assert all(s > 0 for s in seconds.values())
