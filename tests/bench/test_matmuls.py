"""The list of products equals the count in closed form, and the calls that the engine makes."""

import numpy as np
import pytest

from minilora.bench import matmuls
from minilora.bench import workloads as w


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
        spared = 2 * (count - labels) * 3 * width * wide
        return 3 * (layers * block - spared) + 6 * layers * square + 3 * head
    maps = {"q": (width, inner), "k": (width, shared), "v": (width, shared), "o": (inner, width)}
    maps |= {"gate": (width, wide), "up": (width, wide), "down": (wide, width)}
    adapted = {n: maps[n] for n in maps if job == "lora-all" or n in "qv"}

    def thin(layer):  # s B A, or x A^T B^T; then u = g B and gB (out), h = x A^T and gA (in)
        size = 0
        for name, (i, o) in adapted.items():
            n = labels if layer == layers - 1 and name in ("gate", "up", "down") else count
            size += (i * o if n * (i + o) > i * o else n * (i + o)) + 2 * n * (i + o)
        return 2 * w.RANK * size

    # The last block's MLP works on labelled positions alone.
    total = layers * (2 * block + 6 * square) + sum(map(thin, range(layers))) + 2 * head
    total -= 2 * 2 * (count - labels) * 3 * width * wide
    # Below layer 0 nothing is trained: no way to x for q, k, v, and no gradient of k for q, v.
    total -= 2 * count * width * (inner + 2 * shared)
    return total - square if job == "lora-qv" else total


def test_few_rows_are_not_folded(tiny):
    def thin(rows, time):
        products = matmuls.forward(tiny.config, rows, time, time, 1, {"q_proj"})
        backward = matmuls.backward(tiny.config, rows, time, 1, {"q_proj"}, False)
        both = [*products, *backward]
        return [(p.m, p.k, p.n) for p in both if p.op == "adapter" and p.weight]

    r = w.RANK  # q_proj is 12 -> 24: 8 rows are the most that are not folded
    layer_1 = [(8, 12, r), (8, r, 24)] * 2 + [(8, 24, r), (8, r, 12)]
    assert thin(1, 8) == [*layer_1, (8, 24, r)]  # nothing is trained below layer 0
    assert thin(1, 9) == [(24, r, 12)] * 2 + [(9, 24, r), (9, 12, r)] * 2


@pytest.mark.parametrize("job", ["lora-qv", "lora-all", "full", "forward"])
@pytest.mark.parametrize("name", ["S", "W", "M", "G", "R", "tiny"])
def test_flops_equal_the_closed_form(job, name, tiny):
    workload = {**w.WORKLOADS, "tiny": tiny}[name]
    whole = [workload.rows]
    items = matmuls.products(workload, w.JOBS[job], whole)
    assert sum(item.flops for item in items) == closed_form(workload, job, workload.rows)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("name", w.WORKLOADS)
def test_pieces_change_no_count_but_the_adapters(name, workers):
    workload, job = w.WORKLOADS[name], w.JOBS["lora-qv"]
    shares = matmuls.piece_rows(workload, workers)
    assert len(shares) == workers
    assert sum(map(sum, shares)) == workload.rows
    cut = [i for rows in shares for i in matmuls.products(workload, job, rows)]
    whole = matmuls.products(workload, job, [workload.rows])
    for op in ("linear", "attention", "head"):  # s B A is built anew for each piece
        assert sum(i.flops for i in cut if i.op == op) == sum(i.flops for i in whole if i.op == op)


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
