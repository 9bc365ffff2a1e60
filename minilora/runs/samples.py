"""Samples: a few prompts whose answers a run shows beside what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from minilora.backend import blas_threads, recommended_blas_threads
from minilora.nn import Transformer, generate
from minilora.runs.data import File, Sample, sample_of
from minilora.text import Example, Tokenizer
from minilora.text.answers import stop_ids
from minilora.text.streaming import answer_text

SAMPLES = 2
CANDIDATES = 8
"""Examples among which samples are looked for: few have no room for their answer."""


def pick_samples(
    tokenizer: Tokenizer, examples: Sequence[Example], file: File, limit: int
) -> list[Sample]:
    """The first samples that the examples of a file give; limit: positions the base can read."""
    first = examples[:CANDIDATES]
    records = file.records([example.source for example in first])
    made = (sample_of(tokenizer, e, records.get(e.source), limit) for e in first)
    return list(islice(filter(None, made), SAMPLES))


def answer_samples(
    model: Transformer,
    tokenizer: Tokenizer,
    samples: Sequence[Sample],
    known: Mapping[tuple[int, ...], str],
) -> list[tuple[Sample, str]]:
    """Each sample with the model's greedy answer; known: answers to hand, by prompt ids."""
    stops = stop_ids(model, tokenizer)

    def answer(sample: Sample) -> str:
        text = known.get(tuple(sample.ids))
        if text is not None:
            return text
        ids = generate(model, [sample.ids], sample.room, stop_ids=stops)[0]
        return answer_text(tokenizer, ids, sample.room)

    with blas_threads(recommended_blas_threads(model.config.hidden_size)):
        return [(sample, answer(sample)) for sample in samples]
