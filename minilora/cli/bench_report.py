"""What `minilora bench` prints and writes."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from tqdm import tqdm

from minilora import __version__, backend
from minilora.bench.load import FOREIGN
from minilora.bench.op_times import Profile
from minilora.bench.race import OTHER_LOSS, Result
from minilora.bench.workloads import Job, Workload
from minilora.cli import show as shown

KINDS = (
    "minilora", "torch", "torch-labelled", "transformers", "textbook", "matmul", "full",
)  # fmt: skip
UNDER = ("matmul", "full")  # ours over theirs; of all others it is theirs over ours
LOGITS = {
    "all": "at all positions, as transformers' own loss makes them",
    "labelled": "at labelled positions only, as minilora's loss makes them",
    "both": "at all positions (torch) and at labelled ones only (torch-labelled, where fewer)",
}


def cpu_name() -> str:
    """The processor, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def about(with_torch: bool, missing: Sequence[str], torch_logits: str) -> dict[str, str]:
    """Machine, libraries and the terms of the comparison."""
    blas = [
        f"{b['internal_api']} {b['version']}, kernel {b.get('architecture', '?')}"
        for b in backend.blas_libraries()
    ]
    peer = "in processes of its own; versions beside the results"
    if missing:
        peer = f"left out: {', '.join(missing)} not installed (the interop extra)"
    elif not with_torch:
        peer = "left out by --no-torch"
    return {
        "minilora": f"{__version__}, Python {platform.python_version()}, NumPy {np.__version__}",
        "BLAS": "; ".join(blas) or "unknown",
        "CPU": f"{cpu_name()}, {backend.physical_cores()} cores usable, {os.cpu_count()} logical",
        "dtype": "float32",
        "cores": "training: n workers with one BLAS thread each; else n BLAS threads; torch: n "
        "threads",
        "torch": peer,
        "torch runs": "eager transformers LlamaForCausalLM under PEFT, its AdamW's defaults, the "
        "faster of sdpa and eager attention, denormals flushed; generation: a bare loop with a "
        "cache made once (torch), or the model with DynamicCache (transformers)",
        "torch's logits": LOGITS[torch_logits],
        "spoilt": f"turns with more than {FOREIGN:.0%} of a core used by other processes; their "
        "pairs are dropped, and more are run (up to three times as many)",
        "memory +": "most above the loaded model, of all processes of a side (steps: with AdamW's "
        "moments)",
    }


@contextmanager
def progress(title: str, done: int, cells: int, pairs: int) -> Iterator[Callable[[Result], None]]:
    """A bar over the undisturbed rounds of all cells, `done` of which are over."""
    began, title = done * pairs, f"{title} ({done + 1} of {cells})"
    with tqdm(total=cells * pairs, initial=began, desc=title, unit="round", leave=False) as bar:

        def on_round(result: Result) -> None:
            bar.update(began + min(result.clean_rounds(), pairs) - bar.n)
            bar.set_postfix_str(f"{len(result.rounds) - result.clean_rounds()} spoilt")

        yield on_round


def record(result: Result) -> dict:
    """One cell, JSON-ready."""
    workload, job = result.workload, result.job
    sides = {}
    for name in result.names:
        turns, seconds = result.turns(name), result.seconds(name)
        sides[name] = {
            "seconds": seconds,
            "tokens_per_second": job.tokens(workload) / seconds,
            "cpu_seconds": float(np.median([t.cpu for t in turns])),
            "turns": [vars(r[name]) for r in result.rounds],
            "clean_turns": sum(r[name].clean for r in result.rounds),
            "memory": result.peak(name),
            **result.about[name],
        }
    return {
        "workload": workload.to_dict(),
        "job": job.name,
        "title": job.title,
        "rounds": len(result.rounds),
        "clean_rounds": result.clean_rounds(),
        "best": {kind: result.best(kind) for kind in KINDS if result.best(kind)},
        "sides": sides,
        "ratios": ratios(result),
    }


def ratios(result: Result) -> dict[str, dict]:
    """Best against best, "other / minilora" at equal cores, and by CPU time at one core.

    Of the matmuls and the full step it is the other way round, "minilora / other".
    """
    pairs, ours = {}, result.best("minilora")

    def add(title: str, kind: str, names: tuple[str, str], time: str = "wall") -> None:
        over, under = names if kind in UNDER else names[::-1]
        pairs[title] = {**result.ratio(over, under, time), "over": over, "under": under}

    for kind in KINDS[1:]:
        best = result.best(kind)
        if best:
            add(best_title(kind), kind, (ours, best))
    for name in result.names:
        kind, _, count = name.partition("@")
        same = f"minilora@{count}"
        if kind == "minilora" or same not in result.names:
            continue
        title = f"{same} / {name}" if kind in UNDER else f"{name} / {same}"
        add(title, kind, (same, name))
        if count == "1" and kind != "matmul":
            add(f"{title}, CPU", kind, (same, name), "cpu")
    return pairs


def best_title(kind: str) -> str:
    """The name of a ratio of both sides' best settings."""
    return f"minilora / {kind}, best" if kind in UNDER else f"{kind} / minilora, best"


