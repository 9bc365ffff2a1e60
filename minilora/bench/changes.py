"""Is the change of low rank, or its effect? `python -m minilora.bench.changes`.

LoRA at several ranks and full training of the same maps, each with several seeds, on the ward's
notes: the spectra of their changes, what ranks and seeds share, amplification and intruder
directions. The full trainings are then cut to their first directions, module by module, and asked
again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minilora.analysis.spectra import Overlap, Spectrum
from minilora.hub import save_pretrained
from minilora.hub.bases import WARD, open_base
from minilora.lora import Adapter, attach
from minilora.nn import Transformer
from minilora.processes import recommended_workers
from minilora.runs import AdaptPlan, defaults, run
from minilora.runs.data import read_file
from minilora.runs.spectrum import SpectrumPlan, changes_of, find_spectra, linear_weights
from minilora.storage import atomic_write
from minilora.text import Tokenizer
from minilora.text.answers import answers
from minilora.training import Batches, TrainingConfig, evaluate, fit
from minilora.ward import house_examples, score_house

RANKS, SEEDS = (2, 8, 32), (0, 1, 2)
RATES = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
"""Of the full training; the one with the lowest loss on TUNED rows counts, of the first seed."""
PAIRS = (("r2", "r32"), ("r8", "r32"), ("r8", "full"))
"""Of arms that are compared, each with its first seed."""
CUTS = (1, 2, 4, 8, 16, 32)
TARGETS = ("q_proj", "v_proj")
WARD_NAME, TUNED, FRESH, FRESH_SEED = "cardiology", 100, 150, 4711


def trained_fully(
    train: Path, held: Path, rate: float, steps: int, batch_size: int, seed: int
) -> tuple[Transformer, Tokenizer, float]:
    """The base with every number of TARGETS trained; its loss on the first TUNED held-out rows."""
    model, tokenizer = open_base(WARD)
    length = model.config.max_position_embeddings
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.split(".")[-2] in TARGETS
    config = TrainingConfig(steps=steps, lr=rate, warmup=min(20, steps // 10), seed=seed, workers=1)
    examples = read_file(train, tokenizer, length).examples
    fit(model, Batches(examples, batch_size, seed, tokenizer.pad_id), config, progress=False)
    rows = read_file(held, tokenizer, length).examples[:TUNED]
    return model, tokenizer, evaluate(model, rows, pad_id=tokenizer.pad_id)


def exact(model: Transformer, tokenizer: Tokenizer) -> float:
    """Share of exact summaries of notes that no file has."""
    notes = house_examples(WARD_NAME, "heldout", FRESH, FRESH_SEED)
    asked = [note.prompt for note in notes]
    outputs = answers(model, tokenizer, asked, workers=recommended_workers())
    return score_house(WARD_NAME, notes, outputs).exact


def cut_scores(folder: Path, cuts: Sequence[int]) -> dict[str, dict]:
    """Directions -> exact share, and the share of ‖ΔW‖² that is left, of changes cut to them."""
    model, tokenizer = open_base(WARD)
    weights = linear_weights(model)
    changes = changes_of(folder, model, weights)
    found = {}
    for k in cuts:
        kept = total = 0.0
        for name, (U, s, Vt) in changes.items():
            total += float((s**2).sum())
            kept += float((s[:k] ** 2).sum())
            new = weights[name] + (U[:, :k] * s[:k]) @ Vt[:k]
            model.get_submodule(name).weight.data = new.astype(weights[name].dtype)
        found[str(k)] = {"exact": exact(model, tokenizer), "energy": kept / total}
    return found


def summary(spectra: Sequence[Spectrum]) -> dict:
    """Medians over the modules, with the smallest and the largest."""

    def told(values: Sequence[float]) -> list[float]:
        return [round(float(x), 4) for x in (np.median(values), min(values), max(values))]

    return {
        "norm": told([one.norm for one in spectra]),
        "rank": told([len(one.s) for one in spectra]),
        "energy_rank": told([one.energy for one in spectra]),
        "effective": told([one.effective for one in spectra]),
        "stable": told([one.stable for one in spectra]),
        "amplified": told([one.amplified.factor for one in spectra]),
        "amplified_by_chance": told([one.amplified.chance_factor for one in spectra]),
        "onto_against_chance": told(
            [one.amplified.onto / one.amplified.onto_chance for one in spectra]
        ),
        "intruders": sum(one.intruders for one in spectra),
        "intruders_by_chance": sum(one.intruders_chance for one in spectra),
    }


def shared(overlaps: Sequence[Overlap]) -> dict:
    """φ(1, 1) and φ of the whole, on both sides of ΔW: the mean over modules, beside chance."""
    told: Mapping = {}
    for side in ("reads", "writes"):
        grids = [getattr(one, side) for one in overlaps]
        chances = [getattr(one, f"chance_{side}") for one in overlaps]
        told = {
            **told,
            f"{side}_first": [float(np.mean([g[0, 0] for g in x])) for x in (grids, chances)],
            f"{side}_whole": [float(np.mean([g[-1, -1] for g in x])) for x in (grids, chances)],
        }
    return dict(told)


def measure(ward: Path, work: Path, rows: int) -> dict:
    """All of it, JSON-ready. What `work` has already is not trained again."""
    held = ward / f"{WARD_NAME}.eval.jsonl"
    lines = (ward / f"{WARD_NAME}.train.jsonl").read_text("utf-8").splitlines(keepends=True)
    train = work / "train.jsonl"
    atomic_write(train, "".join(lines[:rows]).encode())
    batch_size = defaults.BATCH
    steps = defaults.PASSES * -(-rows // batch_size)
    told: dict = {"rows": rows, "steps": steps, "arms": {}, "shared": {}}
    for seed in SEEDS:
        for r in RANKS:
            out = work / f"r{r}s{seed}"
            if not out.exists():
                run(AdaptPlan(data=train, eval_data=held, out=out, r=r, lora_alpha=2 * r,
                              target_modules=TARGETS, seed=seed, steps=steps,
                              batch_size=batch_size, workers=1, gate=False))  # fmt: skip
            model, tokenizer = open_base(WARD)
            attach(model, Adapter.read(out))
            told["arms"][out.name] = {"exact": exact(model, tokenizer)}
    losses = work / "losses.json"
    if not losses.exists():
        tried = {
            str(rate): trained_fully(train, held, rate, steps, batch_size, SEEDS[0])[2]
            for rate in RATES
        }
        atomic_write(losses, json.dumps(tried).encode())
    told["losses"] = json.loads(losses.read_text())
    rate = float(min(told["losses"], key=told["losses"].get))
    for seed in SEEDS:
        out = work / f"fulls{seed}"
        if not out.exists():
            model, tokenizer, _ = trained_fully(train, held, rate, steps, batch_size, seed)
            save_pretrained(out, model, tokenizer, "# ward-base, q and v trained fully\n")
        model, tokenizer = open_base(str(out))
        told["arms"][out.name] = {"exact": exact(model, tokenizer)}
    for name, arm in told["arms"].items():
        arm |= summary(find_spectra(SpectrumPlan(a=work / name, base=WARD)).spectra)
    first, second = SEEDS[:2]
    seeds = [(f"{arm}s{first}", f"{arm}s{second}") for arm in ("r2", "r8", "r32", "full")]
    arms = [(f"{a}s{first}", f"{b}s{first}") for a, b in PAIRS]
    for a, b in (*seeds, *arms):
        plan = SpectrumPlan(a=work / a, b=work / b, base=WARD, most=32)
        told["shared"][f"{a} {b}"] = shared(find_spectra(plan).overlaps)
    told["full_cut_to"] = {str(seed): cut_scores(work / f"fulls{seed}", CUTS) for seed in SEEDS}
    return told


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ward", type=Path, default=Path("data/ward"))
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--work", type=Path, required=True, help="what is trained goes here")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args()
    text = json.dumps(measure(options.ward, options.work, options.rows), indent=1) + "\n"
    atomic_write(options.out, text.encode())
    print(text)


if __name__ == "__main__":
    main()
