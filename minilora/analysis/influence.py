"""Influence: which training notes taught an adapter an answer (TracIn, Pruthi et al. 2020).

A step on note z moves the parameters by -η ∇ℓ(z), and so the loss on another note z' by about
-η ∇ℓ(z)·∇ℓ(z'). Summed over the run's checkpoints that is z's influence on z' (their Eq. 1,
TracInCP); it is cheap for LoRA, whose gradient is only A's and B's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from minilora.autograd import IGNORE, Tensor
from minilora.autograd import functional as F
from minilora.backend import get_array_module, to_numpy
from minilora.lora import Attachment, LoRALinear
from minilora.nn import Module, quiet_overflow
from minilora.text import Example
from minilora.training.batches import pad_examples

BATCH_TOKENS = 1024
"""Positions of notes whose gradients are taken at once."""

Query = Sequence[tuple[Example, float]]
"""Examples with weights: what is asked about is the weighted sum of their losses."""


@dataclass(frozen=True)
class Moment:
    """An adapter's numbers at one moment of its run.

    step: how many steps it has behind it. rate: the learning rate there. factors: module -> (A, B).
    """

    step: int
    rate: float
    factors: Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Influence:
    """What n notes have to do with q queries, over the moments of a run.

    by_dot (n, q): the sum of rate ∇ℓ(note)·∇(query): by how much the note's steps lowered the
    query's loss, to first order. by_cosine (n, q): the same of the cosines, so that a note of large
    gradients does not count for more; between -1 and 1, the mean weighted by the rates. own (n,):
    of each note on itself, the sum of rate ‖∇ℓ‖². losses (n,): in nats a note, at the last moment.
    """

    by_dot: np.ndarray
    by_cosine: np.ndarray
    own: np.ndarray
    losses: np.ndarray


class Watched(Module):
    """A LoRALinear whose inputs and whose output's gradient are kept.

    A zero is added to the output; its gradient is the output's, and nothing else is asked for one.
    """

    def __init__(self, layer: LoRALinear) -> None:
        """Raises ValueError for a layer of DoRA or VeRA, whose gradients are others."""
        super().__init__()
        if not layer.config.is_product:
            raise ValueError(
                f"got a layer with use_dora {layer.config.use_dora}, vera {layer.config.vera} and "
                f"tables {layer.config.tables}, expected one of plain LoRA"
            )
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """As the layer's."""
        y = self.layer(x)
        xp = get_array_module(y.data)
        self.x, self.probe = x.data, Tensor(xp.zeros_like(y.data), requires_grad=True)
        return y + self.probe

    def gradients(self, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Of A (count, r in) and B (count, out r), those of each note alone, flat.

        ∂ℓ/∂B = s gᵀ (x Aᵀ) and ∂ℓ/∂A = s (g B)ᵀ x over a note's positions. rows: which note each
        position belongs to, rising, where the last block saw the labelled positions alone.
        """
        A, B = (to_numpy(p.data) for p in (self.layer.lora_A, self.layer.lora_B))
        x, g = to_numpy(self.x), to_numpy(self.probe.grad) * self.layer.scaling
        if x.ndim == 3:
            grad_A = (g @ B).swapaxes(-1, -2) @ x
            grad_B = g.swapaxes(-1, -2) @ (x @ A.T)
        else:
            low, back, ends = x @ A.T, g @ B, np.searchsorted(rows, np.arange(count + 1))
            parts = [slice(*ends[i : i + 2]) for i in range(count)]
            grad_A = np.stack([back[own].T @ x[own] for own in parts])
            grad_B = np.stack([g[own].T @ low[own] for own in parts])
        return grad_A.reshape(count, -1), grad_B.reshape(count, -1)


@contextlib.contextmanager
def _watching(attachment: Attachment) -> Iterator[list[Watched]]:
    """The model with its LoRALinears watched, and as it was afterwards."""
    model, layers = attachment.model, attachment.layers
    watched = {name: Watched(layer) for name, layer in layers.items()}
    try:
        for name, own in watched.items():
            model.set_submodule(name, own)
        yield list(watched.values())
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer)


def note_gradients(
    attachment: Attachment, examples: Sequence[Example], pad_id: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(numbers (n,), losses (n,), gradients (n, P)) of a few notes at a time, short ones first.

    The loss of a note is the sum of its labels' cross-entropies, in nats, as it enters the loss of
    a step; P: the numbers of A and B, module by module in the model's order.
    """
    model = attachment.model
    order = np.argsort([len(example) for example in examples], kind="stable")
    was_training = model.training
    model.eval()
    try:
        with quiet_overflow(), _watching(attachment) as watched:
            for numbers in _batches(order, examples):
                batch = pad_examples([examples[i] for i in numbers], numbers, pad_id)
                labelled = np.flatnonzero(batch.labels != IGNORE)
                rows, labels = labelled // batch.ids.shape[1], batch.labels.reshape(-1)[labelled]
                hidden = model.hidden_states(batch.ids, only=labelled)
                F.linear_cross_entropy(hidden, model.head_weight, labels, 1.0).backward()
                each = _cross_entropies(hidden, model.head_weight, labels)
                losses = np.bincount(rows, each, minlength=len(numbers))
                parts = [g for own in watched for g in own.gradients(rows, len(numbers))]
                yield numbers, losses, np.concatenate(parts, axis=1)
    finally:
        model.train(was_training)


def _batches(order: np.ndarray, examples: Sequence[Example]) -> Iterator[np.ndarray]:
    """Runs of `order`, which goes from short to long, of about BATCH_TOKENS positions each."""
    rows: list[int] = []
    for number in order.tolist():
        if rows and (len(rows) + 1) * len(examples[number]) > BATCH_TOKENS:
            yield np.array(rows)
            rows = []
        rows.append(number)
    yield np.array(rows)


def _cross_entropies(hidden: Tensor, head: Tensor, labels: np.ndarray) -> np.ndarray:
    """Of each labelled position, in nats and float64."""
    logits = to_numpy(hidden.data @ head.data.T).astype(np.float64)
    largest = logits.max(axis=-1)
    total = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=-1))
    return total - logits[np.arange(len(labels)), labels]


