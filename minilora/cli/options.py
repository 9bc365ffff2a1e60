"""The texts of options that several commands have."""

from __future__ import annotations

from minilora.hub.bases import NAMES, WARD
from minilora.nn import BASE_DTYPES

BASE_HELP = (
    f"Base model: {', '.join(NAMES)}, a Hugging Face folder or a .gguf file (./{WARD} for a folder "
    "of that name)."
)
DEVICE_HELP = "cpu, or gpu: a CUDA device, with CuPy (the gpu extra)."
BASE_OF_ADAPTER_HELP = f"{BASE_HELP} Default: the one the adapter names, else {WARD}."
BASE_DTYPE_HELP = (
    f"How the base is kept: {', '.join(BASE_DTYPES)}. Default: as the adapter was trained over."
)
RAW_HELP = (
    "Continue the prompt as it is, without the chat template: for what was trained on plain text."
)
RULES_HELP = (
    "TOML: drop, group_drop, confidence, power, and for a metric [metrics.'NAME'] drop, least, "
    "gating."
)
WORKERS_HELP = "Processes; 0: one a core, at most 4. On a GPU there is one."
TEXT_HELP = "Read the data as plain text, whatever it looks like."


def utf8(option: str, text: str) -> str:
    """The text of an option. Raises ValueError for bytes of the command line that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"got {option} with a byte that is not UTF-8 text (character {error.start + 1})"
        ) from None
    return text


def numbers(option: str, text: str, kind: type[int] | type[float]) -> tuple:
    """An option's numbers with commas between, whole ones for int.

    Raises ValueError for anything else.
    """
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"got {option} {text!r}, expected {wanted} with commas between") from None
