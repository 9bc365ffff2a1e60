"""What must come out alike on the host and on "gpu": ops, models, training, adapters, generation.

Nothing here knows which CuPy it runs on: test_conformance.py runs it on the strict stand-in,
tests/gpu on a real device.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from minilora.autograd import Tensor
from minilora.backend import get_array_module, to_device, to_numpy
from minilora.gradients.case import Case
from minilora.gradients.cases import all_cases
from minilora.gradients.twins import TWINS
from minilora.lora import Attachment, LoRAConfig, attach
from minilora.nn import Module, Transformer, generate
from minilora.serving import BASE, AdapterBank, Engine, Request
from minilora.text import Example
from minilora.training import AdamW, Batches, History, TrainingConfig, fit
from tests import tiny

CASES = [case for case in all_cases(seed=3) if "stored" not in case.variant]
"""Every case but those over stored weights, which live on the host."""
OP_CASES = [case for case in CASES if case.module is None]
MODULE_CASES = [case for case in CASES if case.module is not None]
DEVICES = ("cpu", "gpu")
LORA = LoRAConfig(r=3, lora_alpha=5, target_modules="all-linear", lora_dropout=0.25)


def assert_close(got: object, expected: object, tolerance: float, name: str = "") -> None:
    """Equal dtype and shape, and no difference above `tolerance` of the largest number."""
    got, expected = to_numpy(got), to_numpy(expected)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape), name
    assert np.isfinite(expected).all(), name
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    worst = float(np.abs(got.astype(np.float64) - expected).max(initial=0.0)) / scale
    assert worst <= tolerance, f"{name}: {worst:.2e} of {scale:.3g}"


def assert_on(array: object, device: str, name: str = "") -> None:
    """The array is a host array for "cpu" and a device array for "gpu"."""
    assert (get_array_module(array) is np) == (device == "cpu"), f"{name} is not on {device}"


def _moved(value: object, device: str, dtype: type) -> object:
    """An input or constant as `dtype` on the device. Integers stay on the host: token ids and
    labels come from there, and the ops move them.
    """
    if isinstance(value, Mapping):
        return {name: _moved(one, device, dtype) for name, one in value.items()}
    if isinstance(value, Tensor):
        return Tensor(_moved(value.data, device, dtype))
    if isinstance(value, np.ndarray) and value.dtype.kind in "fb":
        return to_device(value.astype(dtype) if value.dtype.kind == "f" else value, device)
    return value


def _moved_module(module: Module, device: str, dtype: type) -> Module:
    """A copy of the module as `dtype` on the device."""
    copied = copy.deepcopy(module)
    for parameter in copied.parameters():
        parameter.data = parameter.data.astype(dtype)
    assert copied.to(device) is copied
    return copied


def case_on(case: Case, device: str, dtype: type = np.float32) -> Case:
    """The same case with everything that it holds as `dtype` on a device."""
    return replace(
        case,
        inputs=_moved(case.inputs, device, dtype),
        constants=_moved(case.constants, device, dtype),
        module=None if case.module is None else _moved_module(case.module, device, dtype),
    )


Results = tuple[Tensor, dict[str, object]]


def run_case(case: Case, device: str, dtype: type = np.float32, twin: bool = False) -> Results:
    """The value and the gradients of a case, or of its op's twin, on a device."""
    case = case_on(case, device, dtype)
    leaves = case.leaves()
    out = case.fn(TWINS[case.op] if twin else None)(**leaves)
    g = np.random.default_rng(5).standard_normal(out.shape).astype(out.dtype)
    out.backward(to_device(g, device))
    return out, {name: leaf.grad for name, leaf in leaves.items()}


def assert_same_results(run: Callable[[str], Results], tolerance: float) -> None:
    """run("gpu") gives device arrays with the numbers of run("cpu")."""
    expected, expected_grads = run("cpu")
    got, grads = run("gpu")
    assert_on(got.data, "gpu", "value")
    assert_close(got.data, expected.data, tolerance, "value")
    assert grads.keys() == expected_grads.keys()
    for name, grad in expected_grads.items():
        assert_on(grads[name], "gpu", name)
        assert_close(grads[name], grad, tolerance, name)


# ------------------------------------------------------------------------------------- whole runs

VOCAB = 13


