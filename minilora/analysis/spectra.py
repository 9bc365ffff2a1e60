"""Spectra of a change ΔW: how many directions it has, which, and what it does to those of W.

All in float64. A change is a `ThinSVD`, ΔW = U diag(s) Vt: of an adapter through its factors, of
two checkpoints from the difference of their weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from minilora.lora import Adapter
from minilora.lora.deltas import ThinSVD, factors_of, thin_svd

TOP, THRESHOLD = 10, 0.5
"""How many directions of W + ΔW are looked at for intruders, and the cosine below which a direction
is one (Shuttleworth et al. 2024; PEFT's reduce_intruder_dimension has these numbers)."""
ENERGY = 0.9


def adapter_changes(adapter: Adapter) -> dict[str, ThinSVD]:
    """Module -> its change."""
    return {name: thin_svd(factors_of(adapter, name)) for name in adapter.modules}


def checkpoint_changes(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> dict[str, ThinSVD]:
    """Name -> the change between two checkpoints' weights; matrices that are equal are left out.

    Raises ValueError for other names or shapes on the two sides.
    """
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())[0]
        raise ValueError(f"got {odd} on one side alone, expected two checkpoints of one model")
    changes = {}
    for name, own in before.items():
        other = after[name]
        if own.shape != other.shape:
            raise ValueError(
                f"{name} got shapes {own.shape} and {other.shape}, expected equal ones"
            )
        if not np.array_equal(own, other):
            changes[name] = difference_svd(own, other)
    return changes


def difference_svd(before: np.ndarray, after: np.ndarray) -> ThinSVD:
    """The SVD of after - before.

    Both were rounded to their dtype, which alone makes a difference of up to eps/2 ‖after‖: of
    singular values below that nothing is known, and they are left out.
    """
    own, other = before.astype(np.float64), after.astype(np.float64)
    U, s, Vt = np.linalg.svd(other - own, full_matrices=False)
    noise = np.finfo(np.result_type(before, after)).eps / 2 * np.linalg.norm(other)
    rank = int((s > noise).sum())
    return ThinSVD(U[:, :rank], s[:rank], Vt[:rank])


# -- how many directions ---------------------------------------------------------------------------


def energy_rank(s: np.ndarray, share: float = ENERGY) -> int:
    """The fewest directions that hold this share of ‖ΔW‖², the sum of all s²; 0 of no change."""
    energy = np.cumsum(s.astype(np.float64) ** 2)
    return int(np.searchsorted(energy, share * energy[-1] * (1 - 1e-12))) + 1 if len(s) else 0


def effective_rank(s: np.ndarray) -> float:
    """exp(-Σ p log p) with p = s / Σ s: as many equal singular values would be as spread.

    Roy & Vetterli 2007. Between 1 and the rank; 0 of no change.
    """
    if not len(s):
        return 0.0
    p = s / s.sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def stable_rank(s: np.ndarray) -> float:
    """‖ΔW‖² / s_1²; 0 of no change."""
    return float((s**2).sum() / s[0] ** 2) if len(s) else 0.0


# -- which directions ------------------------------------------------------------------------------


def overlap_grid(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """φ(i, j) of the first i and the first j directions, for all i and j: (k_one, k_other).

    one (n, k_one), other (n, k_other): orthonormal columns in falling order of their singular
    values. φ(i, j) = ‖U_iᵀ V_j‖² / min(i, j) (Hu et al. 2021, Sec. 7.2, Eq. 4).
    """
    squares = (one.T @ other) ** 2
    sums = squares.cumsum(axis=0).cumsum(axis=1)
    i, j = np.arange(1, len(squares) + 1)[:, None], np.arange(1, squares.shape[1] + 1)
    return sums / np.minimum(i, j)


def chance_grid(size: int, shape: tuple[int, int]) -> np.ndarray:
    """φ(i, j) of independent random subspaces of a space of `size` on average: max(i, j) / size."""
    i, j = np.arange(1, shape[0] + 1)[:, None], np.arange(1, shape[1] + 1)
    return np.maximum(i, j) / size


# -- what it does to W -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Amplification:
    """How much a change makes of what W has in the change's own directions.

    r: the first so many directions, U and V of ΔW. norm: ‖ΔW‖ of these. onto: ‖Uᵀ W V‖, what W has
    there. onto_top: the same with W's own first directions, the most that any could have.
    onto_chance: with random ones, the root of the mean square. factor: norm / onto (Hu et al. 2021,
    Sec. 7.3, Table 7). The factor of random directions is norm / onto_chance: an amplification
    beyond it would mean that the change avoids what W has; one below, that it follows it.
    """

    r: int
    norm: float
    onto: float
    onto_top: float
    onto_chance: float

    @property
    def factor(self) -> float:
        """norm / onto; infinite where W has nothing there."""
        return self.norm / self.onto if self.onto else float("inf")

    @property
    def chance_factor(self) -> float:
        """norm / onto_chance."""
        return self.norm / self.onto_chance if self.onto_chance else float("inf")


def amplification(weight: np.ndarray, change: ThinSVD, r: int) -> Amplification:
    """Of the first r directions of a change of W (out, in), or all where it has fewer.

    Random U (out, r), V (in, r) with orthonormal columns give E ‖Uᵀ W V‖² = r² ‖W‖² / (out in).
    """
    W, r = weight.astype(np.float64), min(r, len(change.s))
    U, V = change.U[:, :r], change.Vt[:r].T
    own = np.linalg.svd(W, compute_uv=False)[:r]
    return Amplification(
        r,
        float(np.linalg.norm(change.s[:r])),
        float(np.linalg.norm(U.T @ W @ V)),
        float(np.linalg.norm(own)),
        float(r * np.linalg.norm(W) / np.sqrt(W.size)),
    )


def intruder_cosines(weight: np.ndarray, change: ThinSVD, top: int = TOP) -> np.ndarray:
    """Of each of the first `top` left singular vectors of W + ΔW, the largest |cosine| with W's.

    Near 1: a direction that W had. Near 0: one that it had not, an intruder (Shuttleworth et al.
    2024, Sec. 3).
    """
    W = weight.astype(np.float64)
    own = np.linalg.svd(W, full_matrices=False)[0]
    new = np.linalg.svd(W + (change.U * change.s) @ change.Vt, full_matrices=False)[0]
    return np.abs(new[:, :top].T @ own).max(axis=1)


def scattered(change: ThinSVD, rng: np.random.Generator) -> ThinSVD:
    """A change of the same singular values in random directions: what chance alone would do."""
    U, V = (
        np.linalg.qr(rng.standard_normal((n, len(change.s))))[0]
        for n in (len(change.U), change.Vt.shape[1])
    )
    return ThinSVD(U, change.s, V.T)


# -- a module in numbers ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Spectrum:
    """One module's change in numbers.

    s: its singular values. energy: how many directions hold ENERGY of it. amplified: as
    `Amplification`. intruders: of the TOP first directions of W + ΔW, how many are below THRESHOLD;
    intruders_chance: with the same singular values in random directions.
    """

    module: str
    shape: tuple[int, int]
    s: tuple[float, ...]
    norm: float
    effective: float
    stable: float
    energy: int
    amplified: Amplification
    intruders: int
    intruders_chance: int

    def to_dict(self) -> dict:
        """JSON-ready; a factor that is infinite is None."""
        told = asdict(self)
        factors = {"factor": self.amplified.factor, "chance_factor": self.amplified.chance_factor}
        finite = {name: x if np.isfinite(x) else None for name, x in factors.items()}
        return {**told, "amplified": {**told["amplified"], **finite}}


def spectrum(
    module: str,
    weight: np.ndarray,
    change: ThinSVD,
    rng: np.random.Generator,
    r: int = 4,
    top: int = TOP,
    threshold: float = THRESHOLD,
) -> Spectrum:
    """The numbers of a module's change. weight: W (out, in) before it. rng: for the control."""
    cosines = intruder_cosines(weight, change, top)
    by_chance = intruder_cosines(weight, scattered(change, rng), top)
    return Spectrum(
        module,
        weight.shape,
        tuple(map(float, change.s)),
        float(np.linalg.norm(change.s)),
        effective_rank(change.s),
        stable_rank(change.s),
        energy_rank(change.s),
        amplification(weight, change, r),
        int((cosines < threshold).sum()),
        int((by_chance < threshold).sum()),
    )


@dataclass(frozen=True)
class Overlap:
    """How much two changes of one module share.

    reads, writes: φ(i, j) of the rows of Vt, and of the columns of U. chance_reads, chance_writes:
    of random subspaces.
    """

    module: str
    reads: np.ndarray
    writes: np.ndarray
    chance_reads: np.ndarray
    chance_writes: np.ndarray

    def to_dict(self) -> dict:
        """JSON-ready, the grids as lists."""
        return {k: v if isinstance(v, str) else v.round(5).tolist() for k, v in vars(self).items()}


def overlap(module: str, one: ThinSVD, other: ThinSVD, most: int | None = None) -> Overlap:
    """The grids of the first `most` directions of two changes, None for all."""
    reads = overlap_grid(one.Vt[:most].T, other.Vt[:most].T)
    writes = overlap_grid(one.U[:, :most], other.U[:, :most])
    return Overlap(
        module,
        reads,
        writes,
        chance_grid(one.Vt.shape[1], reads.shape),
        chance_grid(len(one.U), writes.shape),
    )
