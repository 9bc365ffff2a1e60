"""What an activated step saves: `python -m minilora.bench.activated_steps [WORKLOAD ...]`.

The processor time of one worker's share of a LoRA step (q and v, r 8; two workers, one BLAS thread
each), which holds on a busy machine too: plain, activated with its prompts read in the step, and
with prompts that were read in a step before. `minilora bench --job lora-qv` races whole steps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from minilora.backend import blas_threads, keep_freed_memory
from minilora.bench import workloads as w
from minilora.machine import cpu_name
from minilora.nn import Transformer
from minilora.training import Batches
from minilora.training.parallel import Piece, accumulate_gradients
from minilora.training.prompts import (
    KeptPrompts,
    answer_spans,
    cut_pieces_a_worker,
    split_at_invocation,
)
from minilora.training.step import pieces_a_worker, split_batch

WORKERS = 2


def measure(workload: w.Workload, rounds: int) -> dict[str, list[float]]:
    """Kind of step -> processor seconds of a worker's share, one number a round."""
    job, count = w.JOBS["lora-qv"], workload.rows
    with tempfile.TemporaryDirectory() as folder:
        w.write_weights(workload, job, Path(folder))
        plain, activated = (
            w.load_model(workload, job, folder, activated=begins).train()
            for begins in (False, True)
        )
    whole = Batches(workload.examples(), count, seed=0).batch(0)
    batches = Batches(workload.examples(w.INVOCATION), count, seed=0)
    cut, normalizer = batches.batch(0), float(whole.tokens)
    spans = answer_spans(cut, w.INVOCATION)
    pieces = split_batch(whole, WORKERS * pieces_a_worker(whole.ids.size, WORKERS), (0,))
    parts = split_at_invocation(cut, WORKERS * cut_pieces_a_worker(spans, WORKERS), (0,), spans)
    kept = KeptPrompts(activated, batches, range(count), w.INVOCATION)
    kinds = {
        "plain": (plain, pieces, {}),
        "activated": (activated, parts, {}),
        "activated, prompts kept": (activated, parts, {"read": kept.read}),
    }

    def share(model: Transformer, all_pieces: list[Piece], how: dict) -> float:
        own = all_pieces[: len(all_pieces) // WORKERS]
        model.zero_grad()
        began = time.process_time()
        accumulate_gradients(model, own, normalizer, **how)
        return time.process_time() - began

    keep_freed_memory()
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    with blas_threads(1):
        for _ in range(rounds + 1):
            for kind, what in kinds.items():
                seconds[kind].append(share(*what))
    return {kind: times[1:] for kind, times in seconds.items()}  # the first was to warm up


def summary(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Kind -> median seconds, and the median, least and largest of plain / kind within rounds."""
    plain = np.array(seconds["plain"])
    found = {}
    for kind, times in seconds.items():
        ratios = plain / np.array(times)
        found[kind] = {
            "seconds": round(float(np.median(times)), 4),
            "plain / this": round(float(np.median(ratios)), 3),
            "least": round(float(ratios.min()), 3),
            "largest": round(float(ratios.max()), 3),
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "workloads", nargs="*", choices=[[], *w.WORKLOADS], metavar="WORKLOAD", help="default: W R"
    )  # where none is given, argparse asks whether [] is a choice
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    for name in options.workloads or ("W", "R"):
        results[name] = summary(measure(w.WORKLOADS[name], options.rounds))
        for kind, row in results[name].items():
            print(name, f"{kind:>24}", *(f"{key} {value:.3f}" for key, value in row.items()))
    if options.json is not None:
        about = {"cpu": cpu_name(), "numpy": np.__version__, "rounds": options.rounds}
        options.json.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
