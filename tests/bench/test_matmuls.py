"""The recorded products: as many as the shapes alone ask for, laid out as the engine has them."""

from itertools import pairwise

import pytest

from minilora.bench import matmuls
from minilora.bench import workloads as w


def maps(config):
    """Name -> (in, out) of the linear maps of a block."""
    width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
    shared, wide = config.num_key_value_heads * config.head_dim, config.intermediate_size
    return {
        "q_proj": (width, inner), "k_proj": (width, shared), "v_proj": (width, shared),
        "o_proj": (inner, width), "gate_proj": (width, wide), "up_proj": (width, wide),
        "down_proj": (wide, width),
    }  # fmt: skip


def scores(time):
    """Pairs of a query and a key: whole squares, or runs of about 64 queries up to their last."""
    count = max(1, round(time / 64))
    edges = [time * i // count for i in range(count + 1)]
    return sum((b - a) * b for a, b in pairwise(edges))


def closed_form(workload, job, rows):
    """Multiply-adds times two of a job, from the shapes alone; `rows` in one piece."""
    c, time = workload.config, workload.time
    width, wide, vocab, layers = (
        c.hidden_size, c.intermediate_size, c.vocab_size, c.num_hidden_layers,
    )  # fmt: skip
    inner, shared = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    count = rows * time
    block = 2 * count * sum(i * o for i, o in maps(c).values())
    square = 2 * rows * scores(time) * inner
    if job == "forward":
        return layers * (block + 2 * square) + 2 * count * width * vocab
    labels = rows * workload.labels
    head = 2 * labels * width * vocab
    if job == "full":
        spared = 2 * (count - labels) * 3 * width * wide
        return 3 * (layers * block - spared) + 6 * layers * square + 3 * head
    adapted = {n: s for n, s in maps(c).items() if job == "lora-all" or n in ("q_proj", "v_proj")}

    def thin(layer):
        # s B A, or x A^T B^T and on the way back u A; then u = g B and gB (out), gA (in), and
        # h = x A^T (in), which is not kept from the way there.
        size = 0
        for name, (i, o) in adapted.items():
            n = labels if layer == layers - 1 and name[:-5] in ("gate", "up", "down") else count
            size += (i * o if n * (i + o) > i * o else n * (2 * i + o)) + 2 * n * (i + o)
        return 2 * w.RANK * size

    # The last block's MLP works on labelled positions alone.
    total = layers * (2 * block + 6 * square) + sum(map(thin, range(layers))) + 2 * head
    total -= 2 * 2 * (count - labels) * 3 * width * wide
    # Below layer 0 nothing is trained: no way to x for q, k, v, and no gradient of k for q, v.
    total -= 2 * count * width * (inner + 2 * shared)
    return total - square if job == "lora-qv" else total


def test_few_rows_are_not_folded(tiny, monkeypatch):
    r = 2  # unlike every other size
    monkeypatch.setattr(w, "RANK", r)

    def thin(time):
        workload = w.Workload("thin", tiny.config, 1, time, 1)
        job = w.Job("lora-q", "step", "", ("q_proj",))
        items = matmuls.products(workload, job, [1])
        return [
            (*item.left.shape, item.right.shape[1])
            for item in items
            if item.op == "lora_linear" and r in (*item.left.shape, *item.right.shape)
        ]

    # q_proj is 12 -> 24: 8 rows are the most that are not folded.
    grads = [(r, 9, 12), (24, 9, r), (9, 24, r), (9, 12, r)]  # gA, gB, u, h
    assert sorted(thin(9)) == sorted(2 * [(24, r, 12), *grads])
    grads = [(r, 8, 12), (24, 8, r), (8, 24, r), (8, 12, r)]
    # Nothing is trained below layer 0, so u A is made in layer 1 alone.
    assert sorted(thin(8)) == sorted(2 * [(8, 12, r), (8, r, 24), *grads] + [(8, r, 12)])


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
    c, rows, layers = tiny.config, 8, tiny.config.num_hidden_layers
    items = matmuls.products(tiny, w.JOBS["generate-8"], [])
    positions = rows * (w.PROMPT + w.NEW_TOKENS - 1)
    linear = layers * positions * sum(i * o for i, o in maps(c).values())
    # Of a prompt, the last block's MLP works on the last position alone.
    linear -= rows * (w.PROMPT - 1) * 3 * c.hidden_size * c.intermediate_size
    keys = scores(w.PROMPT) + sum(range(w.PROMPT + 1, w.PROMPT + w.NEW_TOKENS))
    attention = layers * 2 * rows * c.num_attention_heads * c.head_dim * keys
    head = rows * w.NEW_TOKENS * c.hidden_size * c.vocab_size
    assert sum(item.flops for item in items) == 2 * (linear + attention + head)


@pytest.mark.parametrize("job", ["lora-all", "full", "generate-1"])
def test_operands_are_laid_out_as_they_were_recorded(tiny, job):
    items = matmuls.products(tiny, w.JOBS[job], [3, 2])
    bare = matmuls.Bare(items)
    bare.run()
    for item, operands in zip(items, bare.calls, strict=True):
        for layout, array in zip((item.left, item.right, item.out), operands, strict=True):
            assert array.shape == layout.shape
            assert tuple(step // 4 for step in array.strides) == layout.strides


def test_every_weight_has_memory_of_its_own(tiny):
    items = matmuls.products(tiny, w.JOBS["full"], [2])
    bare = matmuls.Bare(items)
    starts = {}
    for item, (_, right, _) in zip(items, bare.calls, strict=True):
        if item.right.weight:
            start = right.__array_interface__["data"][0]
            starts.setdefault(item.right.weight, set()).add(start)
    assert all(len(places) == 1 for places in starts.values())  # forward and backward share it
    assert len(set.union(*starts.values())) == len(starts) == 2 * 7 + 1


def test_products_are_noted_under_their_op(tiny):
    items = matmuls.products(tiny, w.JOBS["lora-qv"], [2])
    assert {item.op for item in items} == {
        "linear", "lora_linear", "causal_attention", "linear_cross_entropy",
    }  # fmt: skip
    weights = {item.right.weight.rpartition(".")[0] for item in items if item.op == "linear"}
    assert "model.layers.0.mlp.up_proj" in weights
