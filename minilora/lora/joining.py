"""Ways to join the changes that several adapters make to one module, and the best cut of a rank.

Each takes the parts of a module, whose `scaling` is w s: with weight w, ΔW = w s B A. It says what
becomes of them: exactly their sum, or what the method makes of it. All in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from minilora.lora.deltas import Factors, ThinSVD, thin_svd

NEGLIGIBLE = 1e-12
"""A singular value below this share of the largest is rounding."""


# ---------------------------------------------------------------------------------------- methods


def stack(parts: Sequence[Factors]) -> Factors:
    """The exact sum: B's side by side with their scalings in them, A's one above the other.

    [w_1 s_1 B_1, w_2 s_2 B_2] [A_1; A_2] = w_1 ΔW_1 + w_2 ΔW_2, of rank r_1 + r_2.
    """
    B = np.concatenate([scaled_B(part) for part in parts], axis=1)
    return Factors(np.concatenate([part.A for part in parts], axis=0), B)


def scaled_B(part: Factors) -> np.ndarray:
    """w s B in float64."""
    return part.B.astype(np.float64) * part.scaling


def change(part: Factors) -> np.ndarray:
    """w s B A, (out, in), in float64."""
    return scaled_B(part) @ part.A.astype(np.float64)


def add_factors(parts: Sequence[Factors]) -> Factors:
    """The sum of the A's and the sum of the B's: no sum of the changes (PEFT's "linear").

    (B_1 + B_2)(A_1 + A_2) = B_1 A_1 + B_2 A_2 + B_1 A_2 + B_2 A_1: the last two are nobody's. Each
    factor takes the square root of |w s|, B also its sign. Raises ValueError for unequal ranks.
    """
    ranks = [len(part.A) for part in parts]
    if len(set(ranks)) > 1:
        raise ValueError(f"got ranks {ranks} to add factor by factor, expected equal ones")
    roots = [np.sqrt(abs(part.scaling)) for part in parts]
    A = sum(root * part.A.astype(np.float64) for root, part in zip(roots, parts, strict=True))
    B = sum(
        np.sign(part.scaling) * root * part.B.astype(np.float64)
        for root, part in zip(roots, parts, strict=True)
    )
    return Factors(A, B)


def ties(changes: Sequence[np.ndarray], density: float) -> np.ndarray:
    """TIES of equally shaped arrays: trim, elect signs, average those that agree.

    Of each array the share `density` of largest magnitude stays; an entry's sign is that of the
    sum over the arrays; the mean is taken over those that have it (Yadav et al. 2023, Sec. 3).
    """
    kept = np.stack([trim(one, density) for one in changes])
    agree = (kept != 0) & (np.sign(kept) == np.sign(kept.sum(axis=0)))
    return np.where(agree, kept, 0).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)


def trim(array: np.ndarray, density: float) -> np.ndarray:
    """The array with the share `density` of its entries that are largest in magnitude, else 0."""
    count = max(1, round(density * array.size))
    if count >= array.size:
        return array
    chosen = np.argpartition(-np.abs(array), count - 1, axis=None)[:count]
    kept = np.zeros_like(array)
    kept.flat[chosen] = array.flat[chosen]
    return kept


def dare(changes: Sequence[np.ndarray], density: float, rng: np.random.Generator) -> np.ndarray:
    """The sum after each entry stayed with probability `density` and was divided by it.

    So its expectation is the exact sum (Yu et al. 2023, Sec. 3).
    """
    return sum(np.where(rng.random(one.shape) < density, one / density, 0) for one in changes)


def knots(parts: Sequence[Factors], density: float) -> Factors:
    """KnOTS: one SVD of all changes side by side, TIES of their right parts, and back.

    [ΔW_1, ..., ΔW_n] = U S [V_1, ..., V_n]^T gives all of them the same output directions; what is
    merged are the V_i^T (k, in), and ΔW = U S merge(V_i^T) (Stoica et al. 2024, Sec. 4). U comes
    from the stacked B's, so that no (out, n in) matrix is made.
    """
    left, small = np.linalg.qr(np.concatenate([scaled_B(part) for part in parts], axis=1))
    ends = np.cumsum([len(part.A) for part in parts])
    blocks = [
        small[:, end - len(part.A) : end] @ part.A.astype(np.float64)
        for end, part in zip(ends, parts, strict=True)
    ]
    U, S, _ = np.linalg.svd(np.linalg.qr(np.concatenate(blocks, axis=1).T, mode="r").T)
    kept = NEGLIGIBLE * S[0] < S
    if not kept.any():
        return Factors(parts[0].A, np.zeros_like(scaled_B(parts[0])))
    U, S = U[:, kept], S[kept]
    merged = ties([(U.T @ block) / S[:, None] for block in blocks], density)
    return Factors(merged, left @ (U * S))


DENSE: dict[str, Callable] = {
    "ties": lambda parts, density, rng: ties([change(part) for part in parts], density),
    "dare": lambda parts, density, rng: dare([change(part) for part in parts], density, rng),
}
"""Methods that look at entries of ΔW, so that the (out, in) matrices of a module are made."""

FACTORED: dict[str, Callable] = {
    "cat": lambda parts, density, rng: stack(parts),
    "svd": lambda parts, density, rng: stack(parts),
    "linear": lambda parts, density, rng: add_factors(parts),
    "knots": lambda parts, density, rng: knots(parts, density),
}
"""Methods that work on the factors alone."""

METHODS = ("cat", "svd", "linear", "ties", "dare", "knots")


# -------------------------------------------------------------------------------------------- cut


class Cut(NamedTuple):
    """Factors of the nearest product of a rank, and the share of squared singular values lost.

    The rank is the one asked for, or what there is where that is less, but 1 at least.
    """

    factors: Factors
    energy_lost: float


def cut(factors: Factors, rank: int) -> Cut:
    """The product of this rank that is nearest to ΔW (Eckart and Young 1936)."""
    return _cut(thin_svd(factors), rank)


def cut_matrix(matrix: np.ndarray, rank: int) -> Cut:
    """As `cut`, of a matrix (out, in) that is no product of small factors."""
    return _cut(ThinSVD(*np.linalg.svd(matrix, full_matrices=False)), rank)


def _cut(svd: ThinSVD, rank: int) -> Cut:
    U, s, Vt = svd
    total = float((s**2).sum())
    if not total:
        return Cut(Factors(np.zeros((1, Vt.shape[1])), np.zeros((len(U), 1))), 0.0)
    root = np.sqrt(s[:rank])
    lost = float((s[rank:] ** 2).sum()) / total
    return Cut(Factors(root[:, None] * Vt[:rank], U[:, :rank] * root), lost)
