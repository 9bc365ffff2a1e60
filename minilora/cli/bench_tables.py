"""What `minilora bench` prints, from the records of minilora/bench."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console

from minilora.bench.op_times import Profile
from minilora.bench.race import OTHER_LOSS
from minilora.bench.summary import (
    GoalLine,
    Rate,
    SpeedLine,
    busy_cells,
    goal_lines,
    growths,
    speed_lines,
)
from minilora.bench.workloads import Job, Workload
from minilora.cli import show as shown

SPEED = (
    "", "tokens/s", "torch's", "torch/ ours", "20-80 %", "kept", "x mat- muls", "text- book",
    "x full step", "mem- ory",
)  # fmt: skip
LONG = (
    "workload, job", "minilora tokens/s", "torch tokens/s", "time torch / ours", "20-80 %",
    "pairs kept", "ours / bare matmuls", "textbook / ours", "ours / own full step",
    "memory ours / torch's",
)  # fmt: skip
AIMS = ("workload", "job", "measure", "goal", "measured", "20-80 %", "pairs", "")
VERDICTS = {True: "met", False: "not met", None: ""}
WIDE = 120


def show_about(console: Console, values: dict[str, str]) -> None:
    """The terms of the comparison."""
    shown.pairs(console, "minilora bench", values.items())


# --------------------------------------------------------------------------------------- one cell


def show_race(console: Console, cell: dict) -> None:
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
                f"{side['cpu_seconds'] * 1e3:,.2f}",
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
        if "version" in side:
            texts.append((name, f"{side['version']}, attention {side['attention']}"))
    shown.pairs(console, "time of A / time of B: median [20 %..80 %]", texts)


def cell_title(cell: dict) -> str:
    """Size and job in words."""
    c, w = cell["workload"]["config"], cell["workload"]
    size = f"L {c['num_hidden_layers']}, d {c['hidden_size']}, ff {c['intermediate_size']}"
    size += f", V {c['vocab_size']}"
    if not cell["job"].startswith(("generate", "bank")):
        size += f", {w['rows']} x {w['time']} tokens"
    if cell["job"] not in ("forward", "generate-1", "generate-8", "bank"):
        size += f", {w['labels']} labels a row"
    return f"{w['name']}: {cell['title']} ({size})"


def losses(sides: dict) -> str:
    """The loss of every side at the start and after three turns, and how far they differ."""
    texts = []
    for key, when in (("loss", "at the start"), ("loss_after", "after 3 turns")):
        values = [side[key] for n, side in sides.items() if n.partition("@")[0] not in OTHER_LOSS]
        apart = max(values) - min(values)
        texts.append(f"{when} {values[0]:.6f} ({len(values)} sides, {apart:.0e} apart)")
    return ", ".join(texts)


def spread(ratio: dict) -> str:
    """A ratio with its 20-80 % band, its settings where they differ, and its pairs."""
    if ratio["median"] is None:
        return f"no clean pair of {ratio['dropped']}"
    text = f"{ratio['median']:.2f} [{ratio['low']:.2f}..{ratio['high']:.2f}]"
    dropped = f", {ratio['dropped']} dropped" if ratio["dropped"] else ""
    names = f"  {ratio['over']} / {ratio['under']}" if "over" in ratio else ""
    return f"{text}{names}, {ratio['pairs']} pairs{dropped}"


def show_profile(console: Console, workload: Workload, job: Job, profile: Profile) -> None:
    """Shares of the step, then every op with what it spends beyond its bare products."""

    def line(name: str, seconds: float, note: str = "") -> tuple[str, str, str, str]:
        return name, f"{seconds * 1e3:,.2f}", f"{seconds / profile.total:.1%}", note

    known = profile.fault_count is not None
    faults = f"{profile.fault_count:,.0f} page faults" if known else "the system's CPU time"
    rows = [
        line("matmul", profile.matmul, "its bare products, timed alone"),
        line("passes over elements", profile.passes, "the rest"),
        line("fresh memory", profile.faults, faults),
        line("Python", profile.python, "the same step on one row of two tokens"),
        line("step", profile.total, f"of it clipping and AdamW {profile.update * 1e3:.2f} ms"),
    ]
    title = f"{workload.name}: {job.title}, one process, one BLAS thread"
    shown.grid(console, title, ("share", "ms", "", ""), rows, (1, 2))
    rows = []
    by_cost = sorted(profile.ops.items(), key=lambda item: -sum(item[1][1:3]))
    for name, (calls, ahead, back, bare) in by_cost:
        rest = ahead + back - bare
        numbers = [f"{seconds * 1e3:,.2f}" for seconds in (ahead, back, bare, rest)]
        rows.append((name, str(calls), *numbers, f"{rest / profile.total:.1%}"))
    other = profile.total - sum(ahead + back for _, ahead, back, _ in profile.ops.values())
    rows.append(("tape, sums, update", "", "", "", "", f"{other * 1e3:,.2f}"))
    rows[-1] = (*rows[-1], f"{other / profile.total:.1%}")
    headings = ("op", "calls", "forward", "backward", "matmul", "beyond", "share")
    shown.grid(console, "ms a step by op", headings, rows, range(1, 7))


def show_busy(console: Console, cell: dict) -> None:
    """A line a side: times, slow-down, and what the neighbour kept."""
    names = {"blas": "minilora, 1 process with {} BLAS threads", "minilora": "minilora, {} workers"}
    rows = []
    for name, slowdown in cell["slowdowns"].items():
        kind, _, count = name.partition("@")
        alone, busy = cell["seconds"][name]
        rows.append(
            (
                names.get(kind, "torch, {} threads").format(count),
                f"{alone * 1e3:,.1f}",
                f"{busy * 1e3:,.1f}",
                spread(slowdown),
                f"{cell['neighbour_keeps'][name]:.0%}",
            )
        )
    title = (
        f"{cell['workload']['name']} {cell['job']} beside a job that keeps every core busy "
        f"(fair share: {cell['fair']:g} x the time, the neighbour keeps {1 / cell['fair']:.0%})"
    )
    headings = ("side", "alone ms", "busy ms", "slow-down", "neighbour keeps")
    shown.grid(console, title, headings, rows, (1, 2, 4))


def show_growth(console: Console, record: dict) -> None:
    """A table for each axis, and one of memory."""
    for axis, columns in record["axes"].items():
        names = [name for name in columns if name != "values"]
        rows = [
            (str(value), *(f"{columns[name][i]:,.0f}" for name in names))
            for i, value in enumerate(columns["values"])
        ]
        headings = (axis, *(name.removesuffix(" tokens/s") for name in names))
        shown.grid(console, f"tokens/s by {axis}", headings, rows, range(len(headings)))
    lengths, kinds = record["axes"]["length"]["values"], record["kinds"]
    rows = [
        (str(length), *(shown.size(record["memory"][kind][i]["growth"]) for kind in kinds))
        for i, length in enumerate(lengths)
    ]
    title = "memory of a LoRA step above the loaded model, by length"
    shown.grid(console, title, ("length", *kinds), rows, range(len(kinds) + 1))
    if record["disturbed"]:
        shown.say(console, f"{record['disturbed']} points were never measured undisturbed")


def show_again(console: Console, records: Sequence[dict]) -> None:
    """The tables of what a summary leaves out: a busy neighbour's, and those of growth."""
    for cell in busy_cells(records):
        show_busy(console, cell)
    for record in growths(records):
        show_growth(console, record)


