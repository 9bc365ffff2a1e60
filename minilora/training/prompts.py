"""Training an activated adapter: rows cut at their invocation, and prompts whose reading is kept.

What comes before the invocation is the base's, whatever the adapter is. So it is read without
gradients, and where the memory is there, read once for all passes over the data.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Sequence

import numpy as np

from minilora.autograd import IGNORE
from minilora.backend import get_array_module
from minilora.nn import Transformer
from minilora.nn.reading import read_past
from minilora.nn.rows import NEVER, last_place, rows_of
from minilora.nn.transformer import Past
from minilora.training.batches import Batch, Batches
from minilora.training.parallel import PIECE_TOKENS, Piece

READ_TOKENS = 2048
"""Positions of prompts that are read at a time."""


def answer_begins(ids: np.ndarray, labels: np.ndarray, invocation: tuple[int, ...]) -> int:
    """Where a row is cut: at its last invocation before its answer, where generation begins too.

    Raises ValueError for a row without labels or without an invocation before its first one, and
    for one with several answers: between them the adapter would act where it does not when it
    answers. `text.examples.one_answer_each` makes rows of their own of these.
    """
    labelled = np.flatnonzero(labels != IGNORE)
    if not len(labelled):
        raise ValueError("got no token to learn, expected one")
    first, last = int(labelled[0]), int(labelled[-1])
    if last - first + 1 != len(labelled):
        raise ValueError(
            "got several answers in one row, expected one: an activated adapter learns each answer "
            "of a chat as a row of its own"
        )
    place = last_place(ids[: first + 1], invocation)
    if place == NEVER:
        raise ValueError(
            f"got no invocation {list(invocation)} before the answer, expected it in the prompt"
        )
    return place


def answer_spans(batch: Batch, invocation: tuple[int, ...]) -> list[tuple[int, int]]:
    """(begin, end) of what is learned in each row: from its invocation to its last label.

    Raises ValueError naming the example, as `answer_begins`.
    """
    spans = []
    for ids, labels, number in zip(batch.ids, batch.labels, batch.indices, strict=True):
        try:
            begin = answer_begins(ids, labels, invocation)
        except ValueError as error:
            raise ValueError(f"example {number}: {error}") from None
        spans.append((begin, int(np.flatnonzero(labels != IGNORE)[-1]) + 1))
    return spans


def cut_pieces_a_worker(spans: Sequence[tuple[int, int]], workers: int) -> int:
    """How many pieces each process makes of its share of rows that are cut at these places.

    Answers count as rows do that are whole; prompts, of which little is held, count half.
    """
    answers, prompts = sum(e - b for b, e in spans), sum(b for b, _ in spans)
    return math.ceil(max(answers / PIECE_TOKENS, prompts / READ_TOKENS) / workers)


def split_at_invocation(
    batch: Batch, pieces: int, seed: tuple[int, ...], spans: Sequence[tuple[int, int]]
) -> list[Piece]:
    """As `step.split_batch`, with every row cut at its span."""
    result, whole = [], rows_of(len(batch.ids))
    for i, rows in enumerate(np.array_split(np.arange(len(batch.ids)), pieces)):
        if len(rows) == 0:
            continue
        own = [(row, *spans[row]) for row in rows]
        time = max(end - begin for _, begin, end in own)
        ids = np.zeros((len(rows), time), dtype=np.int32)
        labels = np.full((len(rows), time), IGNORE, dtype=np.int32)
        for at, (row, begin, end) in enumerate(own):
            ids[at, : end - begin] = batch.ids[row, begin:end]
            labels[at, : end - begin] = batch.labels[row, begin:end]
        prompts = tuple(batch.ids[row, :begin] for row, begin, _ in own)
        piece = Piece(ids, labels, (*seed, i), whole.cut(rows), prompts, batch.indices[rows])
        result.append(piece)
    return result


class KeptPrompts:
    """Keys and values of the prompts of a run's examples, each read when it is needed first.

    They lie in memory that forked workers share, so what one of them has read all have. Prompts are
    read some at a time, always the same ones together: which those are depends on data and settings
    alone, so that a resumed run meets the same bits.
    """

    def __init__(
        self,
        model: Transformer,
        batches: Batches,
        numbers: Iterable[int],
        invocation: tuple[int, ...],
    ) -> None:
        """numbers: of the examples that the run will meet."""
        self.model, self.batches = model, batches
        config, dtype = model.config, model.head_weight.dtype
        self._shape = (config.num_hidden_layers, 2, config.num_key_value_heads, config.head_dim)
        self._dtype, each = dtype, position_bytes(model)
        found = {}
        for number in sorted({int(n) for n in numbers}):
            example = batches.examples[number]
            place = answer_begins(example.ids, example.labels, invocation)
            found[number] = example.ids[:place]
        order = sorted(found, key=lambda number: (len(found[number]), number))
        self._prompts, self._chunk_of, self._chunks = found, {}, []
        for number in order:
            chunk = self._chunks[-1] if self._chunks else []
            if not chunk or (len(chunk) + 1) * len(found[number]) > READ_TOKENS:
                chunk = []
                self._chunks.append(chunk)
            chunk.append(number)
            self._chunk_of[number] = len(self._chunks) - 1
        ends = np.cumsum([len(found[number]) * each for number in order])
        self._begins = dict(zip(order, [0, *ends.tolist()], strict=False))
        self.nbytes = int(ends[-1])
        self._memory = mmap.mmap(-1, max(1, self.nbytes))
        self._ready = np.frombuffer(mmap.mmap(-1, len(self._chunks)), np.uint8)

    def read(self, model: Transformer, piece: Piece) -> Past:
        """Keys and values of a piece's prompts, from what is kept."""
        for chunk in sorted({self._chunk_of[int(number)] for number in piece.examples}):
            if not self._ready[chunk]:
                self._fill(chunk)
        lengths = np.array([len(prompt) for prompt in piece.prompts])
        time, (layers, two, heads, dim) = int(lengths.max()), self._shape
        whole = np.zeros((layers, two, len(lengths), time, heads, dim), self._dtype)
        for row, number in enumerate(piece.examples):
            whole[:, :, row, time - lengths[row] :] = self._of(int(number))
        return Past([(layer[0], layer[1]) for layer in whole], lengths)

    def _of(self, number: int) -> np.ndarray:
        """(layers, 2, P, Hkv, dh), a view of the shared memory."""
        layers, two, heads, dim = self._shape
        shape = (layers, two, len(self._prompts[number]), heads, dim)
        size = int(np.prod(shape))
        flat = np.frombuffer(self._memory, self._dtype, size, offset=self._begins[number])
        return flat.reshape(shape)

    def _fill(self, chunk: int) -> None:
        numbers = self._chunks[chunk]
        past = read_past(self.model, [self._prompts[number] for number in numbers])
        for row, number in enumerate(numbers):
            own = self._of(number)
            for layer, pair in zip(own, past.layers, strict=True):
                for kept, array in zip(layer, pair, strict=True):
                    kept[...] = array[row, past.columns - len(self._prompts[number]) :]
        # Two workers may read one chunk in the same step: both write the same numbers.
        self._ready[chunk] = 1


