"""Packed examples: as many examples as a big file gives, in a few arrays, at 5 bytes a token."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from minilora.autograd import IGNORE
from minilora.text.examples import Example


@dataclass(frozen=True, eq=False)
class PackedExamples(Sequence[Example]):
    """A sequence of examples, each of which is made when it is asked for.

    tokens: of n examples, one after another, each with the token after its last. learned: which
    tokens are labels. starts (n + 1,): where each example begins. sources (n,). places: which of
    the n this sequence has, in its order.
    """

    tokens: np.ndarray
    learned: np.ndarray
    starts: np.ndarray
    sources: Sequence[str]
    places: np.ndarray

    @classmethod
    def pack(cls, examples: Iterable[Example]) -> PackedExamples:
        """A copy of all examples; a token that is neither read nor learned is lost."""
        tokens, learned, starts, sources = array("i"), bytearray(), array("q", [0]), []
        for example in examples:
            last = max(int(example.labels[-1]), 0)  # No example reads the last one's token.
            tokens.frombytes(example.ids.astype(np.int32).tobytes())
            tokens.append(last)
            learned.append(False)
            learned += (example.labels != IGNORE).tobytes()
            starts.append(len(tokens))
            sources.append(example.source)
        return cls(
            np.asarray(tokens),
            np.asarray(learned).view(bool),
            np.asarray(starts),
            sources,
            np.arange(len(sources)),
        )

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return replace(self, places=self.places[place])
        row = self.places[place]
        begin, stop = self.starts[row : row + 2]
        tokens = self.tokens[begin:stop]
        labels = np.where(self.learned[begin + 1 : stop], tokens[1:], np.int32(IGNORE))
        return Example(tokens[:-1], labels, self.sources[row])

    def take(self, places: Sequence[int]) -> PackedExamples:
        """The examples at these places, in this order."""
        return replace(self, places=self.places[np.asarray(places, np.int64)])

    def without(self, sources: Collection[str]) -> PackedExamples:
        """The examples that are of none of these sources."""
        keep = [self.sources[place] not in sources for place in self.places]
        return self.take(np.flatnonzero(keep))

    @property
    def lengths(self) -> np.ndarray:
        """Positions of each example."""
        return (np.diff(self.starts) - 1)[self.places]

    @property
    def label_counts(self) -> np.ndarray:
        """Labelled positions of each example."""
        if not len(self.sources):
            return np.zeros(0, np.int64)
        return np.add.reduceat(self.learned, self.starts[:-1], dtype=np.int64)[self.places]


def lengths(examples: Sequence[Example]) -> np.ndarray:
    """Positions of each example, of any sequence of them."""
    if isinstance(examples, PackedExamples):
        return examples.lengths
    return np.array([len(example) for example in examples], np.int64)