# ------------------------------------------------------------------------------------ the summary


def tables(records: Sequence[dict]) -> Iterator[tuple[str, Sequence[str], list[tuple], range]]:
    """(title, headings, rows, columns of numbers) of the summary."""
    lines = list(map(speed_row, speed_lines(records)))
    if lines:
        title = "each side at its best setting (@cores); ratios of interleaved turns, medians"
        yield title, LONG, lines, range(1, 10)
    goals = list(map(goal_row, goal_lines(records)))
    if goals:
        yield "goals", AIMS, goals, range(3, 7)


def show_summary(console: Console, records: Sequence[dict]) -> None:
    """The tables, for a terminal; in a file they are as wide as they need."""
    if not console.is_terminal:
        console = Console(width=WIDE)
    for title, headings, rows, right in tables(records):
        headings = SPEED if headings is LONG else headings
        shown.grid(console, title, headings, rows, right)


def markdown(about: dict[str, str], records: Sequence[dict]) -> str:
    """The tables for a README, with the machine under them."""
    parts = []
    for title, headings, rows, right in tables(records):
        marks = ["---:" if i in right else "---" for i in range(len(headings))]
        lines = [[h or "goal met" for h in headings], marks, *rows]
        parts.append(f"{title[0].upper()}{title[1:]}:\n")
        parts += [f"| {' | '.join(cell.strip() for cell in line)} |" for line in lines]
        parts.append("")
    parts += [f"- {name}: {text}" for name, text in about.items()]
    return "\n".join(parts) + "\n"


