"""The texts of the options by which commands train an adapter."""

from __future__ import annotations

from minilora.hub.bases import WARD
from minilora.lora import ALL_LINEAR
from minilora.nn import BASE_DTYPES
from minilora.runs import defaults

BASE_DTYPE_HELP = (
    f"How the frozen base is kept: {', '.join(BASE_DTYPES)} (5 bits a number, embedding 8.5); a "
    "layer's numbers are made for each product."
)
BATCH_HELP = f"Examples a step. Default: {defaults.BATCH}, or {defaults.SMALL_BATCH} on a big base."
STEPS_HELP = (
    f"Default: {defaults.PASSES} passes, but {defaults.FEWEST_STEPS} to {defaults.MOST_STEPS} "
    "steps, and fewer on a big base: as many as take minutes."
)
LR_HELP = (
    f"Peak learning rate. Default: {defaults.LR_TIMES_WIDTH} / width of the base, at most "
    f"{defaults.HIGHEST_LR}; {defaults.BIG_LR_TIMES_WIDTH} / width on a big base; with adapt's "
    f"--vera {defaults.VERA_TIMES:g}, --freeze-a {defaults.FROZEN_A_TIMES:g} and --pissa "
    f"{defaults.PISSA_TIMES:g} times that."
)
REPLAY_HELP = (
    "Share of what is trained on that is of the base's own tasks (0.2: a fifth), so that they are "
    "not lost."
)
REPLAY_DATA_HELP = f"Rows of the base's own tasks, as --data. Default, on {WARD}: the ward's own."
SUITE_HELP = (
    "JSONL of what the base can do and the adapter may not lose, for the gate. "
    f"Default, on {WARD}: the ward's."
)
TARGETS_HELP = (
    f"Names of linear layers, with commas between, or {ALL_LINEAR}. "
    f"Default: {','.join(defaults.TARGETS)}, or {defaults.BIG_TARGETS} on a "
    f"big base (width {defaults.BIG_WIDTH} or more)."
)


def target_names(text: str) -> tuple[str, ...] | str:
    """`--targets` as a plan takes it."""
    names = listed(text)
    return ALL_LINEAR if names == (ALL_LINEAR,) else names


def listed(text: str) -> tuple[str, ...]:
    """The parts of a text between commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
