"""Composing adapters: several of one base in, one adapter and a report of what it cost out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from minilora.limits import require_count, require_finite
from minilora.lora.adapter import Adapter
from minilora.lora.base import BaseMark, config_differences
from minilora.lora.config import LoRAConfig
from minilora.lora.deltas import Factors, delta_norm
from minilora.lora.fitting import BaseMismatchError
from minilora.lora.joining import DENSE, FACTORED, METHODS, Cut, cut, cut_matrix, stack

RECORD = "composition"
"""The key of an adapter's provenance that says what it was composed of."""


@dataclass(frozen=True)
class ModuleReport:
    """What joining did to one module.

    rank: of the result. exact: Frobenius norm of the exact sum of w ΔW. largest: the largest norm
    of a w ΔW in it. difference: norm of result minus exact sum. energy_lost: the share of the
    squared singular values that a lower rank left out of what the method had made.
    """

    module: str
    rank: int
    exact: float
    largest: float
    difference: float
    energy_lost: float

    @property
    def error(self) -> float:
        """difference / exact. Where the parts cancel out, as a share of the largest of them."""
        return _share(self.difference, self.exact, self.largest)


@dataclass(frozen=True)
class Composition:
    """How adapters were joined, and what became of their exact sum, by module and over all."""

    how: str
    names: tuple[str, ...]
    weights: tuple[float, ...]
    modules: tuple[ModuleReport, ...]

    @property
    def error(self) -> float:
        """Norm of (result - exact sum) as a share of the exact sum's, over all modules."""
        norms = (
            math.hypot(*(getattr(one, key) for one in self.modules))
            for key in ("difference", "exact", "largest")
        )
        return _share(*norms)

    def to_dict(self) -> dict:
        """JSON-ready."""
        modules = [{**asdict(one), "error": one.error} for one in self.modules]
        return {
            "how": self.how,
            "names": list(self.names),
            "weights": list(self.weights),
            "error": self.error,
            "modules": modules,
        }


def _share(difference: float, exact: float, largest: float) -> float:
    whole = exact if exact > 1e-6 * largest else largest
    return difference / whole if whole else 0.0


def combine(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    how: str = "cat",
    *,
    names: Sequence[str] | None = None,
    rank: int | None = None,
    density: float = 0.5,
    seed: int = 0,
) -> tuple[Adapter, Composition]:
    """One adapter for sum_i w_i ΔW_i, or for what a method makes of it, and the report.

    Ranks, alphas, targets, rsLoRA and patterns may differ, and weights may be negative (task
    arithmetic, Ilharco et al. 2022). One adapter at weight 1 is itself, whatever the method.

    how: "cat", the exact sum, of the ranks' sum; `take_out` takes a part away again. "svd": the
    nearest of rank `rank`, or of less where the sum has less. "ties", "dare", "knots": see
    `joining`; `rank` (None: the ranks' sum) is that of the result, and `density` the share of
    entries that stay; "dare" draws from `seed`. "linear": adds A's and B's on their own, which is
    no sum of the changes; see `add_factors`.

    Raises BaseMismatchError for adapters of different bases; ValueError for no adapter, weights
    or names that are not one for each, a weight that is not finite, an unknown method, shapes that
    don't go together, and ranks that a method can't take.
    """
    names = _checked_names(adapters, names)
    weights = _checked_weights(names, weights)
    _check_options(how, rank, density, seed)
    base = common_base(adapters, names)
    parts = _parts_by_module(adapters, weights, names)
    if len(adapters) == 1 and weights == (1.0,) and (rank is None or rank >= _largest(adapters[0])):
        modules = (_judged(name, own, own[0]) for name, own in parts.items())
        return adapters[0], Composition(how, names, weights, tuple(modules))
    rng = np.random.default_rng(seed)
    factors, reports = {}, []
    for module, own in parts.items():
        (A, B, _), lost = _joined(module, own, how, rank, density, rng)
        dtype = np.result_type(*(part.A.dtype for part in own))
        factors[module] = A.astype(dtype), B.astype(dtype)
        reports.append(_judged(module, own, Factors(*factors[module]), lost))
    record = {
        "how": how,
        "parts": [
            _part_record(*one, how == "cat") for one in zip(adapters, names, weights, strict=True)
        ],
    }
    if how in ("ties", "dare", "knots"):
        record["density"] = density
    if how == "dare":
        record["seed"] = seed
    report = Composition(how, names, weights, tuple(reports))
    provenance = {RECORD: {**record, "error": report.error}, **_base_dtype(adapters)}
    config = _config(factors, _targets(adapters), _invocation(adapters, names))
    joined = Adapter(config, factors, base=base, provenance=provenance, source=" + ".join(names))
    return joined, report