def speed_row(line: SpeedLine) -> tuple[str, ...]:
    """A line of the speeds; what is not about the peer stands in a cell's first line only."""
    ratio = line.over_torch
    whole = (
        rate(line.ours),
        *(middle(part) for part in (line.over_matmuls, line.over_textbook, line.over_full)),
    )
    ours, *rest = whole if line.first else [""] * len(whole)
    return (
        f"{line.workload} {line.job}" if line.first else f"  against {line.peer}",
        ours,
        rate(line.theirs),
        middle(ratio),
        band(ratio),
        f"{ratio['pairs']} of {ratio['pairs'] + ratio['dropped']}" if ratio else "",
        *rest,
        number(line.memory),
    )


def goal_row(line: GoalLine) -> tuple[str, ...]:
    """A line of the goals."""
    missing = line.value is None
    return (
        line.workload,
        line.job,
        line.measure,
        "" if line.aim is None else f"{'≤' if line.at_most else '≥'} {line.aim:g}",
        "not measured" if missing else number(line.value),
        "" if missing else band(line.ratio),
        str(line.ratio["pairs"]) if line.ratio else "",
        VERDICTS[line.met],
    )


def rate(best: Rate | None) -> str:
    """Tokens a second and the cores that gave it."""
    return f"{best.tokens_per_second:,.0f} @{best.cores}" if best else ""


def number(value: float | None) -> str:
    """With two decimals, nothing where there is none."""
    return "" if value is None else f"{value:.2f}"


def middle(ratio: dict | None) -> str:
    """The median."""
    return number(ratio["median"]) if ratio else ""


def band(ratio: dict | None) -> str:
    """The 20-80 % band."""
    return f"{ratio['low']:.2f}..{ratio['high']:.2f}" if ratio and ratio["median"] else ""


def show_gpu(console: Console, record: dict) -> None:
    """A line for each side on the card, and the bound of its products."""
    bound = record["bound_seconds"]
    rows = [
        (
            name,
            f"{1000 * side['seconds']:.3f}",
            f"{1000 * side['quartiles'][0]:.3f} to {1000 * side['quartiles'][1]:.3f}",
            f"{side['tokens_per_second']:,.0f}",
            f"{side['seconds'] / bound:.2f}",
        )
        for name, side in record["sides"].items()
    ]
    title = f"{record['workload']['name']} {record['job']} on {record['card']}, float32"
    headings = ("side", "ms, median", "quartiles", "tokens/s", "times the bound")
    shown.grid(console, title, headings, rows, right=(1, 2, 3, 4))
    rate = record["large_product_flops_a_second"] / 1e12
    text = f"Bound: {1000 * bound:.3f} ms, the products at a large one's {rate:.3g} Tflop/s."
    shown.say(console, text)
