"""Training in a random subspace: all weights move, but only along d random directions.

theta = theta_0 + P z, with z (d,) trained and P (D, d) random and fixed. The fewest d with which a
task is learnt is its intrinsic dimension (Li et al. 2018, arXiv 1804.08838, Sec. 2). P is kept as
one place and one sign a weight: weight i takes z at a random place, times +-1 / sqrt(the number of
weights with that place). So the columns of P are orthonormal whatever d is, P^T g costs as much as
reading g, and at d = D the subspace is all there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from minilora.backend import get_array_module
from minilora.limits import require_count
from minilora.nn import Parameter
from minilora.training.optim import AdamW, Optimizer


class RandomSubspace:
    """P (D, d), and with `scaled` a trained factor for each of the weights' arrays.

    Without: delta = P z. With (structure-aware, SAID: Aghajanyan et al. 2020, arXiv 2012.13255,
    Eq. 3): delta of array m = lambda_m (P z)_m, where the m factors are the last of the d numbers.
    """

    def __init__(
        self, sizes: Mapping[str, int], d: int, rng: np.random.Generator, scaled: bool = False
    ) -> None:
        """sizes: array's name -> how many numbers. Raises ValueError for d out of its range."""
        self.sizes, self.d, self.scaled = dict(sizes), d, scaled
        total, factors = sum(sizes.values()), len(sizes) if scaled else 0
        require_count("d", d, factors + 1, total)
        self.shared = d - factors
        """Numbers of z that are not factors."""
        # Every place is taken by as many weights as any other, give or take one.
        self.place = rng.permutation(np.arange(total) % self.shared).astype(np.int32)
        sign = rng.integers(0, 2, total).astype(np.float32) * 2 - 1
        count = np.bincount(self.place, minlength=self.shared)
        self.weight = sign / np.sqrt(count[self.place]).astype(np.float32)
        edges = np.cumsum([0, *sizes.values()])
        self.slices = {
            name: slice(a, b) for name, a, b in zip(sizes, edges[:-1], edges[1:], strict=True)
        }

    def start(self) -> np.ndarray:
        """z of no change, (d,): zeros, and factors of 1."""
        z = np.zeros(self.d, np.float32)
        z[self.shared :] = 1.0
        return z

    def delta(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Array's name -> its change, flat: P z, times the factor."""
        flat = self.weight * z[: self.shared][self.place]
        if self.scaled:
            for factor, own in zip(z[self.shared :], self.slices.values(), strict=True):
                flat[own] *= factor
        return {name: flat[own] for name, own in self.slices.items()}

    def pull_back(self, g: Mapping[str, np.ndarray], z: np.ndarray) -> np.ndarray:
        """The vjp of `delta` at z: cotangents of the changes -> cotangent of z, (d,).

        gz = P^T (lambda g),   g of lambda_m = (P z)_m . g_m.
        """
        flat = np.concatenate([np.asarray(g[name]).reshape(-1) for name in self.slices])
        gz = np.empty(self.d, flat.dtype)
        if self.scaled:
            moved = self.weight * z[: self.shared][self.place]
            for i, own in enumerate(self.slices.values()):
                gz[self.shared + i] = moved[own] @ flat[own]
                flat[own] *= z[self.shared + i]
        flat *= self.weight
        gz[: self.shared] = np.bincount(self.place, flat, minlength=self.shared)
        return gz


class SubspaceAdamW(Optimizer):
    """AdamW on z: the weights are theta_0 + P z after each step, and z alone has moments.

    parameters: those that move, on the host. Clipping before `step` acts on the weights' gradient.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Parameter]],
        d: int,
        rng: np.random.Generator,
        scaled: bool = False,
    ) -> None:
        super().__init__(parameters)
        on_device = [n for n, p in self._items() if get_array_module(p.data) is not np]
        if on_device:
            raise ValueError(f"got {on_device[0]} on a device, expected weights on the host")
        self.subspace = RandomSubspace({n: p.size for n, p in self._items()}, d, rng, scaled)
        self.origin = {name: p.data.copy() for name, p in self._items()}
        self.z = Parameter(self.subspace.start())
        self._inner = AdamW([("z", self.z)])
        self.state = {**self._inner.state, "point": {"z": self.z.data}}

    def settings(self) -> dict:
        """Kind, dimension and whether it is structure-aware."""
        return {**super().settings(), "d": self.subspace.d, "scaled": self.subspace.scaled}

    def step(self, lr: float) -> None:
        """One update of z from the weights' gradients, and the weights that follow from it."""
        gradients = {
            name: np.zeros_like(p.data) if p.grad is None else p.grad for name, p in self._items()
        }
        self.z.grad = self.subspace.pull_back(gradients, self.z.data).astype(np.float32)
        self._inner.step(lr)
        self.steps = self._inner.steps
        self._place()

    def _place(self) -> None:
        for name, change in self.subspace.delta(self.z.data).items():
            parameter = self.parameters[name]
            np.add(self.origin[name], change.reshape(parameter.shape), out=parameter.data)

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back z and its moments, and place the weights by them."""
        super().load_state_dict(state)
        self._inner.steps = self.steps
        self._place()
