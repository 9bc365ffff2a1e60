"""ΔW = s B A through its factors: norms, singular values, subspaces; never a matrix as large as W.

All is computed in float64. With the thin QR factors B = Q_B R_B and Aᵀ = Q_A R_A, all that ΔW does
is in the small matrix s R_B R_Aᵀ (r, r).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minilora.lora.adapter import Adapter
from minilora.lora.peft_format import MAGNITUDE, pair_names
from minilora.storage import read_safetensors

SHOWN_VALUES = 8
"""Singular values of a module that its text shows."""


class Factors(NamedTuple):
    """A (r, in), B (out, r) and s of one module."""

    A: np.ndarray
    B: np.ndarray
    scaling: float = 1.0


class ThinSVD(NamedTuple):
    """ΔW = U diag(s) Vt with U (out, k), s (k,) falling, Vt (k, in), k the rank of ΔW."""

    U: np.ndarray
    s: np.ndarray
    Vt: np.ndarray


def factors_of(adapter: Adapter | None, module: str) -> Factors | None:
    """Factors of a module; None where the adapter, or no adapter, leaves it as it is."""
    if adapter is None or module not in adapter.modules:
        return None
    return Factors(*adapter.factors(module), adapter.scaling(module))


def modules_of(*adapters: Adapter | None) -> tuple[str, ...]:
    """The modules that any of them adapts, sorted."""
    return tuple(sorted({name for one in adapters if one is not None for name in one.modules}))


def thin_svd(factors: Factors) -> ThinSVD:
    """The singular value decomposition of ΔW, from the QR factors of B and Aᵀ.

    Directions whose singular value is below max(out, in) times the rounding of the factors' dtype
    times the largest, are noise and left out (the tolerance of numpy.linalg.matrix_rank).
    """
    A, B, scaling = factors
    q_out, r_out = np.linalg.qr(B.astype(np.float64))
    q_in, r_in = np.linalg.qr(A.astype(np.float64).T)
    u, s, vt = np.linalg.svd(scaling * r_out @ r_in.T)
    rounding = np.finfo(np.result_type(A, B)).eps * max(len(B), A.shape[1])
    rank = int((s > rounding * s[0]).sum()) if s[0] > 0 else 0
    return ThinSVD(q_out @ u[:, :rank], s[:rank], vt[:rank] @ q_in.T)


def stacked(one: Factors, other: Factors, weight: float = -1.0) -> Factors:
    """Factors of ΔW_one + weight ΔW_other, of rank r_one + r_other."""
    B = np.concatenate([one.B * one.scaling, other.B * (weight * other.scaling)], axis=1)
    return Factors(np.concatenate([one.A, other.A]), B)


def delta_norm(factors: Factors) -> float:
    """The Frobenius norm of ΔW."""
    A, B, scaling = (np.asarray(x, np.float64) for x in factors)
    r_out, r_in = np.linalg.qr(B, mode="r"), np.linalg.qr(A.T, mode="r")
    return float(abs(scaling) * np.linalg.norm(r_out @ r_in.T))


def inner_product(one: Factors, other: Factors) -> float:
    """The sum of the products of all entries of two ΔW: tr((A_other A_oneᵀ)(B_oneᵀ B_other))."""
    a = other.A.astype(np.float64) @ one.A.astype(np.float64).T
    b = one.B.astype(np.float64).T @ other.B.astype(np.float64)
    return float(one.scaling * other.scaling * (b * a.T).sum())


def subspace_overlap(one: np.ndarray, other: np.ndarray) -> float | None:
    """φ = ‖UᵀV‖² / min(i, j) of orthonormal bases (n, i), (n, j): 0 apart, 1 one in the other.

    Hu et al. 2021, Sec. 7.2, Eq. 4. Random subspaces give max(i, j) / n on average. None where one
    of them is empty.
    """
    smaller = min(one.shape[1], other.shape[1])
    return float((np.abs(one.T @ other) ** 2).sum() / smaller) if smaller else None


@dataclass(frozen=True)
class ModuleDiff:
    """How two ΔW of one module differ; a side that leaves the module alone has rank 0 and norm 0.

    ranks, norms: of each side; norms are Frobenius norms. change: the norm of ΔW_b - ΔW_a. cosine:
    of the two ΔW as vectors. reads, writes: φ of the subspaces that they read (rows of ΔW) and
    write (columns); chance: what random subspaces of these ranks would give. None where a side has
    no ΔW.
    """

    module: str
    ranks: tuple[int, int]
    norms: tuple[float, float]
    change: float
    cosine: float | None = None
    reads: float | None = None
    writes: float | None = None
    chance: tuple[float, float] | None = None

    def to_dict(self) -> dict:
        """JSON-ready."""
        return asdict(self)


def compare_deltas(a: Adapter | None, b: Adapter | None) -> list[ModuleDiff]:
    """Every module that a or b adapts, by name; None stands for the base."""
    return [
        compare_factors(name, factors_of(a, name), factors_of(b, name)) for name in modules_of(a, b)
    ]


def compare_factors(module: str, a: Factors | None, b: Factors | None) -> ModuleDiff:
    """One module. Raises ValueError for factors whose ΔW have different shapes."""
    if a is None or b is None:
        ranks = tuple(0 if one is None else len(one.A) for one in (a, b))
        norms = tuple(0.0 if one is None else delta_norm(one) for one in (a, b))
        return ModuleDiff(module, ranks, norms, max(norms))
    shapes = [(len(one.B), one.A.shape[1]) for one in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{module} got ΔW of shape {shapes[0]} and {shapes[1]}, expected equal ones: adapters "
            "of one base"
        )
    norms = (delta_norm(a), delta_norm(b))
    one, other = thin_svd(a), thin_svd(b)
    product = norms[0] * norms[1]
    largest = max(len(one.s), len(other.s))
    return ModuleDiff(
        module,
        (len(a.A), len(b.A)),
        norms,
        0.0 if _same(a, b) else delta_norm(stacked(b, a)),
        inner_product(a, b) / product if product else None,
        subspace_overlap(one.Vt.T, other.Vt.T),
        subspace_overlap(one.U, other.U),
        (largest / shapes[0][1], largest / shapes[0][0]) if min(len(one.s), len(other.s)) else None,
    )


def compare_files(a: str | Path, b: str | Path) -> list[ModuleDiff]:
    """As `compare_deltas`, of the B A in two safetensors files, without scaling, for git.

    The system's null device is a side without modules: git gives it for a file that is not there.
    Raises OSError, or ValueError for another file without such pairs.
    """
    own, others = _pairs_of(a), _pairs_of(b)
    return [
        compare_factors(name, own.get(name), others.get(name))
        for name in sorted(own.keys() | others.keys())
    ]


def _pairs_of(path: str | Path) -> dict[str, Factors]:
    if str(path) in (os.devnull, "/dev/null"):
        return {}
    tensors, _ = read_safetensors(path)
    pairs = pair_names(tensors)
    if any(name.endswith(MAGNITUDE) for name in tensors):
        raise ValueError(
            f"got {path} with {MAGNITUDE} (use_dora), whose ΔW is no product B A; expected plain "
            "LoRA"
        )
    if not pairs:
        raise ValueError(f"got {path} without A and B of any module, expected an adapter's tensors")
    return {module: Factors(tensors[a], tensors[b]) for module, (a, b) in pairs.items()}


def _same(a: Factors, b: Factors) -> bool:
    return (
        a.scaling == b.scaling
        and a.A.shape == b.A.shape
        and bool((a.A == b.A).all() and (a.B == b.B).all())
    )


# -- settings --------------------------------------------------------------------------------------


def settings_of(adapter: Adapter | None) -> dict[str, object]:
    """Config, base and provenance as one flat dict, "training.lr" for a value inside another.

    Without the provenance's evaluation, which is no setting but what came out.
    """
    if adapter is None:
        return {}
    known = {
        **asdict(adapter.config),
        "base": adapter.base_name,
        "fingerprint": adapter.fingerprint,
    }
    origin = {key: value for key, value in adapter.provenance.items() if key != "evaluation"}
    return {**_flat(known), **_flat(origin)}


def settings_differences(
    a: Adapter | None, b: Adapter | None
) -> dict[str, tuple[object | None, object | None]]:
    """Setting -> (of a, of b) where they differ; None where a side does not have it."""
    own, others = settings_of(a), settings_of(b)
    pairs = {key: (own.get(key), others.get(key)) for key in [*own, *(others.keys() - own.keys())]}
    return {key: pairs[key] for key in sorted(pairs) if pairs[key][0] != pairs[key][1]}


def _flat(values: Mapping, before: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


# -- text ------------------------------------------------------------------------------------------


def text_of_tensors(path: str | Path) -> str:
    """A safetensors file as lines of text, for `git diff`: equal files give equal texts.

    Every LoRA pair with its norm and singular values, of B A without the scaling, which is in
    adapter_config.json beside it; any other tensor with its shape and dtype; all with their
    SHA-256, so that no changed bit is missed. Raises OSError, or ValueError for no such file.
    """
    tensors, _ = read_safetensors(path)
    pairs = pair_names(tensors)
    paired = {name for names in pairs.values() for name in names}
    size = sum(array.size for array in tensors.values())
    lines = [f"{len(tensors)} tensors, {size:,} numbers"]
    for module, (a, b) in sorted(pairs.items()):
        factors = Factors(tensors[a], tensors[b])
        s = thin_svd(factors).s
        more = " ..." if len(s) > SHOWN_VALUES else ""
        lines += [
            module,
            f"  A {factors.A.shape} {_digest(factors.A)}",
            f"  B {factors.B.shape} {_digest(factors.B)}",
            f"  BA norm {delta_norm(factors):.4g}, rank {len(s)}, singular values "
            + " ".join(f"{value:.3g}" for value in s[:SHOWN_VALUES])
            + more,
        ]
    for name in sorted(tensors.keys() - paired):
        lines.append(f"{name}\n  {tensors[name].shape} {_digest(tensors[name])}")
    return "\n".join(lines) + "\n"


def _digest(array: np.ndarray) -> str:
    return f"{array.dtype} sha256:{hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
