"""Weights of a folder, single or in shards: every dtype, and each way they can be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from minilora.hub import load_pretrained, save_pretrained
from minilora.hub.weights import INDEX, WEIGHTS
from minilora.storage import SafetensorsFile, read_safetensors
from tests.says import refusal

EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


def bfloat16(array):
    """The nearest-below bfloat16 as its bits."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def write_typed(path, arrays, dtype):
    """A safetensors file of any dtype, by name; NumPy has no bfloat16."""
    data = {name: bytes(a.tobytes()) for name, a in arrays.items()}
    header, at = {}, 0
    for name, array in arrays.items():
        span = [at, at + len(data[name])]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": span}
        at = span[1]
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(data.values()))


@pytest.fixture
def sharded(saved):
    """The saved model in three shards; returns (folder, weight map)."""
    state, _ = read_safetensors(saved / WEIGHTS)
    places = {}
    for i, name in enumerate(state):
        places[name] = f"model-{i % 3 + 1:05d}-of-00003.safetensors"
    for shard in set(places.values()):
        save_file({n: state[n] for n in state if places[n] == shard}, saved / shard)
    (saved / WEIGHTS).rename(saved / "whole")
    write_index(saved, places)
    return saved, places


def write_index(folder, places):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_shards_are_the_whole(sharded):
    folder, _ = sharded
    whole, _ = read_safetensors(folder / "whole")
    loaded = load_pretrained(folder)[0].state_dict()
    assert set(loaded) == set(whole)
    for name, array in whole.items():
        assert loaded[name].tobytes() == array.tobytes(), name


def test_bfloat16_is_read_exactly(saved):
    state, _ = read_safetensors(saved / WEIGHTS)
    halves = {name: bfloat16(array) for name, array in state.items()}
    write_typed(saved / WEIGHTS, halves, "BF16")
    loaded = load_pretrained(saved)[0].state_dict()
    for name, array in loaded.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array.view(np.uint32) >> 16, halves[name])
        assert not (array.view(np.uint32) & 0xFFFF).any()
        assert np.abs(array - state[name]).max() <= np.abs(state[name]).max() / 128


def test_arrays_are_the_models_own(saved):
    before = (saved / WEIGHTS).read_bytes()
    model, _ = load_pretrained(saved)
    for parameter in model.parameters():
        assert parameter.data.flags.writeable and parameter.data.flags.c_contiguous
        parameter.data += 1
    assert (saved / WEIGHTS).read_bytes() == before


@pytest.mark.parametrize("dtype", ["I32", "F8_E4M3"])
def test_tensors_that_are_no_floats_are_named(saved, dtype):
    size = {"I32": np.int32, "F8_E4M3": np.uint8}[dtype]
    state, _ = read_safetensors(saved / WEIGHTS)
    write_typed(saved / WEIGHTS, {n: a.astype(size) for n, a in state.items()}, dtype)
    with refusal(ValueError, dtype, "BF16"):
        load_pretrained(saved)


def test_a_float64_beyond_float32_is_told_as_inf(saved):
    state, _ = read_safetensors(saved / WEIGHTS)
    state = {name: array.astype(np.float64) for name, array in state.items()}
    state[NORM][0] = 1e300
    save_file(state, saved / WEIGHTS)
    with refusal(ValueError, NORM, "NaN"):
        load_pretrained(saved)


# -- shards that do not fit together -----------------------------------------------------------


def in_two(folder, places):
    shard = next(s for s in places.values() if s != places[NORM])
    state, _ = read_safetensors(folder / shard)
    save_file({**state, NORM: np.ones(16, np.float32)}, folder / shard)


def moved(folder, places):
    other = next(s for s in places.values() if s != places[NORM])
    write_index(folder, {**places, NORM: other})


def lacking(folder, places):
    state, _ = read_safetensors(folder / places[NORM])
    del state[NORM]
    save_file(state, folder / places[NORM])


def unlisted(folder, places):
    state, _ = read_safetensors(folder / places[NORM])
    save_file({**state, "model.extra": np.ones(2, np.float32)}, folder / places[NORM])


