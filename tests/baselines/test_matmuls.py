"""The list of products equals the count in closed form, and the calls that the engine makes."""

import numpy as np
import pytest

from minilora.baselines import matmuls
from minilora.baselines import workloads as w


def closed_form(workload, job, rows):
    """Multiply-adds times two of a job, from the shapes alone; `rows` in one piece."""
    c, time = workload.config, workload.time
    width, wide, vocab, layers = (
        c.hidden_size, c.intermediate_size, c.vocab_size, c.num_hidden_layers,
    )  # fmt: skip
    inner, shared = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    count = rows * time
    block = 2 * count * (2 * width * inner + 2 * width * shared + 3 * width * wide)
    square = 2 * rows * time * time * inner
    if job == "forward":
        return layers * (block + 2 * square) + 2 * count * width * vocab
    labels = rows * workload.labels
    head = 2 * labels * width * vocab
    if job == "full":
        return 3 * layers * block + 6 * layers * square + 3 * head
    r = w.RANK
    sizes = {"q": width + inner, "k": width + shared, "v": width + shared, "o": width + inner}
    names = "qv" if job == "lora-qv" else "qkvo"
    thin = 2 * count * r * sum(sizes[n] for n in names)
    if job == "lora-all":
        thin += 3 * 2 * count * r * (width + wide)
    # Forward, then u and gB (out), gA and the way to x (in): three times the forward.
    total = 2 * layers * block + 6 * layers * square + 2 * head + 3 * layers * thin
    # Below layer 0 nothing is trained: no way to x for q, k, v, and no gradient of k for q, v.
    total -= 2 * count * width * (inner + 2 * shared) + 2 * count * r * width * len(names[:3])
    if job == "lora-qv":
        total -= square
    return total


@pytest.mark.parametrize("job", ["lora-qv", "lora-all", "full", "forward"])
@pytest.mark.parametrize("name", ["S", "W", "M", "G", "R", "tiny"])
def test_flops_equal_the_closed_form(job, name, tiny):
    workload = {**w.WORKLOADS, "tiny": tiny}[name]
    whole = [workload.rows]
    items = matmuls.products(workload, w.JOBS[job], whole)
    assert sum(item.flops for item in items) == closed_form(workload, job, workload.rows)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("name", w.WORKLOADS)
def test_pieces_change_no_count(name, workers):
    workload, job = w.WORKLOADS[name], w.JOBS["lora-qv"]
    shares = matmuls.piece_rows(workload, workers)
    assert len(shares) == workers
    assert sum(map(sum, shares)) == workload.rows
    cut = sum(i.flops for rows in shares for i in matmuls.products(workload, job, rows))
    whole = matmuls.products(workload, job, [workload.rows])
    assert cut == sum(item.flops for item in whole)


def test_generation_counts_every_position_once(tiny):
    c, rows = tiny.config, 8
    items = matmuls.products(tiny, w.JOBS["generate-8"], [])
    positions = rows * (w.PROMPT + w.NEW_TOKENS - 1)
    linear = sum(i * o for i, o in matmuls.projections(c).values())
    seen = w.PROMPT**2 + sum(range(w.PROMPT + 1, w.PROMPT + w.NEW_TOKENS))
    attention = 2 * 2 * rows * c.num_attention_heads * c.head_dim * seen
    head = 2 * rows * w.NEW_TOKENS * c.hidden_size * c.vocab_size
    expected = c.num_hidden_layers * (2 * positions * linear + attention) + head
    assert sum(item.flops for item in items) == expected


@pytest.mark.parametrize("job", ["lora-all", "full", "generate-1"])
def test_operands_have_the_shapes_of_the_list(tiny, job):
    items = matmuls.products(tiny, w.JOBS[job], [3, 2])
    bare = matmuls.Bare(items)
    bare.run()
    for item, (left, right, out) in zip(items, bare.calls, strict=True):
        assert left.shape == (*item.batch, item.m, item.k)
        assert right.shape == (*item.batch, item.k, item.n)
        np.testing.assert_array_equal(out.shape, (*item.batch, item.m, item.n))


def test_a_layer_has_weights_of_its_own(tiny):
    items = matmuls.products(tiny, w.JOBS["full"], [2])
    bare = matmuls.Bare(items)
    weights = {}
    for item, (_, right, _) in zip(items, bare.calls, strict=True):
        if item.weight:
            base = right if right.base is None else right.base
            weights.setdefault(item.weight, set()).add(id(base))
    assert all(len(arrays) == 1 for arrays in weights.values())  # forward and backward share it
    assert len(set.union(*weights.values())) == len(weights) == 2 * 7 + 1
