"""What a stored base costs and saves: `python -m minilora.bench.base_dtypes [WORKLOAD ...]`.

With `--quality` not in time and memory but in loss and right answers (`base_quality.py`).

A race of LoRA steps (q and v, r 8) over the base in each dtype. Peak is the most that a side's
processes held while they trained; what it took to store the base, which is made in float32 first,
is left out. Tokens are positions, padding included.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minilora.bench.base_quality import measure_quality, table
from minilora.bench.race import race
from minilora.bench.workloads import JOBS, WORKLOADS, Workload
from minilora.nn import BASE_DTYPES

JOB = JOBS["lora-qv"]
MIB = 1 << 20
HEADINGS = ("base", "held MiB", "peak MiB", "ms a step", "CPU ms", "tokens/s", "first loss")


def measure(workload: Workload, workers: int, rounds: int, seconds: float) -> list[tuple[str, ...]]:
    """Rows of the table for one workload, medians of the undisturbed turns."""
    kinds = {dtype: "minilora" if dtype == "float32" else dtype for dtype in BASE_DTYPES}
    sides = [(kind, workers) for kind in kinds.values()]
    result = race(workload, JOB, sides, pairs=rounds, starts=1, seconds=seconds)
    rows = []
    for dtype, kind in kinds.items():
        name = f"{kind}@{workers}"
        about, wall = result.about[name], result.seconds(name)
        rows.append(
            (
                dtype,
                f"{about['held'] / MIB:.1f}",
                f"{result.peak(name)['peak'] / MIB:,.0f}",
                f"{wall * 1e3:,.1f}",
                f"{result.seconds(name, 'cpu') * 1e3:,.1f}",
                f"{JOB.tokens(workload) / wall:,.0f}",
                f"{about['loss']:.4f}",
            )
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "workloads", nargs="*", choices=[[], *WORKLOADS], metavar="WORKLOAD", help="default: W R"
    )  # where none is given, argparse asks whether [] is a choice
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--quality", action="store_true", help="measure loss and answers instead")
    parser.add_argument("--out", type=Path, default=Path("quality.json"))
    parser.add_argument("--cells", type=Path, default=Path("quality.cells"))
    parser.add_argument("--dtypes", nargs="+", default=list(BASE_DTYPES), choices=BASE_DTYPES)
    parser.add_argument("--no-smollm2", action="store_true", help="ward-base alone")
    options = parser.parse_args()
    if options.quality:
        arms = measure_quality(options.out, options.cells, options.dtypes, not options.no_smollm2)
        print("\n".join(table(arms)))
        return
    for name in options.workloads or ("W", "R"):
        rows = measure(WORKLOADS[name], options.workers, options.rounds, options.seconds)
        print(f"{name}: LoRA step, {options.workers} processes of one BLAS thread each")
        for row in [HEADINGS, *rows]:
            print("".join(f"{cell:>12}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
