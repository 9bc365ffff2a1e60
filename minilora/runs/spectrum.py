"""The spectra of an adapter, or of a model that was trained further, and what two of them share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minilora.analysis.spectra import (
    THRESHOLD,
    TOP,
    Overlap,
    Spectrum,
    adapter_changes,
    checkpoint_changes,
    overlap,
    spectrum,
)
from minilora.autograd.products import dense
from minilora.backend import to_numpy
from minilora.hub import load_pretrained
from minilora.hub.bases import WARD, base_dtype_of, base_of, open_base
from minilora.limits import require_count
from minilora.lora import Adapter, attach
from minilora.lora.deltas import ThinSVD
from minilora.lora.peft_format import CONFIG
from minilora.nn import Linear, Transformer
from minilora.runs.plan import Reporter, paths_from_texts
from minilora.runs.plots import plot_overlaps, plot_spectra
from minilora.storage import atomic_write, require_place


@dataclass(frozen=True, kw_only=True)
class SpectrumPlan:
    """What is looked at.

    a, b: folders of an adapter, or of a model of the base's shape (trained further, or merged); b
    None for a alone. base: None for the one that an adapter names. r: how many directions
    amplification is taken of. top, threshold: of intruders. seed: of the random control. most: how
    many directions the overlaps have at most. plot_file, json_file: where these are written.
    """

    a: Path
    b: Path | None = None
    base: str | None = None
    r: int = 4
    top: int = TOP
    threshold: float = THRESHOLD
    seed: int = 0
    most: int = 64
    plot_file: Path | None = None
    json_file: Path | None = None

    def __post_init__(self) -> None:
        paths_from_texts(self)
        for name in ("r", "top", "most"):
            require_count(name, getattr(self, name), 1)
        if not 0 < self.threshold <= 1:
            raise ValueError(f"got threshold {self.threshold}, expected a cosine from 0 to 1")
        require_count("seed", self.seed, 0)
        require_place("--plot", self.plot_file)
        require_place("--json", self.json_file)


@dataclass(frozen=True)
class Found:
    """What came out: a spectrum for each module of a, and overlaps with b where there is one."""

    plan: SpectrumPlan
    base: str
    spectra: Sequence[Spectrum]
    overlaps: Sequence[Overlap]

    def to_dict(self) -> dict:
        """JSON-ready."""
        return {
            "a": str(self.plan.a),
            "b": None if self.plan.b is None else str(self.plan.b),
            "base": self.base,
            "spectra": [one.to_dict() for one in self.spectra],
            "overlaps": [one.to_dict() for one in self.overlaps],
        }


def find_spectra(plan: SpectrumPlan, reporter: Reporter | None = None) -> Found:
    """Spectra of a's modules, and its overlaps with b.

    Raises ValueError for folders that are neither, of another base or shape, or that changed no
    module, or none that both have, and for a model beside an adapter of a rounded base; OSError.
    """
    reporter = reporter or Reporter()
    adapters = [x for x in (plan.a, plan.b) if x is not None and (x / CONFIG).exists()]
    first = adapters[0] if adapters else None
    name = base_of(plan.base, first) if adapters else plan.base or WARD
    dtype = base_dtype_of(first)
    models = [x for x in (plan.a, plan.b) if x is not None and x not in adapters]
    if dtype != "float32" and models:
        raise ValueError(
            f"got {models[0]} beside {first}, whose base is in {dtype}: what a model differs in "
            f"from that would be its rounding too; expected two adapters, or a base in float32"
        )
    model, _ = open_base(name, dtype)
    weights = linear_weights(model)
    changes = changes_of(plan.a, model, weights)
    if not changes:
        raise ValueError(f"{plan.a} changes no linear layer of {name}, expected one at least")
    rng, spectra = np.random.default_rng(plan.seed), []
    for module, change in tqdm(
        changes.items(), "spectra", unit="module", disable=not reporter.bars
    ):
        spectra.append(
            spectrum(module, weights[module], change, rng, plan.r, plan.top, plan.threshold)
        )
    overlaps = []
    if plan.b is not None:
        others = changes_of(plan.b, model, weights)
        shared = [module for module in changes if module in others]
        if not shared:
            raise ValueError(f"{plan.a} and {plan.b} change no module both, expected one at least")
        overlaps = [overlap(one, changes[one], others[one], plan.most) for one in shared]
    found = Found(plan, name, spectra, overlaps)
    if plan.plot_file is not None:
        if overlaps:
            plot_overlaps(plan.plot_file, overlaps, (plan.a.name, plan.b.name))
        else:
            plot_spectra(plan.plot_file, spectra)
    if plan.json_file is not None:
        atomic_write(plan.json_file, (json.dumps(found.to_dict()) + "\n").encode())
    return found


def linear_weights(model: Transformer) -> dict[str, np.ndarray]:
    """Module -> W (out, in) of every Linear, as host arrays of plain numbers."""
    return {
        name: to_numpy(dense(module.weight.data))
        for name, module in model.named_modules()
        if isinstance(module, Linear)
    }


def changes_of(
    folder: Path, model: Transformer, weights: Mapping[str, np.ndarray]
) -> dict[str, ThinSVD]:
    """Module -> what an adapter, or a model of the same shape, changes; in the model's order."""
    if (folder / CONFIG).exists():
        adapter = Adapter.read(folder)
        attach(model, adapter).detach()  # whether this is its base
        found = adapter_changes(adapter)
    elif (folder / "config.json").exists():
        other, _ = load_pretrained(folder)
        found = checkpoint_changes(weights, linear_weights(other))
    else:
        raise ValueError(f"got {folder}, expected the folder of an adapter or of a model")
    return {name: found[name] for name in weights if name in found and len(found[name].s)}