def take_out(adapter: Adapter, name: str) -> Adapter:
    """A "cat" composition without one of its parts, bit for bit what `combine` makes of the rest.

    Of one part at weight 1 that is the adapter itself, where its scaling is a power of two; any
    other scaling stays in B. Raises ValueError for an adapter that "cat" did not make, a name that
    is none of its parts', or the only part.
    """
    record = adapter.provenance.get(RECORD) or {}
    parts = record.get("parts", [])
    names = [part["name"] for part in parts]
    if record.get("how") != "cat":
        made = f"one of {record['how']!r}" if record else "no composition"
        raise ValueError(
            f"got {adapter.source}, which is {made}; expected one of 'cat', whose blocks are kept"
        )
    if name not in names or len(names) == 1:
        raise ValueError(
            f"got {name!r} to take out, expected one of several parts: {', '.join(names)}"
        )
    factors = {}
    for module in adapter.modules:
        A, B = adapter.factors(module)
        ranks = [(part["name"], part["ranks"].get(module, 0)) for part in parts]
        stays = np.concatenate([np.full(r, own != name) for own, r in ranks])
        if stays.any():
            factors[module] = A[stays], B[:, stays]
    rest = [part for part in parts if part["name"] != name]
    alone = _part_itself(rest[0], factors, adapter) if len(rest) == 1 else None
    if alone is not None:
        return alone
    targets = {target for part in rest for target in part["config"]["target_modules"]}
    left = {key: value for key, value in record.items() if key != "error"}  # that was the whole's
    provenance = {**adapter.provenance, RECORD: {**left, "parts": rest}}
    config = _config(factors, targets, adapter.config.invocation)
    return Adapter(
        config, factors, base=adapter.base, provenance=provenance,
        source=" + ".join(part["name"] for part in rest),
    )  # fmt: skip


def _part_itself(
    part: Mapping, factors: Mapping[str, tuple[np.ndarray, np.ndarray]], whole: Adapter
) -> Adapter | None:
    """The adapter that this part was, known by its fingerprint; None where rounding hides it."""
    config = LoRAConfig(**part["config"])
    if part["weight"] != 1:
        return None
    own = {name: (A, B / config.at(name).scaling) for name, (A, B) in factors.items()}
    adapter = Adapter(
        config, own, base=whole.base, provenance=part["provenance"], source=part["name"]
    )
    return adapter if adapter.fingerprint == part["adapter_fingerprint"] else None


def common_base(adapters: Sequence[Adapter], names: Sequence[str]) -> BaseMark:
    """The base of all, as the adapter knows it that knows most.

    What one adapter says of its base and another does not is not compared. Raises
    BaseMismatchError naming two adapters whose bases differ in weights or in numbers of the config.
    """
    known = BaseMark()
    first = {}
    for adapter, name in zip(adapters, names, strict=True):
        mark = adapter.base
        for key in ("fingerprint", "config"):
            own, other = getattr(mark, key), first.get(key)
            if own is None:
                continue
            if other is None:
                first[key] = name, mark
            elif _differ(key, own, getattr(other[1], key)):
                raise BaseMismatchError(
                    f"{other[0]} was made for base {other[1].name!r} ({key} "
                    f"{getattr(other[1], key)}), {name} for {mark.name!r} ({own}); expected "
                    "adapters of one base"
                )
        if known == BaseMark() or (known.fingerprint is None and mark.fingerprint is not None):
            known = mark
    same = {
        key: getattr(known, key)
        for key in ("tokenizer", "template")
        if all(getattr(x.base, key) in (None, getattr(known, key)) for x in adapters)
    }
    # The mark of the adapted weights alone is of one adapter's modules, not of them all.
    return replace(known, adapted=None, **{"tokenizer": None, "template": None, **same})


def _differ(key: str, own: object, other: object) -> bool:
    return bool(config_differences(own, other)) if key == "config" else own != other


# ------------------------------------------------------------------------------- what is checked


def _checked_names(adapters: Sequence[Adapter], names: Sequence[str] | None) -> tuple[str, ...]:
    if not adapters:
        raise ValueError("got 0 adapters to combine, expected at least 1")
    names = [f"{i + 1}" for i in range(len(adapters))] if names is None else list(names)
    if len(names) != len(adapters):
        raise ValueError(f"got {len(names)} names for {len(adapters)} adapters, expected one each")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"got the name {twice[0]!r} twice, expected a name for each adapter")
    return tuple(names)


def _checked_weights(names: Sequence[str], weights: Sequence[float]) -> tuple[float, ...]:
    if len(weights) != len(names):
        raise ValueError(f"got {len(weights)} weights for {len(names)} adapters, expected one each")
    for name, weight in zip(names, weights, strict=True):
        if not isinstance(weight, (int, float, np.number)) or not math.isfinite(weight):
            raise ValueError(f"got weight {weight!r} for {name}, expected a finite number")
    return tuple(float(weight) for weight in weights)


