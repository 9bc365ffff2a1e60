"""The measurement of stored bases, on the smallest workload."""

from __future__ import annotations

import numpy as np
import pytest

from minilora.autograd.stored_array import StoredArray
from minilora.bench import base_dtypes
from minilora.bench.workloads import JOBS, WORKLOADS, load_model, write_weights
from minilora.lora import lora_layers
from minilora.nn import BASE_DTYPES


@pytest.mark.processes
def test_a_row_for_every_dtype_with_less_held_in_each():
    rows = base_dtypes.measure(WORKLOADS["S"], 1, 1, 0.01)
    assert tuple(row[0] for row in rows) == BASE_DTYPES
    held = [float(row[1]) for row in rows]
    assert held[0] > 1.9 * held[1] > 1.9 * 1.5 * held[2]
    losses = [float(row[-1]) for row in rows]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    assert all(float(row[3].replace(",", "")) > 0 for row in rows)


@pytest.mark.parametrize("dtype", BASE_DTYPES)
def test_every_dtype_trains_the_same_adapter(tmp_path, dtype):
    small, job = WORKLOADS["S"], JOBS["lora-qv"]
    write_weights(small, job, tmp_path)
    held, whole = (load_model(small, job, tmp_path, name) for name in (dtype, "float32"))
    stored = isinstance(held.head_weight.data, StoredArray)
    assert stored == (dtype != "float32")
    for a, b in zip(lora_layers(held).values(), lora_layers(whole).values(), strict=True):
        assert np.array_equal(a.lora_A.data, b.lora_A.data)
        assert np.array_equal(a.lora_B.data, b.lora_B.data) and np.abs(a.lora_B.data).max() > 0