def gone(folder, places):
    (folder / places[NORM]).unlink()


def cut(folder, places):
    path = folder / places[NORM]
    path.write_bytes(path.read_bytes()[:-5])


def elsewhere(folder, places):
    write_index(folder, {**places, NORM: "../model.safetensors"})


def half_listed(folder, places):
    for name in [n for n, s in places.items() if s == places[EMBEDDING]]:
        del places[name]
    write_index(folder, places)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (in_two, (NORM, "model-")),
        (moved, (NORM, "model-")),
        (lacking, (NORM, "model-")),
        (unlisted, ("model.extra", "model-")),
        (gone, ("model-",)),
        (cut, ("model-",)),
        (elsewhere, (NORM, "../model.safetensors")),
        (half_listed, (EMBEDDING,)),
    ],
)
def test_shards_that_do_not_fit_are_told(sharded, spoil, named):
    folder, places = sharded
    load_pretrained(folder)
    spoil(folder, dict(places))
    with refusal(ValueError, *named) as error:
        load_pretrained(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", ("JSON",)),
        ("[]", ("list",)),
        ("{}", ("weight_map",)),
        ('{"weight_map": {"a": 3}}', ("a", 3)),
    ],
)
def test_an_index_that_is_none_is_told(sharded, text, named):
    folder, _ = sharded
    (folder / INDEX).write_text(text)
    with refusal(ValueError, *named):
        load_pretrained(folder)


def test_pickles_are_named_and_not_read(saved):
    (saved / WEIGHTS).rename(saved / "pytorch_model.bin")
    with refusal(ValueError, "model.safetensors", "pytorch_model.bin"):
        load_pretrained(saved)


def test_a_tokenizer_with_more_ids_than_rows_is_refused(saved, tokenizer):
    config = json.loads((saved / "config.json").read_text())
    config["vocab_size"] = tokenizer.vocab_size - 1
    (saved / "config.json").write_text(json.dumps(config))
    with refusal(ValueError, tokenizer.vocab_size, tokenizer.vocab_size - 1):
        load_pretrained(saved)


def test_only_the_tensor_that_is_asked_for_is_read(saved, monkeypatch):
    file, taken = SafetensorsFile(saved / WEIGHTS), []
    view = file._file.view
    monkeypatch.setattr(file._file, "view", lambda at, n: taken.append(n) or view(at, n))
    with safetensors.safe_open(saved / WEIGHTS, framework="np") as other:
        np.testing.assert_array_equal(file.read(NORM), other.get_tensor(NORM))
    assert taken == [16 * 4]


PEAK = """
import sys
from minilora.hub import load_pretrained, save_pretrained
def kilobytes(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
load_pretrained(sys.argv[1])
before = kilobytes("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
model, _ = load_pretrained(sys.argv[2])
size = sum(p.data.nbytes for p in model.parameters())
largest = max(p.data.nbytes for p in model.parameters())
print(size, largest, (kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_the_peak_is_one_copy_and_one_tensor(kind, saved, make_model, tokenizer, tmp_path):
    big = dict(hidden_size=64, intermediate_size=30_000, num_hidden_layers=2)
    if kind == "folder":
        small, path = saved, tmp_path / "big"
        save_pretrained(path, make_model(**big), tokenizer)
    else:
        ggufs = pytest.importorskip("tests.hub.ggufs")
        digits = ggufs.digit_tokenizer(["Pulse 88"])
        small, path = tmp_path / "small.gguf", tmp_path / "big.gguf"
        ggufs.write_gguf(small, *ggufs.parts(digits)[1:], {})
        ggufs.write_gguf(path, *ggufs.parts(digits, **big)[1:], {})
    out = subprocess.run(
        [sys.executable, "-c", PEAK, str(small), str(path)], check=True, capture_output=True
    )
    size, largest, peak = map(int, out.stdout.split())
    assert size > 40e6 and size * 0.9 < peak < size + 1.5 * largest
