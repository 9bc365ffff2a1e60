"""A router by reading: the base reads a text once, and the nearest centre says whose it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from minilora.autograd import no_grad
from minilora.backend import (
    blas_threads,
    get_array_module,
    recommended_blas_threads,
    to_numpy,
)
from minilora.limits import require_finite
from minilora.nn import quiet_overflow
from minilora.serving.bank import BASE, AdapterBank
from minilora.serving.engine import Engine
from minilora.serving.router import Choice, some_at_a_time
from minilora.storage import atomic_write

SHRINKAGE = 0.1
"""Share of the spread that is taken from its diagonal alone: few texts say little of how numbers
move together. From 0.03 to 0.3 made no difference on the ward's notes; the diagonal alone does."""


def read_means(
    bank: AdapterBank, prompts: Sequence[Sequence[int]], progress: str = ""
) -> np.ndarray:
    """(N, C): the mean, over its tokens, of what the base makes of each prompt (token ids).

    The base's, whichever adapter the bank is using. Raises ValueError for an empty prompt.
    """
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("got an empty prompt, expected at least one token in each")
    model, means = bank.model, [np.empty(0)] * len(prompts)
    xp = get_array_module(model.head_weight.data)
    bar = tqdm(total=len(prompts), desc=progress, unit="text", disable=not progress)
    with bar, blas_threads(recommended_blas_threads(model.config.hidden_size)):
        for some in some_at_a_time([len(p) for p in prompts], 1):
            ids = np.zeros((len(some), max(len(prompts[i]) for i in some)), dtype=np.int64)
            for row, i in enumerate(some):
                ids[row, : len(prompts[i])] = prompts[i]
            with bank.rows([BASE] * len(some)), no_grad(), quiet_overflow():
                hidden = to_numpy(model.hidden_states(xp.asarray(ids)).data)
            for row, i in enumerate(some):
                means[i] = hidden[row, : len(prompts[i])].mean(axis=0, dtype=np.float64)
            bar.update(len(some))
    return np.array(means).reshape(len(prompts), -1)


def read_mean_between_steps(engine: Engine, prompt: Sequence[int]) -> np.ndarray:
    """(C,): the row of `read_means` for one prompt, while an engine answers others."""
    model = engine.bank.model
    with engine.reading_as_base():
        hidden = model.hidden_states(get_array_module(model.head_weight.data).asarray([prompt]))
    return to_numpy(hidden.data)[0].mean(axis=0, dtype=np.float64)


@dataclass(frozen=True)
class Centres:
    """Where the readings of each name's texts lie, and how they spread; saved as one file.

    centres (K, C): the mean reading of each of `names`. precision (C, C): the inverse of the spread
    around them. A text's distance is (m - c)^T P (m - c) / C (Mahalanobis 1936; linear discriminant
    analysis, Fisher 1936, without priors). threshold: beyond it a text is for none.
    """

    names: tuple[str, ...]
    centres: np.ndarray
    precision: np.ndarray
    threshold: float | None = None

    @classmethod
    def learn(cls, readings: Mapping[str, np.ndarray], shrinkage: float = SHRINKAGE) -> Centres:
        """From readings (n, C) of texts by name.

        Raises ValueError for no names, or fewer than two texts of one.
        """
        few = [name for name, rows in readings.items() if len(rows) < 2]
        if few or not readings:
            raise ValueError(f"got {few or 'no names'}, expected 2 texts or more of each name")
        require_finite("shrinkage", shrinkage, below=1.0)
        centres = {name: rows.mean(axis=0) for name, rows in readings.items()}
        apart = np.concatenate([rows - centres[name] for name, rows in readings.items()])
        spread = apart.T @ apart / len(apart)
        diagonal = np.diag(np.maximum(np.diag(spread), 1e-12 * np.diag(spread).max() + 1e-30))
        precision = np.linalg.inv((1 - shrinkage) * spread + shrinkage * diagonal)
        return cls(tuple(readings), np.array(list(centres.values())), precision)

    def distances(self, readings: np.ndarray) -> np.ndarray:
        """(N, K): how far each reading (N, C) lies from each centre."""
        apart = readings[:, None] - self.centres
        return np.einsum("nki,ij,nkj->nk", apart, self.precision, apart) / readings.shape[1]

    def choice(self, distances: Sequence[float]) -> Choice:
        """Where a text at these distances (K,) goes."""
        order = np.argsort(distances, kind="stable")
        given = {self.names[k]: float(distances[k]) for k in order}
        best = self.names[order[0]]
        none = self.threshold is not None and given[best] > self.threshold
        return Choice(None if none else best, given)

    def route(
        self, bank: AdapterBank, prompts: Sequence[Sequence[int]], progress: str = ""
    ) -> list[Choice]:
        """Where each prompt (token ids) goes. Raises ValueError as `read_means`."""
        distances = self.distances(read_means(bank, prompts, progress))
        return [self.choice(row) for row in distances]

    def route_between_steps(self, engine: Engine, prompt: Sequence[int]) -> Choice:
        """As `route` for one prompt, while an engine answers others."""
        return self.choice(self.distances(read_mean_between_steps(engine, prompt)[None])[0])

    def with_threshold(self, threshold: float | None) -> Centres:
        """The same with another threshold."""
        return replace(self, threshold=threshold)

    def write(self, path: Path) -> None:
        """Save as a safetensors file."""
        tensors = {"centres": self.centres, "precision": self.precision}
        about = {"names": json.dumps(self.names), "threshold": json.dumps(self.threshold)}
        arrays = {name: np.ascontiguousarray(x, dtype=np.float32) for name, x in tensors.items()}
        atomic_write(path, save(arrays, metadata=about))

    @classmethod
    def read(cls, path: Path) -> Centres:
        """What `write` saved. Raises ValueError for another file, OSError for none."""
        try:
            with safe_open(path, "numpy") as file:
                about = file.metadata() or {}
                centres, precision = (file.get_tensor(n) for n in ("centres", "precision"))
            names, threshold = json.loads(about["names"]), json.loads(about["threshold"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} holds no centres of a router: {error}") from None
        shape = (len(names), len(precision))
        if centres.shape != shape or precision.shape != (shape[1], shape[1]):
            raise ValueError(
                f"{path} holds centres {centres.shape} and a precision {precision.shape} for "
                f"{len(names)} names, expected {shape} and a square"
            )
        return cls(tuple(names), centres.astype(float), precision.astype(float), threshold)