def _check_options(how: str, rank: int | None, density: float, seed: int) -> None:
    if how not in METHODS:
        raise ValueError(f"got how {how!r}, expected one of {', '.join(METHODS)}")
    if how == "svd" and rank is None:
        raise ValueError("got no rank for 'svd', expected the rank that the result may have")
    if how in ("cat", "linear") and rank is not None:
        raise ValueError(f"got rank {rank} for {how!r}, whose rank is given; expected 'svd' for it")
    if rank is not None:
        require_count("rank", rank, 1)
    require_finite("density", density, above=True)
    if density > 1:
        raise ValueError(f"got density {density}, expected a share above 0 and at most 1")
    require_count("seed", seed, 0)


def _parts_by_module(
    adapters: Sequence[Adapter], weights: Sequence[float], names: Sequence[str]
) -> dict[str, list[Factors]]:
    """Module -> its parts in the adapters' order. Raises ValueError for shapes that differ."""
    parts: dict[str, list[Factors]] = {}
    shapes: dict[str, tuple[tuple[int, int], str]] = {}
    for adapter, weight, name in zip(adapters, weights, names, strict=True):
        for module in adapter.modules:
            A, B = adapter.factors(module)
            shape = B.shape[0], A.shape[1]
            expected, other = shapes.setdefault(module, (shape, name))
            if shape != expected:
                raise ValueError(
                    f"{module}: {name} got shape {shape}, expected {expected} as {other} has it; "
                    "they are of different bases"
                )
            part = Factors(A, B, weight * adapter.scaling(module))
            parts.setdefault(module, []).append(part)
    return dict(sorted(parts.items()))


def _largest(adapter: Adapter) -> int:
    return max(len(adapter.factors(module)[0]) for module in adapter.modules)


# ------------------------------------------------------------------------------------ one module


def _joined(
    module: str,
    parts: Sequence[Factors],
    how: str,
    rank: int | None,
    density: float,
    rng: np.random.Generator,
) -> Cut:
    """What the method makes of a module, with the energy that a lower rank lost."""
    total = sum(len(part.A) for part in parts)
    limit = min(len(parts[0].B), parts[0].A.shape[1])
    if how == "cat" and total > limit:
        raise ValueError(
            f"{module}: got rank {total} as the sum of its parts', expected at most {limit}, its "
            f"smaller side; 'svd' at rank {limit} is exact as well"
        )
    wanted = min(total if rank is None else rank, limit)
    try:
        if how in DENSE:
            return cut_matrix(DENSE[how](parts, density, rng), wanted)
        made = FACTORED[how](parts, density, rng)
    except ValueError as error:
        raise ValueError(f"{module}: {error}") from None
    return cut(made, wanted) if how in ("svd", "knots") else Cut(made, 0.0)


def _judged(
    module: str, parts: Sequence[Factors], made: Factors, lost: float = 0.0
) -> ModuleReport:
    exact = stack(parts)
    return ModuleReport(
        module=module,
        rank=len(made.A),
        exact=delta_norm(exact),
        largest=max(delta_norm(part) for part in parts),
        difference=delta_norm(stack([made, exact._replace(scaling=-1.0)])),
        energy_lost=lost,
    )


# ------------------------------------------------------------------------------------ the result


def _targets(adapters: Sequence[Adapter]) -> set[str]:
    return {target for adapter in adapters for target in adapter.config.target_modules}


def _invocation(adapters: Sequence[Adapter], names: Sequence[str]) -> tuple[int, ...] | None:
    """The invocation that all share. Raises ValueError where two act from different places on."""
    first, *others = adapters
    for name, other in zip(names[1:], others, strict=True):
        if other.config.invocation != first.config.invocation:
            raise ValueError(
                f"got {names[0]!r} with invocation {first.config.invocation} and {name!r} with "
                f"{other.config.invocation}, expected adapters that act from the same place on"
            )
    return first.config.invocation


def _config(
    factors: Mapping[str, tuple[np.ndarray, np.ndarray]],
    targets: set[str],
    invocation: tuple[int, ...] | None,
) -> LoRAConfig:
    """The config of these factors: lora_alpha is r everywhere, so that every scaling is 1."""
    ranks = {module: len(A) for module, (A, _) in factors.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    odd = {module: rank for module, rank in ranks.items() if rank != usual}
    return LoRAConfig(
        usual, usual, sorted(targets), rank_pattern=odd, alpha_pattern=odd, invocation=invocation
    )


def _part_record(adapter: Adapter, name: str, weight: float, blocks: bool) -> dict:
    """What the result says of a part; blocks: its rank in each module, which `take_out` needs."""
    ranks = {module: len(adapter.factors(module)[0]) for module in adapter.modules}
    return {
        "name": name,
        "weight": weight,
        "adapter_fingerprint": adapter.fingerprint,
        "config": asdict(adapter.config),
        **({"ranks": ranks} if blocks else {}),
        "provenance": adapter.provenance,
    }


def _base_dtype(adapters: Sequence[Adapter]) -> dict:
    """How the base is kept, as the parts say; equal numbers of it are known by the fingerprint."""
    said = [adapter.provenance.get("base_dtype") for adapter in adapters]
    known = next((dtype for dtype in said if dtype is not None), None)
    return {} if known is None else {"base_dtype": known}