def spread(ratio: dict) -> str:
    """A ratio with its 20-80 % band, its settings where they differ, and its pairs."""
    if ratio["median"] is None:
        return f"no clean pair of {ratio['dropped']}"
    text = f"{ratio['median']:.2f} [{ratio['low']:.2f}..{ratio['high']:.2f}]"
    dropped = f", {ratio['dropped']} dropped" if ratio["dropped"] else ""
    names = f"  {ratio['over']} / {ratio['under']}" if "over" in ratio else ""
    return f"{text}{names}, {ratio['pairs']} pairs{dropped}"


def show_about(console: Console, values: dict[str, str]) -> None:
    """The terms of the comparison."""
    shown.pairs(console, "minilora bench", values.items())


def show(console: Console, cell: dict) -> None:
    """One cell: a row for each side, then the ratios."""
    rows = []
    for name, side in cell["sides"].items():
        memory, bare = side["memory"], name.startswith("matmul")
        name += " *" if name in cell["best"].values() else ""
        rows.append(
            (
                name,
                f"{side['tokens_per_second']:,.0f}{'' if side['clean_turns'] else ' (busy)'}",
                f"{side['seconds'] * 1e3:,.2f}",
                f"{side['cpu_seconds'] * 1e3:,.2f}" if "@1" in name else "",
                "" if bare else shown.size(memory["growth"]),
                "" if bare else shown.size(memory["peak"]),
            )
        )
    headings = ("side@cores, * best", "tokens/s", "ms", "CPU ms", "memory +", "peak")
    shown.grid(console, cell_title(cell), headings, rows, range(1, 6))
    texts = [(name, spread(ratio)) for name, ratio in cell["ratios"].items()]
    texts.append(("rounds undisturbed", f"{cell['clean_rounds']} of {cell['rounds']}"))
    texts.append(("loss", losses(cell["sides"])))
    for name, side in cell["sides"].items():
        if name.startswith("torch"):
            texts.append((name, f"{side['version']}, attention {side['attention']}"))
    shown.pairs(console, "time of A / time of B: median [20 %..80 %]", texts)


def cell_title(cell: dict) -> str:
    """Size and job in words."""
    c, w = cell["workload"]["config"], cell["workload"]
    size = f"L {c['num_hidden_layers']}, d {c['hidden_size']}, ff {c['intermediate_size']}"
    size += f", V {c['vocab_size']}"
    if not cell["job"].startswith("generate"):
        size += f", {w['rows']} x {w['time']} tokens"
    if cell["job"] not in ("forward", "generate-1", "generate-8"):
        size += f", {w['labels']} labels a row"
    return f"{w['name']}: {cell['title']} ({size})"


def losses(sides: dict) -> str:
    """The loss of every side at the start and after three turns, and how far they differ."""
    texts = []
    for key, when in (("loss", "at the start"), ("loss_after", "after 3 turns")):
        told = {n: side[key] for n, side in sides.items() if n.partition("@")[0] not in OTHER_LOSS}
        values = list(told.values())
        apart = max(values) - min(values)
        texts.append(f"{when} {values[0]:.6f} ({len(values)} sides, {apart:.0e} apart)")
    return ", ".join(texts)


def profile_record(workload: Workload, job: Job, profile: Profile) -> dict:
    """A profile, JSON-ready."""
    return {"workload": workload.to_dict(), "job": job.name, "profile": profile.to_dict()}


def show_profile(console: Console, workload: Workload, job: Job, profile: Profile) -> None:
    """Shares of the step, then every op with what it spends beyond its bare products."""

    def line(name: str, seconds: float, note: str = "") -> tuple[str, str, str, str]:
        return name, f"{seconds * 1e3:,.2f}", f"{seconds / profile.total:.1%}", note

    rows = [
        line("matmul", profile.matmul, "its bare products, timed alone"),
        line("passes over elements", profile.passes, "the rest"),
        line("fresh memory", profile.faults, f"{profile.fault_count:,.0f} page faults"),
        line("Python", profile.python, "the same step on one row of two tokens"),
        line("step", profile.total, f"of it clipping and AdamW {profile.update * 1e3:.2f} ms"),
    ]
    title = f"{workload.name}: {job.title}, one process, one BLAS thread"
    shown.grid(console, title, ("share", "ms", "", ""), rows, (1, 2))
    rows = []
    by_cost = sorted(profile.ops.items(), key=lambda item: -sum(item[1][1:3]))
    for name, (calls, ahead, back, bare) in by_cost:
        rest = ahead + back - bare
        numbers = [f"{ms * 1e3:,.2f}" for ms in (ahead, back, bare, rest)]
        rows.append((name, str(calls), *numbers, f"{rest / profile.total:.1%}"))
    other = profile.total - sum(ahead + back for _, ahead, back, _ in profile.ops.values())
    rows.append(("tape, sums, update", "", "", "", "", f"{other * 1e3:,.2f}"))
    rows[-1] = (*rows[-1], f"{other / profile.total:.1%}")
    headings = ("op", "calls", "forward", "backward", "matmul", "beyond", "share")
    shown.grid(console, "ms a step by op", headings, rows, range(1, 7))
