"""What a stored base costs and saves: `python -m minilora.bench.base_dtypes [WORKLOAD ...]`.

A LoRA step (q and v, r 8) over the base in each dtype, on a workload's random weights and batch.
Each dtype has a process of its own; they take turns, and the median of the turns counts. Peak is
the most that the process held while it trained (a base that is made here is made in float32
first, so that the time before is left out). Tokens are positions, padding included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from statistics import median

import numpy as np

from minilora.backend import recommended_blas_threads
from minilora.bench.turns import Stop, Turns
from minilora.bench.workloads import JOBS, LEARNING_RATE, WORKLOADS, Workload, lora_config
from minilora.lora import attach, lora_layers
from minilora.nn import BASE_DTYPES, Transformer, resident_bytes, store_base
from minilora.training import Batches, TrainingConfig, fit

FOREVER = 10**6
MIB = 1 << 20
HEADINGS = ("base", "held MiB", "peak MiB", "ms a step", "CPU ms", "tokens/s", "first loss")


def adapted_model(workload: Workload, dtype: str) -> tuple[Transformer, int]:
    """The workload's model with its base in `dtype` and B not zero, and the base's bytes."""
    model = store_base(Transformer(workload.config, np.random.default_rng(0)), dtype)
    held = resident_bytes(model)
    rng = np.random.default_rng(1)
    attach(model, lora_config(JOBS["lora-qv"]), rng)
    for layer in lora_layers(model).values():
        b = layer.lora_B.data
        b[...] = rng.standard_normal(b.shape, dtype=np.float32) * np.float32(0.02)
    return model, held


def train_in_turns(workload: Workload, dtype: str, workers: int) -> None:
    """The life of one side: set up, then steps as the parent asks for them."""
    model, held = adapted_model(workload, dtype)
    ids, labels = workload.batch()
    turns = Turns(sys.stdin, sys.stdout)

    def step_done(_: int) -> dict:
        turns.step_done()
        return {}

    config = TrainingConfig(FOREVER, LEARNING_RATE, workers=workers, eval_every=1)
    try:
        turns.begin(lambda: model.loss(ids, labels).item(), {"held": held})
        batches = Batches(workload.examples(), workload.rows, 0)
        fit(model, batches, config, on_eval=step_done, progress=False)
    except Stop:
        pass


class Side:
    """A dtype's process, as its parent sees it."""

    def __init__(self, workload: str, dtype: str, workers: int) -> None:
        module = ["-m", "minilora.bench.base_dtypes", workload]
        command = [sys.executable, *module, "--side", dtype, "--workers", str(workers)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.about = self.read()
        self.turns: list[dict] = []

    def read(self) -> dict:
        """The next answer. Raises ChildProcessError when there is none."""
        line = self.process.stdout.readline()
        if not line:
            raise ChildProcessError(f"a side ended (exit code {self.process.wait()})")
        return json.loads(line)

    def ask(self, message: dict) -> dict:
        """The answer to a message."""
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return self.read()

    def end(self) -> None:
        """End the process by the end of its input."""
        self.process.stdin.close()
        self.process.wait(timeout=30)


def measure(name: str, workers: int, rounds: int, steps: int) -> list[tuple[str, ...]]:
    """Rows of the table for one workload."""
    workload = WORKLOADS[name]
    sides = {dtype: Side(name, dtype, workers) for dtype in BASE_DTYPES}
    for counted in [False] + [True] * rounds:
        for side in sides.values():
            turn = side.ask({"steps": steps})
            if counted:
                side.turns.append(turn)
    rows, tokens = [], workload.rows * workload.time * steps
    for dtype, side in sides.items():
        peak = side.ask({"memory": 1})["peak"]
        side.end()
        seconds, cpu = (median(turn[key] for turn in side.turns) for key in ("seconds", "cpu"))
        held, loss = side.about["held"], f"{side.about['loss']:.4f}"
        times = f"{seconds / steps * 1e3:,.1f}", f"{cpu / steps * 1e3:,.1f}"
        rate = f"{tokens / seconds:,.0f}"
        rows.append((dtype, f"{held / MIB:.1f}", f"{peak / MIB:,.0f}", *times, rate, loss))
    return rows


def main() -> None:
    """Measure and print, or be one of the sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=["W", "R"], choices=list(WORKLOADS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn")
    parser.add_argument("--side", choices=BASE_DTYPES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        train_in_turns(WORKLOADS[given.workloads[0]], given.side, given.workers)
        return
    for name in given.workloads:
        threads = recommended_blas_threads(WORKLOADS[name].config.hidden_size)
        threads = 1 if given.workers > 1 else threads
        rows = measure(name, given.workers, given.rounds, given.steps)
        print(f"{name}: LoRA step, {given.workers} processes, {threads} BLAS threads each")
        for row in [HEADINGS, *rows]:
            print("".join(f"{cell:>12}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
