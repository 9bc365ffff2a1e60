"""The matrix products that a job cannot do without, as a list: to count, and to time alone.

Attention's products are whole T x S squares; a kernel that skips what is masked could do with
half of them. Nothing here but the calls of np.matmul is timed, on operands laid out as the engine
lays them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from minilora.bench.workloads import NEW_TOKENS, PROMPT, RANK, Job, Workload
from minilora.nn import TransformerConfig
from minilora.training.loop import PIECE_TOKENS, ceil_div

MLP = ("gate_proj", "up_proj", "down_proj")
ROWS, TURNED, HEADS, HEADS_TURNED = "rows", "turned", "heads", "heads turned"


@dataclass(frozen=True)
class Product:
    """(m, k) @ (k, n) over `batch`, (rows, heads) in attention and () elsewhere.

    op: what it belongs to ("linear", "adapter", "attention", "head"); weight: the name of the
    weight on the right, "" where both sides are activations; left, right: layouts.
    """

    op: str
    m: int
    k: int
    n: int
    left: str = ROWS
    right: str = ROWS
    weight: str = ""
    batch: tuple[int, ...] = ()

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * prod(self.batch) * self.m * self.k * self.n


def projections(config: TransformerConfig) -> dict[str, tuple[int, int]]:
    """Name -> (in, out) of the linear maps of a block."""
    width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
    shared = config.num_key_value_heads * config.head_dim
    wide = config.intermediate_size
    return {
        "q_proj": (width, inner),
        "k_proj": (width, shared),
        "v_proj": (width, shared),
        "o_proj": (inner, width),
        "gate_proj": (width, wide),
        "up_proj": (width, wide),
        "down_proj": (wide, width),
    }


def adapted_names(config: TransformerConfig, job: Job) -> set[str]:
    """Which linear maps of a block have an adapter."""
    return set(projections(config)) if job.targets == "all-linear" else set(job.targets)


def positions(config: TransformerConfig, layer: int, name: str, count: int, wanted: int) -> int:
    """Positions that a map works on: the last block's MLP only on those whose output is wanted."""
    return wanted if layer == config.num_hidden_layers - 1 and name in MLP else count


def forward(
    config: TransformerConfig, rows: int, time: int, keys: int, head_rows: int, adapted: set[str],
    last: int | None = None,
) -> list[Product]:  # fmt: skip
    """Products of a forward pass over `time` new positions that see `keys`, logits at head_rows.

    `last`: positions that the last block's MLP works on, all unless told.
    """
    total, dim = rows * time, config.head_dim
    heads = (rows, config.num_attention_heads)
    result = []
    for layer in range(config.num_hidden_layers):
        for name, (inside, outside) in projections(config).items():
            weight = f"{layer}.{name}"
            count = positions(config, layer, name, total, total if last is None else last)
            if name == "o_proj":
                result += [
                    Product("attention", time, dim, keys, HEADS, HEADS_TURNED, batch=heads),
                    Product("attention", time, keys, dim, ROWS, HEADS, batch=heads),
                ]
            result.append(Product("linear", count, inside, outside, ROWS, TURNED, weight))
            if name in adapted:
                result += _adapter_forward(count, inside, outside, weight)
    size = (config.hidden_size, config.vocab_size)
    return [*result, Product("head", head_rows, *size, ROWS, TURNED, "head")]


def _needs_input_gradient(name: str, layer: int, adapted: set[str], full: bool) -> bool:
    """Whether anything below this map's input is trained."""
    if layer > 0 or full:
        return True
    below = {"o_proj": {"q_proj", "k_proj", "v_proj"}}
    below["gate_proj"] = below["up_proj"] = {*below["o_proj"], "o_proj"}
    below["down_proj"] = {*below["gate_proj"], "gate_proj", "up_proj"}
    return bool(below.get(name, set()) & adapted)


def backward(
    config: TransformerConfig, rows: int, time: int, labels: int, adapted: set[str], full: bool
) -> list[Product]:
    """Products of a backward pass from `labels` labelled positions; with `full`, every dW."""
    total, dim, width = rows * time, config.head_dim, config.hidden_size
    heads = (rows, config.num_attention_heads)
    result = [Product("head", labels, config.vocab_size, width, ROWS, ROWS, "head")]
    if full:
        result.append(Product("head", config.vocab_size, labels, width, TURNED))
    for layer in reversed(range(config.num_hidden_layers)):
        for name, (inside, outside) in reversed(projections(config).items()):
            count = positions(config, layer, name, total, labels)
            through = _needs_input_gradient(name, layer, adapted, full)
            weight = f"{layer}.{name}"
            if through:
                result.append(Product("linear", count, outside, inside, ROWS, ROWS, weight))
            if full:
                result.append(Product("linear", outside, count, inside, TURNED))
            if name in adapted:
                result += _adapter_backward(count, inside, outside, weight, through)
            if name == "o_proj":
                wanted = [n for n in "qkv" if layer > 0 or full or f"{n}_proj" in adapted]
                result += _attention_backward(heads, time, dim, wanted)
    return result


