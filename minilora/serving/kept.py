"""Prompts' beginnings as the base read them, kept so that nobody reads them again.

Up to its invocation an activated adapter leaves a prompt's keys and values to the base, so one
reading of a note serves the base and every activated specialist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minilora.backend import Array
from minilora.limits import require_count

Layers = Sequence[tuple[Array, Array]]
"""Keys and values (Hkv, T, dh) of every layer."""


class Beginning(NamedTuple):
    """How many of a prompt's first tokens are known, and what was kept of them."""

    length: int
    layers: Layers


NOTHING = Beginning(0, ())


class KeptBeginnings:
    """Beginnings of prompts by their tokens, together up to `most` positions.

    Those that were used longest ago go first. One that another continues is not held beside it.
    """

    def __init__(self, most: int) -> None:
        require_count("the number of kept positions", most, 0)
        self.most = most
        self._held: list[tuple[np.ndarray, Layers]] = []  # the last used comes last

    @property
    def positions(self) -> int:
        """How many positions are held."""
        return sum(len(tokens) for tokens, _ in self._held)

    def find(self, tokens: Sequence[int]) -> Beginning:
        """The longest beginning that these tokens share with what is held."""
        lengths = [shared(tokens, held) for held, _ in self._held]
        best = int(np.argmax(lengths)) if lengths else 0
        if not lengths or not lengths[best]:
            return NOTHING
        self._held.append(self._held.pop(best))
        return Beginning(lengths[best], self._held[-1][1])

    def keep(self, tokens: Sequence[int], layers: Layers) -> None:
        """Hold what was read of these tokens, whose keys and values nobody else writes."""
        new = np.array(tokens)
        known = any(shared(new, held) == len(new) for held, _ in self._held)
        if known or len(new) > self.most:
            return
        held = [one for one in self._held if shared(new, one[0]) < len(one[0])]
        room = self.most - len(new)
        while sum(len(tokens) for tokens, _ in held) > room:
            held.pop(0)
        self._held = [*held, (new, layers)]


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    count = min(len(one), len(other))
    differs = np.flatnonzero(np.asarray(one[:count]) != np.asarray(other[:count]))
    return int(differs[0]) if len(differs) else count
