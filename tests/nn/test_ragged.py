"""Rows that join, leave and have different lengths step as each does alone."""

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.nn import generate
from minilora.nn.ragged import RaggedDecoding
from tests import tiny

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9], [7, 9], [3, 2, 3, 8]]
ROOM = 12


def a_model():
    return tiny.model(2, initializer_range=0.5, num_hidden_layers=2).eval()


@pytest.mark.parametrize("seed", range(6))
def test_rows_that_come_and_go_answer_as_alone(seed):
    rng, model = np.random.default_rng(seed), a_model()
    expected = [generate(model, [p], ROOM)[0] for p in PROMPTS]
    decoding, waiting, rows, answers = RaggedDecoding(model, 8, 128), list(range(5)), [], {}
    logits = []
    with no_grad():
        while waiting or rows:
            while waiting and (not rows or rng.random() < 0.4):
                rows.append(waiting.pop(0))
                answers[rows[-1]] = []
                logits.append(decoding.read(PROMPTS[rows[-1]], ROOM))
            for row, own in zip(rows, logits, strict=True):
                answers[row].append(int(np.argmax(own)))
            going = [i for i, row in enumerate(rows) if len(answers[row]) < ROOM]
            ended, kept = sorted(set(range(len(rows))) - set(going)), list(range(len(rows)))
            for gap in reversed(ended):  # the last row moves into each gap
                last = kept.pop()
                if gap < len(kept):
                    kept[gap] = last
            if ended:
                decoding.keep(kept)
                rows = [rows[i] for i in kept]
            if rows:
                logits = list(decoding.step(np.array([answers[row][-1] for row in rows])))
            else:
                logits = []
    assert [answers[i] for i in range(5)] == expected


def test_a_row_is_masked_from_what_lay_in_its_place_before():
    model = a_model()
    decoding = RaggedDecoding(model, 8, 128)
    with no_grad():
        decoding.read([5] * 20, 10)
        decoding.step(np.array([4]))
        decoding.keep([])
        first = decoding.read(PROMPTS[0], 3)
        decoding.read([6] * 25, 3)
        got = decoding.step(np.array([1, 2]))
        whole = model(np.array([[*PROMPTS[0], 1]])).data[0]
    np.testing.assert_allclose(first, whole[-2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[0], whole[-1], rtol=1e-4, atol=1e-5)
    assert decoding.lengths.tolist() == [6, 26]