def influence(
    attachment: Attachment,
    moments: Sequence[Moment],
    notes: Sequence[Example],
    queries: Sequence[Query],
    pad_id: int = 0,
    bars: bool = False,
) -> Influence:
    """The influence of each note on each query. Source: Pruthi et al. 2020, Eq. 1 (TracInCP).

    attachment: the adapter on its base; its numbers are those of one moment after another, and in
    the end what they were. The optimizer's own scales are left out, as in the paper. Raises
    ValueError for no moment, note or query, or a moment of other modules or shapes.
    """
    if not moments or not notes or not queries:
        raise ValueError(
            f"got {len(moments)} moments, {len(notes)} notes and {len(queries)} queries, expected "
            "one of each at least"
        )
    for moment in moments:
        _check_moment(attachment, moment)
    n, q = len(notes), len(queries)
    dots, cosines, own, losses = np.zeros((n, q)), np.zeros((n, q)), np.zeros(n), np.zeros(n)
    total = sum(moment.rate for moment in moments)
    bar = tqdm(total=n * len(moments), desc="gradients", unit="note", disable=not bars)
    with _numbers_kept(attachment), bar:
        for moment in moments:
            _set_numbers(attachment, moment)
            asked = np.stack([_query_gradient(attachment, query, pad_id) for query in queries])
            sizes = np.linalg.norm(asked, axis=1)
            for numbers, loss, gradients in note_gradients(attachment, notes, pad_id):
                dot = (gradients @ asked.T).astype(np.float64)
                square = np.einsum("np,np->n", gradients, gradients).astype(np.float64)
                dots[numbers] += moment.rate * dot
                own[numbers] += moment.rate * square
                scale = np.sqrt(square)[:, None] * sizes
                cosines[numbers] += moment.rate * np.divide(
                    dot, scale, out=np.zeros_like(dot), where=scale > 0
                )
                losses[numbers] = loss
                bar.update(len(numbers))
    return Influence(dots, cosines / total if total else cosines, own, losses)


def _query_gradient(attachment: Attachment, query: Query, pad_id: int) -> np.ndarray:
    examples, weights = [example for example, _ in query], np.array([w for _, w in query])
    total = 0.0
    for numbers, _, gradients in note_gradients(attachment, examples, pad_id):
        total = total + weights[numbers].astype(gradients.dtype) @ gradients
    return total


def _check_moment(attachment: Attachment, moment: Moment) -> None:
    layers = attachment.layers
    if moment.factors.keys() != layers.keys():
        odd = sorted(moment.factors.keys() ^ layers.keys())
        raise ValueError(f"step {moment.step} got other modules than the adapter's: {odd[0]}")
    for name, pair in moment.factors.items():
        shapes = tuple(p.shape for p in (layers[name].lora_A, layers[name].lora_B))
        got = tuple(array.shape for array in pair)
        if got != shapes:
            raise ValueError(f"step {moment.step}: {name} got shapes {got}, expected {shapes}")


def _set_numbers(attachment: Attachment, moment: Moment) -> None:
    for name, layer in attachment.layers.items():
        for parameter, array in zip(
            (layer.lora_A, layer.lora_B), moment.factors[name], strict=True
        ):
            xp = get_array_module(parameter.data)
            parameter.data = xp.asarray(array, dtype=parameter.dtype)


@contextlib.contextmanager
def _numbers_kept(attachment: Attachment) -> Iterator[None]:
    """A and B are afterwards what they were."""
    before = [
        (parameter, parameter.data)
        for layer in attachment.layers.values()
        for parameter in (layer.lora_A, layer.lora_B)
    ]
    try:
        yield
    finally:
        for parameter, data in before:
            parameter.data = data
