"""Rows of a file that name who is to answer them, and their answers from one bank."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from minilora.hub.several import BASE, NamedAdapter
from minilora.lora import BaseMark
from minilora.nn import Transformer
from minilora.serving.bank import AdapterBank
from minilora.text import Tokenizer
from minilora.text.answers import answers, question
from minilora.text.records import parse_json, shown


@dataclass(frozen=True)
class Asked:
    """A row of a file: its prompt, and the name of the adapter that is to answer it."""

    row: dict
    prompt: str
    name: str


def read_asked(path: Path, field: str, names: Collection[str]) -> list[Asked]:
    """The rows of JSON lines; row[field] is one of `names`, or missing or null for the base.

    Raises ValueError naming the first row that is no object, has no `prompt`, or names somebody
    else; for a file without rows, or without the field where there are names. Raises OSError for
    none that can be read.
    """
    asked = []
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                asked.append(_asked(parse_json(line), field, names))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from None
    if not asked:
        raise ValueError(f"{path} has no rows, expected JSON lines with a prompt each")
    if names and not any(field in one.row for one in asked):
        raise ValueError(
            f"{path}: got no row with the field {field!r}, expected it to name who answers: "
            f"{', '.join([*names, BASE])}"
        )
    return asked


def _asked(row: object, field: str, names: Collection[str]) -> Asked:
    if not isinstance(row, dict):
        raise ValueError(f"got {shown(row)}, expected an object")
    prompt, name = row.get("prompt"), row.get(field)
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"got 'prompt' {shown(prompt)}, expected a text")
    if name is not None and name not in names and name != BASE:
        known = ", ".join([*names, BASE])
        raise ValueError(f"got {field!r} {shown(name)}, expected one of {known}, or none")
    return Asked(row, prompt, BASE if name is None else name)


def bank_of(model: Transformer, chosen: Sequence[NamedAdapter], base: BaseMark) -> AdapterBank:
    """A bank of these adapters. Raises what `AdapterBank.add` does."""
    bank = AdapterBank(model, base=base)
    for one in chosen:
        if one.folder is not None:
            bank.add(one.name, one.folder)
    return bank


def answer_asked(
    bank: AdapterBank,
    tokenizer: Tokenizer,
    asked: Sequence[Asked],
    max_new_tokens: int,
    *,
    raw: bool = False,
    progress: str = "",
    workers: int = 1,
) -> list[str]:
    """Each row's greedy answer by its own adapter, in mixed batches. Raises as `answers` does."""
    prompts = [question(tokenizer, one.prompt, raw) for one in asked]
    with bank.rows([one.name for one in asked]):
        return answers(
            bank.model, tokenizer, prompts, max_new_tokens, progress=progress, workers=workers
        )