def folds(count: int, inside: int, outside: int) -> bool:
    """Whether W + s B A, built once, is less work than thin products over `count` rows."""
    return count * (inside + outside) > inside * outside


def _adapter_forward(count: int, inside: int, outside: int, weight: str) -> list[Product]:
    if folds(count, inside, outside):
        return [Product("adapter", outside, RANK, inside, ROWS, ROWS, weight + ".A")]
    return [
        Product("adapter", count, inside, RANK, ROWS, TURNED, weight + ".A"),
        Product("adapter", count, RANK, outside, ROWS, TURNED, weight + ".B"),
    ]


def _adapter_backward(
    count: int, inside: int, outside: int, weight: str, through: bool
) -> list[Product]:
    """u = g B, then gA = u^T x and gB = g^T h; h is made here where the forward did without."""
    result = [
        Product("adapter", count, outside, RANK, ROWS, ROWS, weight + ".B"),
        Product("adapter", RANK, count, inside, TURNED),
        Product("adapter", outside, count, RANK, TURNED),
    ]
    if folds(count, inside, outside):
        result.append(Product("adapter", count, inside, RANK, ROWS, TURNED, weight + ".A"))
    elif through:
        result.append(Product("adapter", count, RANK, inside, ROWS, ROWS, weight + ".A"))
    return result


def _attention_backward(
    heads: tuple[int, int], time: int, dim: int, wanted: Iterable[str]
) -> list[Product]:
    weights_gradient = Product("attention", time, dim, time, HEADS, HEADS_TURNED, batch=heads)
    own = {
        "q": Product("attention", time, time, dim, ROWS, HEADS, batch=heads),
        "k": Product("attention", time, time, dim, TURNED, HEADS, batch=heads),
        "v": Product("attention", time, time, dim, TURNED, HEADS, batch=heads),
    }
    result = [own[name] for name in wanted]
    return result if set(wanted) <= {"v"} else [weights_gradient, *result]


def piece_rows(workload: Workload, workers: int) -> list[list[int]]:
    """Rows of the pieces that `fit` gives each of its workers."""
    share = ceil_div(workload.rows * workload.time, workers * PIECE_TOKENS)
    sizes = [len(p) for p in np.array_split(np.arange(workload.rows), workers * share)]
    pieces = [size for size in sizes if size]
    runs = np.array_split(np.arange(len(pieces)), workers)
    return [[pieces[i] for i in run] for run in runs]


def products(workload: Workload, job: Job, pieces: Sequence[int]) -> list[Product]:
    """All products of one turn of the job; `pieces`: rows worked on at a time, in steps."""
    config, time = workload.config, workload.time
    if job.kind == "forward":
        rows = workload.rows
        return forward(config, rows, time, time, rows * time, set())
    if job.kind == "generate":
        result = forward(config, job.rows, PROMPT, PROMPT, job.rows, set())
        for keys in range(PROMPT + 1, PROMPT + NEW_TOKENS):
            result += forward(config, job.rows, 1, keys, job.rows, set())
        return result
    adapted, full = adapted_names(config, job), not job.targets
    result = []
    for rows in pieces:
        labels = rows * workload.labels
        result += forward(config, rows, time, time, labels, adapted, last=labels)
        result += backward(config, rows, time, labels, adapted, full)
    return result


class Bare:
    """Products with their operands made, ready to be run and timed."""

    def __init__(self, items: Sequence[Product]) -> None:
        self._arrays: dict[tuple, np.ndarray] = {}
        self._rng = np.random.default_rng(0)
        self.calls = [self._call(item) for item in items]

    def _call(self, item: Product) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        left = self._operand("left", item.batch, item.m, item.k, item.left)
        name = item.weight or "right"
        right = self._operand(name, item.batch, item.k, item.n, item.right)
        layout = HEADS if item.right == HEADS else ROWS
        return left, right, self._operand("out", item.batch, item.m, item.n, layout)

    def _operand(
        self, name: str, batch: tuple[int, ...], rows: int, cols: int, layout: str
    ) -> np.ndarray:
        """Activations of one shape share an array; a weight has its own."""
        if layout in (TURNED, HEADS_TURNED):
            rows, cols = cols, rows
        strided = layout in (HEADS, HEADS_TURNED)
        shape = (batch[0], rows, batch[1], cols) if strided else (*batch, rows, cols)
        key = (name, strided, shape)
        if key not in self._arrays:
            values = self._rng.standard_normal(shape, dtype=np.float32)
            values *= np.float32(0.02)
            self._arrays[key] = values
        array = self._arrays[key]
        if strided:
            array = array.transpose(0, 2, 1, 3)
        return array.swapaxes(-1, -2) if layout in (TURNED, HEADS_TURNED) else array

    def run(self) -> None:
        """All of them once, in order."""
        matmul = np.matmul
        for left, right, out in self.calls:
            matmul(left, right, out)
