"""Batches: padding changes nothing."""

from __future__ import annotations

import numpy as np

from minilora.training.batches import pad_examples


def test_right_padding_changes_no_result(tiny):
    model = tiny.model().eval()
    examples = sorted(tiny.copy_examples(), key=len)
    short, long = examples[0], examples[-1]
    assert len(short) < len(long)
    batch = pad_examples([short, long], np.arange(2))
    alone = pad_examples([short], np.arange(1))
    a, b = model(batch.ids).data[0, : len(short)], model(alone.ids).data[0]
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert len({row.tobytes() for row in b}) == len(b)