def position_bytes(model: Transformer) -> int:
    """Bytes of the keys and values of one position in all layers."""
    config = model.config
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return numbers * model.head_weight.dtype.itemsize


def kept_prompts(
    model: Transformer, batches: Batches, steps: int, invocation: tuple[int, ...], most_bytes: int
) -> KeptPrompts | None:
    """The prompts of a run, or None where keeping them does not pay or does not fit.

    It pays where the steps meet their examples more than once; it fits in `most_bytes`. On a device
    nothing is kept.
    """
    met = np.concatenate([batches.indices(step) for step in range(min(steps, 2 * len(batches)))])
    numbers = np.unique(met)
    if steps <= len(batches) or get_array_module(model.head_weight.data) is not np:
        return None
    longest = int(batches.lengths[numbers].sum()) * position_bytes(model)
    if longest > 8 * most_bytes:  # far beyond it: not worth looking where the answers begin
        return None
    kept_bytes = _prompt_positions(batches, numbers, invocation) * position_bytes(model)
    if kept_bytes > most_bytes:
        return None
    return KeptPrompts(model, batches, numbers, invocation)


def _prompt_positions(batches: Batches, numbers: Sequence[int], invocation: tuple[int, ...]) -> int:
    examples = (batches.examples[int(number)] for number in numbers)
    return sum(answer_begins(e.ids, e.labels, invocation) for e in examples)
