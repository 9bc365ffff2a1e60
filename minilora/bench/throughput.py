"""Tokens a second of a bank's engine: `python -m minilora.bench.throughput [BASE]`.

Requests of several adapters, answered one after another, in one batch by `generate`, and by the
engine with different numbers of rows. Every answer is compared with the one that the request got
alone. Rates are by wall time and by processor time, of one BLAS thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np

from minilora.backend import blas_threads
from minilora.bench.bank_memory import adapters_for
from minilora.hub.bases import WARD, open_base
from minilora.lora import mark_base
from minilora.nn import generate
from minilora.serving import BASE, AdapterBank, Engine, Request

NEW_TOKENS, SHORTEST, LONGEST = 48, 40, 160


def requests_for(vocab: int, count: int, adapters: int) -> list[Request]:
    """Random prompts of 40 to 160 tokens, for the adapters in turn."""
    rng = np.random.default_rng(0)
    return [
        Request(
            rng.integers(0, vocab, int(rng.integers(SHORTEST, LONGEST + 1))).tolist(),
            str(i % adapters),
            NEW_TOKENS,
        )
        for i in range(count)
    ]


def one_by_one(bank: AdapterBank, asked: Sequence[Request]) -> list[list[int]]:
    """Each answer alone, after a swap."""
    answers = []
    for one in asked:
        bank.use(one.adapter)
        answers += generate(bank.model, [one.prompt], one.max_new_tokens)
    bank.use(BASE)
    return answers


def in_a_batch(bank: AdapterBank, asked: Sequence[Request]) -> list[list[int]]:
    """All of them in one batch, padded to the longest."""
    with bank.rows([one.adapter for one in asked]):
        return generate(bank.model, [one.prompt for one in asked], NEW_TOKENS)


def by_engine(bank: AdapterBank, asked: Sequence[Request], rows: int) -> list[list[int]]:
    """By an engine of so many rows."""
    engine = Engine(bank, rows)
    numbers = [engine.submit(one) for one in asked]
    answers = engine.run()
    return [answers[number] for number in numbers]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", nargs="?", default=WARD)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()
    model, _ = open_base(options.base)
    base = mark_base(model)
    bank = AdapterBank(model.eval(), base=base)
    for i, adapter in enumerate(adapters_for(model, base, options.adapters)):
        bank.add(str(i), adapter)
    asked = requests_for(model.config.vocab_size, options.requests, options.adapters)
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "one after another": lambda: one_by_one(bank, asked),
        "one batch": lambda: in_a_batch(bank, asked),
        **{f"engine, {n} rows": lambda n=n: by_engine(bank, asked, n) for n in options.rows},
    }
    print(
        f"{options.base}: {len(asked)} requests of {options.adapters} adapters, {NEW_TOKENS} each"
    )
    alone = None
    with blas_threads(1):
        for name, run in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            answers = run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            alone = answers if alone is None else alone
            same = sum(a == b for a, b in zip(answers, alone, strict=True))
            tokens = sum(map(len, answers))
            print(
                f"{name:>20}: {tokens / wall:7,.0f} tokens/s, {tokens / cpu:7,.0f} by processor "
                f"time, {same} of {len(asked)} as alone",
                flush=True,
            )


if __name__ == "__main__":
    main()
