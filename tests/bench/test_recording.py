"""What is recorded of products: layouts and weights, and the same products as are really made."""

import numpy as np
import pytest

from minilora.bench import matmuls
from minilora.bench import workloads as w
from minilora.bench.recording import Recording, recording


def test_a_product_is_noted_with_its_layout_and_not_made():
    weight = np.ones((3, 4), dtype=np.float32)
    with recording() as noted:
        seen = noted.weight("W", weight)
        x = np.ones((2, 5, 4), dtype=np.float32)
        y = x[:, 1:] @ seen.T
        assert y.shape == (2, 4, 3) and not y.any()
        (first,) = noted.products
        z = (y + 1.0).swapaxes(-1, -2) @ np.ones((4, 2))
        out = np.empty((2, 3, 2))
        assert np.matmul(y.swapaxes(-1, -2), z.swapaxes(-1, -2)[:, :, :2].repeat(2, 1), out) is out
    assert (first.left.shape, first.left.strides) == ((2, 4, 4), (20, 4, 1))
    assert (first.right.shape, first.right.strides) == ((4, 3), (1, 4))
    assert (first.left.weight, first.right.weight) == ("", "W")
    assert first.flops == 2 * 2 * 4 * 4 * 3 and len(noted.products) == 3
    assert type(np.empty(3)) is np.ndarray  # and nothing is noted any more
    x @ seen.T
    assert len(noted.products) == 3


def test_a_product_with_ones_is_a_sum():
    with recording() as noted:
        x = np.ones((2, 3)) * 2.0
        sums = x @ np.ones((3, 1))
        x @ np.zeros((3, 1))
    assert sums.ravel().tolist() == [6.0, 6.0] and len(noted.products) == 1


@pytest.mark.parametrize("job", ["lora-all", "full", "generate-8"])
def test_on_zeros_as_many_products_are_made_as_on_numbers(tiny, monkeypatch, job):
    job, take = w.JOBS[job], Recording.take

    def really(self, left, right, out):
        take(self, left, right, None if out is None else out)
        return np.matmul(left, right, out)

    on_zeros = matmuls._recorded.__wrapped__(tiny, job, 3, w.RANK)
    monkeypatch.setattr(Recording, "take", really)
    on_numbers = matmuls._recorded.__wrapped__(tiny, job, 3, w.RANK)
    assert on_zeros == on_numbers
