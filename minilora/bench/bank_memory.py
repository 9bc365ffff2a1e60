"""What adapters of one base take and how fast they swap: `python -m minilora.bench.bank_memory`.

Memory of 1, 10, 100 and 1,000 adapters in a bank against as many copies of the model with an
adapter merged into each. Bytes are those of the live arrays, each once; copies beyond MOST_BYTES
are computed, and said to be.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minilora.backend import Array
from minilora.bench.about import about
from minilora.bench.records import write_records
from minilora.hub.bases import WARD, open_base
from minilora.lora import Adapter, BaseMark, LoRAConfig, attach, mark_base
from minilora.lora.targets import select_linears
from minilora.nn import Transformer
from minilora.serving import AdapterBank

COUNTS = (1, 10, 100, 1000)
CONFIG = LoRAConfig(r=8, lora_alpha=16)
MOST_BYTES = 2 << 30
SWAPS = 200
MIB = 1 << 20


def adapters_for(model: Transformer, base: BaseMark, count: int) -> Iterator[Adapter]:
    """Different adapters on q and v, r 8."""
    linears = select_linears(model, CONFIG.target_modules)
    for seed in range(count):
        rng, factors = np.random.default_rng(seed), {}
        for name, linear in linears.items():
            shapes = ((CONFIG.r, linear.in_features), (linear.out_features, CONFIG.r))
            factors[name] = tuple(0.02 * rng.standard_normal(s, dtype=np.float32) for s in shapes)
        yield Adapter(CONFIG, factors, base=base)


def live_bytes(arrays: Iterable[Array]) -> int:
    """Bytes of the arrays, each once."""
    return sum({id(array): array.nbytes for array in arrays}.values())


def of_a_bank(model: Transformer, base: BaseMark, count: int) -> dict:
    """Live bytes of one base and `count` adapters."""
    bank = AdapterBank(model, base=base)
    try:
        for number, adapter in enumerate(tqdm(
            adapters_for(model, base, count), "adapters", count, leave=False
        )):  # fmt: skip
            bank.add(str(number), adapter)
        held = [p.data for p in model.parameters()]
        held += [a for n in bank.names for m in bank.adapter(n).modules
                 for a in bank.adapter(n).factors(m)]  # fmt: skip
        return {"bytes": live_bytes(held)}
    finally:
        bank.close()


def of_copies(model: Transformer, base: BaseMark, count: int) -> dict:
    """Live bytes of `count` models, each with an adapter merged into it; computed where large."""
    one = live_bytes(p.data for p in model.parameters())
    if count * one > MOST_BYTES:
        return {"bytes": count * one, "computed": True}
    copies = []
    for adapter in tqdm(adapters_for(model, base, count), "copies", count, leave=False):
        attachment = attach(copy.deepcopy(model), adapter, base=base)
        copies.append(attachment.merge_and_unload())
    held = live_bytes(p.data for own in copies for p in own.parameters())
    return {"bytes": held, "computed": False}


def _median(swap: Callable[[int], object], count: int) -> float:
    """Median seconds of `swap(i)`, i from 0."""
    times = []
    for i in range(count):
        began = time.perf_counter()
        swap(i)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def swaps(model: Transformer, base: BaseMark, folder: Path) -> dict[str, float]:
    """Seconds of a swap: in memory, from a folder, and by detach and attach in its place."""
    ten = list(adapters_for(model, base, 10))
    bank = AdapterBank(model, base=base)
    for number, adapter in enumerate(ten):
        bank.add(str(number), adapter)
    seconds = {"in memory": _median(lambda i: bank.use(str(i % 10)), SWAPS)}
    bank.close()
    bank = AdapterBank(model, base=base, most_resident=2)
    for number, adapter in enumerate(ten):
        bank.add(str(number), adapter.write(folder / str(number)))
    seconds["from its folder"] = _median(lambda i: bank.use(str(i % 10)), SWAPS // 4)
    bank.close()

    def by_hand(i: int) -> None:
        attach(model, ten[i % 10], base=base).detach()

    seconds["attach and detach"] = _median(by_hand, SWAPS // 10)
    return seconds


def measure(name: str) -> dict:
    """The record of one base."""
    model, _ = open_base(name)
    base = mark_base(model, name)
    memory = [
        {"adapters": count, "bank": of_a_bank(model, base, count),
         "copies": of_copies(model, base, count)}
        for count in COUNTS
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        return {
            "kind": "bank memory", "base": name, "r": CONFIG.r,
            "targets": list(CONFIG.target_modules), "memory": memory,
            "swap seconds": swaps(model, base, Path(folder)),
        }  # fmt: skip


def show(record: dict) -> None:
    """Print a record."""
    print(f"{record['base']}: adapters of r {record['r']} on {', '.join(record['targets'])}")
    print(f"{'adapters':>10}{'bank MiB':>12}{'copies MiB':>14}{'times':>8}")
    for line in record["memory"]:
        bank, copies = line["bank"], line["copies"]
        print(
            f"{line['adapters']:>10,}{bank['bytes'] / MIB:>12,.1f}"
            f"{copies['bytes'] / MIB:>14,.1f}{copies['bytes'] / bank['bytes']:>8,.1f}"
            f"{' (copies computed)' if copies['computed'] else ''}"
        )
    for how, seconds in record["swap seconds"].items():
        print(f"swap, {how}: {seconds * 1e3:.3f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bases", nargs="*", default=[WARD])
    parser.add_argument("--json", type=Path, help="write the records to this file")
    options = parser.parse_args()
    records = []
    for name in options.bases:
        records.append(measure(name))
        show(records[-1])
    if options.json is not None:
        command = f"python -m minilora.bench.bank_memory {' '.join(options.bases)}"
        write_records(options.json, command, about(False, [], "both"), records)


if __name__ == "__main__":
    main()