def tiny_model(device: str, adapted: bool = False, tied: bool = True) -> Transformer:
    """A float32 decoder with grouped heads on a device, drawn alike on both."""
    if adapted:
        return tiny_adapted(device, tied).model
    return tiny.model(vocab_size=VOCAB, initializer_range=0.2, tie_word_embeddings=tied).to(device)


def tiny_adapted(device: str, tied: bool = True) -> Attachment:
    """The handle of an adapter on `tiny_model`, with a random B."""
    rng = np.random.default_rng(1)
    handle = attach(tiny_model(device, tied=tied), LORA, rng)
    for layer in handle.layers.values():
        b = (0.3 * rng.standard_normal(layer.lora_B.shape)).astype(np.float32)
        layer.lora_B.data = to_device(b, device)
    return handle


def tiny_bank(device: str) -> AdapterBank:
    """A bank of three adapters over `tiny_model`, the last of them activated."""
    bank = AdapterBank(tiny_model(device).eval())
    kinds = (("q_proj", "v_proj"), None), ("all-linear", None), ("all-linear", (3,))
    for seed, (targets, invocation) in enumerate(kinds):
        rng = np.random.default_rng(seed)
        own = replace(LORA, r=2 + seed, target_modules=targets, invocation=invocation)
        handle = attach(tiny_model("cpu"), own, rng)
        for layer in handle.layers.values():
            layer.lora_B.data[...] = rng.normal(0, 0.3, layer.lora_B.shape)
        bank.add(f"{seed}", handle.adapter())
    return bank


def engine_answers(device: str) -> dict[int, list[int]]:
    """What requests get that join and leave at different steps."""
    engine = Engine(tiny_bank(device), most_rows=3)
    for i, prompt in enumerate(([1, 2], [4, 3, 5, 6], [7], [8, 1, 2], [3, 3])):
        engine.submit(Request(prompt, ("0", "2", BASE, "1", "2")[i], 3 + i))
    return engine.run()


def bank_answers(device: str, use_cache: bool = True) -> list:
    """A mixed batch's logits and answers from a bank on a device, then those of a swap."""
    bank = tiny_bank(device)
    prompts, ids = [[1, 2], [4, 3, 5, 6], [7], [8, 1, 2]], np.array([[1, 2, 3], [4, 5, 6]] * 2)
    with bank.rows(["0", "2", BASE, "1"]):
        mixed = to_numpy(bank.model(ids).data)
        answers = generate(bank.model, prompts, 7, use_cache=use_cache, stop_ids=[4])
    bank.use("2")
    return [mixed, answers, to_numpy(bank.model(ids).data), generate(bank.model, prompts, 7)]


def assert_same_bank(tolerance: float, use_cache: bool) -> None:
    """A bank on the device gives the numbers and the answers of one on the host."""
    expected, got = (bank_answers(device, use_cache) for device in DEVICES)
    for i in (0, 2):
        assert_close(got[i], expected[i], tolerance)
        assert got[i + 1] == expected[i + 1]


def copy_examples(count: int = 12) -> list[Example]:
    return tiny.copy_examples(count, vocab=VOCAB, shortest=2)


def train(
    model: Transformer, steps: int = 5, out_dir: Path | None = None, **settings: object
) -> tuple[History, AdamW]:
    """Some steps of AdamW with decay, clipping that bites, warm-up and two pieces a step."""
    config = TrainingConfig(
        steps, 0.01, warmup=2, clip_norm=0.5, weight_decay=0.1, workers=1, micro_batches=2,
        seed=4, checkpoint_every=2, **settings,
    )  # fmt: skip
    optimizer = AdamW(model.named_parameters(), weight_decay=config.weight_decay)
    batches = Batches(copy_examples(), 4, seed=3)
    history = fit(
        model, batches, config, optimizer=optimizer, out_dir=out_dir, progress=False,
        resume=out_dir is not None and (out_dir / "checkpoints").exists(),
    )  # fmt: skip
    return history, optimizer


def assert_same_model(got: Module, expected: Module, tolerance: float) -> None:
    """Parameters on the device with the host model's names and numbers."""
    theirs = dict(got.named_parameters())
    assert list(theirs) == [name for name, _ in expected.named_parameters()]
    for name, parameter in expected.named_parameters():
        assert_on(theirs[name].data, "gpu", name)
        assert_close(theirs[name].data, parameter.data, tolerance, name)
        assert theirs[name].requires_grad == parameter.requires_grad
