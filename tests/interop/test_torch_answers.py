"""Answers to exercise 9.1 that are made in PyTorch are judged by the same rule as others."""

from __future__ import annotations

from textwrap import dedent, indent

import pytest

pytest.importorskip("torch")

from minilora.course.checking import PASSED, WRONG, run_check
from minilora.course.source import find_chapter

START = """
import numpy as np
import torch

x, A, B, s = (torch.as_tensor(np.asarray(a, dtype=float)) for a in (x, A, B, s))
of = torch.tensor(adapter_of)
out = torch.zeros(len(x), B.shape[1], dtype=x.dtype)
"""
ITS_OWN = {
    "a loop": """
        for k in range(len(A)):
            out[of == k] = s[k] * (x[of == k] @ A[k].T @ B[k].T)
        return out.numpy()
    """,
    "gathered": """
        rows = torch.nonzero(of >= 0)[:, 0]
        k = of[rows]
        low = torch.bmm(A[k], x[rows][:, :, None])
        made = torch.empty_like(out[rows]).copy_(torch.bmm(B[k], low)[:, :, 0])
        return out.index_add(0, rows, s[k][:, None] * made)
    """,
}
EVERY = {
    "a mask": """
        for k in range(len(A)):
            out = torch.where((of == k)[:, None], s[k] * (x @ A[k].T @ B[k].T), out)
        return out.numpy()
    """,
    "all, then chosen": """
        own = of >= 0
        made = torch.einsum("ni,kri,kor,k->nko", x, A, B, s)
        out[own] = made[torch.arange(len(x))[own], of[own]]
        return out
    """,
}


def judged(body: str, seed: int):
    exercise = find_chapter(9).exercises["9.1"]
    source = "def mixed_update(x, adapter_of, A, B, s):" + indent(START + dedent(body), "    ")
    return run_check(exercise, exercise.build(source), seed)


@pytest.mark.parametrize("body", ITS_OWN.values(), ids=ITS_OWN)
def test_rows_that_meet_their_own_adapter_are_right(body):
    for seed in range(20):
        assert judged(body, seed).status == PASSED


@pytest.mark.parametrize("body", EVERY.values(), ids=EVERY)
def test_rows_that_meet_every_adapter_are_found(body):
    for seed in range(5):
        outcome = judged(body, seed)
        assert outcome.status == WRONG and "not its own" in outcome.message
