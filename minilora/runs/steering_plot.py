"""The figure of the steering wheels: what each way to join keeps, and how good the forecast was."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from minilora.runs.figure import figure_in
from minilora.ward.steering import RULES

TOGETHER = "all four at once"
COLOURS = dict(zip(RULES, ("#4477aa", "#ee6677", "#228833", "#ccbb44"), strict=True))
COLOURS[TOGETHER] = "#333333"

Bars = Mapping[str, Mapping[str, Sequence[float]]]
"""Way to join -> rule, or TOGETHER -> share of answers that keep it, by seed."""


def plot_steering(bars: Bars, pairs: Sequence[Mapping], rho: float, path: Path) -> None:
    """Bars of the rules kept by method, with the range over seeds; loss by forecast beside it.

    pairs: with the keys disturbed, on_inputs and loss. rho: the rank correlation of the two.
    """
    with figure_in(path, 13, 4.6) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(8, 3))
        named = set()
        for i, shares in enumerate(bars.values()):
            for j, (rule, colour) in enumerate(COLOURS.items()):
                if rule in shares:
                    _bar(
                        left,
                        i + (j - 2) * 0.17,
                        shares[rule],
                        colour,
                        rule if rule not in named else None,
                    )
                    named.add(rule)
        left.set_xticks(range(len(bars)), [name.replace(", ", ",\n") for name in bars])
        left.tick_params(axis="x", labelsize=8)
        left.set(ylabel="answers that keep the rule (%)", ylim=(0, 105))
        left.set_title("Four adapters on one base, joined in each way")
        left.legend(fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.14))
        for rule in RULES:
            own = [pair for pair in pairs if pair["disturbed"] == rule]
            xs, ys = [p["on_inputs"] for p in own], [100 * p["loss"] for p in own]
            right.plot(xs, ys, "o", color=COLOURS[rule], label=rule, alpha=0.8)
        right.set(xlabel="forecast: |what the other adds| / |own|", ylabel="lost of the rule (%)")
        right.set_title(f"Pairs at weight 1, rank correlation {rho:+.2f}", fontsize=10)
        right.set_xscale("log", base=2)
        right.xaxis.set_major_formatter("{x:g}")
        right.grid(alpha=0.3)


def _bar(axes, place: float, values: Sequence[float], colour: str, label: str | None) -> None:
    middle = statistics.median(values)
    reach = [[100 * (middle - min(values))], [100 * (max(values) - middle)]]
    axes.bar(place, 100 * middle, 0.17, color=colour, label=label)
    axes.errorbar(place, 100 * middle, reach, color="black", linewidth=1, capsize=2)
