"""One prompt, N activated adapters: `python -m minilora.bench.one_reading [BASE ...]`.

The base reads the prompt once and each adapter answers from that reading, against N answers that
each read for themselves. Both give the same tokens. The wanted time is that of one reading and N
answers. Processor time of one BLAS thread, which holds on a busy machine too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from minilora.backend import blas_threads, keep_freed_memory
from minilora.bench.about import about
from minilora.bench.bank_memory import adapters_for
from minilora.bench.records import write_records
from minilora.hub.bases import WARD, open_base
from minilora.lora import Adapter, mark_base
from minilora.lora.exchange import wearing
from minilora.nn import generate
from minilora.nn.generate import read_ahead, shared_columns
from minilora.text.answers import prompt_ids
from minilora.text.examples import opening_ids
from minilora.ward import house_examples

COUNTS = (1, 2, 6)
NEW_TOKENS = 48
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Processor seconds of some work, and what it gave."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def measure(name: str, rounds: int) -> dict:
    """The record of one base: for each number of adapters, medians over rounds.

    Raises RuntimeError for an answer from the shared reading that is not the one of its own.
    """
    model, tokenizer = open_base(name)
    mark = mark_base(model, name)
    invocation = opening_ids(tokenizer)
    (note,) = house_examples("cardiology", "heldout", 1, seed=5)
    prompt = [prompt_ids(tokenizer, note.prompt)]
    columns = shared_columns(prompt, [invocation])
    adapters = [
        Adapter(
            replace(one.config, invocation=invocation),
            {module: one.factors(module) for module in one.modules},
            base=mark,
        )
        for one in adapters_for(model, mark, max(COUNTS))
    ]

    def answer(adapter: Adapter, reading=None) -> list[list[int]]:
        with wearing(model, adapter, mark):
            return generate(model, prompt, NEW_TOKENS, reading=reading)

    def together(count: int) -> list:
        reading = read_ahead(model, prompt, columns)
        return [answer(adapter, reading) for adapter in adapters[:count]]

    def apart(count: int) -> list:
        return [answer(adapter) for adapter in adapters[:count]]

    lines = []
    keep_freed_memory()
    with blas_threads(1):
        together(1)  # the first is to warm up
        for count in COUNTS:
            found = []
            for _ in tqdm(range(rounds), f"{name}, {count}", leave=False):
                one_reading, texts = timed(lambda count=count: together(count))
                each_reads, expected = timed(lambda count=count: apart(count))
                if texts != expected:
                    raise RuntimeError(f"{name}: an answer from the shared reading is another one")
                reading, kept = timed(lambda: read_ahead(model, prompt, columns))
                answers, _ = timed(
                    lambda count=count, kept=kept: [answer(a, kept) for a in adapters[:count]]
                )
                found.append((one_reading, each_reads, reading + answers))
            lines.append(_line(count, found))
    return {
        "kind": "one reading", "base": name, "prompt": len(prompt[0]), "read": columns,
        "new": NEW_TOKENS, "answers": lines,
    }  # fmt: skip


def _line(count: int, found: list[tuple[float, float, float]]) -> dict:
    one, each, wanted = np.array(found).T
    return {
        "adapters": count,
        "one reading": round(statistics.median(one.tolist()), 4),
        "each reads": round(statistics.median(each.tolist()), 4),
        "one reading / (reading + answers)": round(statistics.median((one / wanted).tolist()), 3),
        "each reads / one reading": round(statistics.median((each / one).tolist()), 3),
    }


def show(record: dict) -> None:
    """Print a record."""
    print(f"{record['base']}: a prompt of {record['prompt']} tokens, answers of {record['new']}")
    for line in record["answers"]:
        print("  " + ", ".join(f"{key} {value}" for key, value in line.items()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bases", nargs="*", default=[WARD])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the records to this file")
    options = parser.parse_args()
    records = []
    for name in options.bases:
        records.append(measure(name, options.rounds))
        show(records[-1])
    if options.json is not None:
        bases = " ".join(options.bases)
        command = f"python -m minilora.bench.one_reading {bases} --rounds {options.rounds}"
        write_records(options.json, command, about(False, [], "both"), records)


if __name__ == "__main__":
    main()
