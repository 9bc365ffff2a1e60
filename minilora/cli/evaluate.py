"""`minilora evaluate`: scores base, prompts and adapters on the same prompts, side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.cli.adapters import BASE, base_dtype_of_all, base_of_all, in_turn, named_adapters
from minilora.cli.cost import peak_memory_text, times_text
from minilora.cli.options import BASE_DTYPE_HELP, BASE_OF_ADAPTER_HELP, DEVICE_HELP
from minilora.cli.scores import comparison
from minilora.evaluation.cases import HOUSE, Case, chat, choose_shots, read_cases
from minilora.hub.bases import open_base
from minilora.nn import Transformer
from minilora.runs.plan import Clock
from minilora.storage import atomic_write, sha256_file
from minilora.text import Tokenizer
from minilora.text.answers import answers, check_lengths, prompt_ids
from minilora.ward import score_house

SPARE_TOKENS = 16
"""Room in an answer beyond the longest expected one."""
SHOWN_WRONG = 2

DATA_HELP = "JSONL: prompt and completion, or messages that end with the answer to compare with."
INSTRUCTION_HELP = (
    "Also ask the base with this at the end of each prompt. "
    f"{HOUSE}: the ward's house format in words, in place of its bare instruction."
)
SHOTS_HELP = "Also ask the base after so many worked examples, as earlier turns of the chat."


@dataclass(frozen=True)
class Variant:
    """A column of the table: how the cases are asked."""

    name: str
    instruction: str | None = None
    shots: tuple[Case, ...] = ()


def evaluate(
    data: Path = typer.Option(..., "--data", help=DATA_HELP),
    base: str = typer.Option(None, "--base", help=BASE_OF_ADAPTER_HELP),
    base_dtype: str = typer.Option(None, "--base-dtype", help=BASE_DTYPE_HELP),
    device: str = typer.Option("cpu", "--device", help=DEVICE_HELP),
    adapter: list[str] = typer.Option(
        [], "--adapter", metavar="[NAME=]DIR", help="An adapter to score; may be given again."
    ),
    rows: int = typer.Option(None, "--rows", help="Only the first so many. Default: all."),
    instruction: str = typer.Option(None, "--instruction", help=INSTRUCTION_HELP),
    shots: int = typer.Option(None, "--shots", help=SHOTS_HELP),
    examples: Path = typer.Option(None, "--examples", help="JSONL that the shots are taken from."),
    json_file: Path = typer.Option(None, "--json", help="Also write scores and answers here."),
) -> None:
    """Evaluate what you ship: greedy answers, compared with the expected ones.

    The base always has a column, so that an adapter stands beside what a prompt gets.
    """
    console, clock = Console(), Clock()
    if (shots is None) != (examples is None):
        raise ValueError("got one of --shots and --examples, expected both or none")
    require_writable(json_file)
    cases, problems = read_cases(data, rows)
    variants = list(base_variants(instruction, shots, examples, cases))
    show.problems(console, data, problems)
    chosen = named_adapters([BASE, *(one for one in adapter if one != BASE)])
    dtype = base_dtype_of_all(base_dtype, chosen)
    name = base_of_all(base, chosen)
    model, tokenizer = open_base(name, dtype, device)
    room = max(len(tokenizer.encode(case.expected)) for case in cases) + SPARE_TOKENS
    check(variants, cases, model, tokenizer, room)
    clock.lap("opening")
    results = []
    for one in in_turn(model, tokenizer, chosen, name):
        for variant in variants if one.folder is None else [Variant(one.name)]:
            result = score(model, tokenizer, cases, variant, room)
            results.append({**result, "adapter": str(one.folder or "")})
            clock.lap(variant.name)
    show_table(console, data, cases, results)
    show.say(console, f"Took {times_text(clock.laps)}. Peak memory: {peak_memory_text(device)}.")
    if json_file is not None:
        about = {"data": data.name, "sha256": sha256_file(data), "rows": len(cases)}
        about |= {"base": name, "base_dtype": dtype, "variants": results}
        atomic_write(json_file, (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode())


def require_writable(path: Path | None) -> None:
    """Raise ValueError where a file can't be written, before minutes are spent on what goes in."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ValueError(f"got --json {path}, expected a file in a folder that is there")


def base_variants(
    instruction: str | None, shots: int | None, examples: Path | None, cases: Sequence[Case]
) -> Iterator[Variant]:
    """How the base is asked: as the data does, with the instruction, with shots and all of it."""
    if instruction is not None and not instruction.strip():
        raise ValueError("got an empty --instruction, expected a text")
    yield Variant("base")
    if instruction is not None:
        yield Variant("base, instructed", instruction)
    if shots is not None:
        chosen = choose_shots(read_cases(examples)[0], shots, cases)
        yield Variant(f"base, {shots} shot{'s'[: shots > 1]}", instruction, tuple(chosen))


def check(
    variants: Sequence[Variant],
    cases: Sequence[Case],
    model: Transformer,
    tokenizer: Tokenizer,
    room: int,
) -> None:
    """Raise ValueError where a prompt of any variant has no room, before the first is answered."""
    for variant in variants:
        encoded = [prompt_ids(tokenizer, p) for p in prompts(cases, variant)]
        try:
            check_lengths(encoded, room, model.config.max_position_embeddings)
        except ValueError as error:
            raise ValueError(f"{variant.name}: {error}") from None


def prompts(cases: Sequence[Case], variant: Variant) -> list[list[dict]]:
    """Each case as the variant asks it."""
    return [chat(case, variant.instruction, variant.shots) for case in cases]


def score(
    model: Transformer, tokenizer: Tokenizer, cases: Sequence[Case], variant: Variant, room: int
) -> dict:
    """What the model answers to the cases, and its scores; JSON-ready."""
    asked = prompts(cases, variant)
    began = time.perf_counter()
    given = answers(model, tokenizer, asked, room, progress=variant.name)
    seconds = time.perf_counter() - began
    given = [text.strip() for text in given]
    right = [case.expected.strip() == text for case, text in zip(cases, given, strict=True)]
    result: dict = {
        "name": variant.name,
        "instruction": variant.instruction,
        "shots": [shot.source for shot in variant.shots],
        "prompt_tokens": sum(len(prompt_ids(tokenizer, p)) for p in asked) / len(asked),
        "seconds": seconds,
        "exact": sum(right) / len(right),
        "outputs": given,
    }
    for ward in sorted({case.ward for case in cases if case.ward}):
        pairs = [(c.house, text) for c, text in zip(cases, given, strict=True) if c.ward == ward]
        records, outputs = zip(*pairs, strict=True)
        result.setdefault("house", {})[ward] = score_house(ward, records, outputs).to_dict()
    return result


def show_table(
    console: Console, data: Path, cases: Sequence[Case], results: Sequence[dict]
) -> None:
    """One column a variant, and some answers of the last that are wrong."""
    # A file of one ward has its exact answers in the ward's rows.
    whole = len(results[0].get("house", {})) == 1 and all(case.ward for case in cases)
    scores = [{k: v for k, v in r.items() if k != "exact"} if whole else r for r in results]
    table = [
        *comparison(*scores),
        ("tokens of a prompt, mean", *(f"{r['prompt_tokens']:.0f}" for r in results)),
        ("seconds for all", *(f"{r['seconds']:.1f}" for r in results)),
    ]
    title = f"{len(cases)} prompts of {data.name}, greedy answers"
    headings = ("", *(r["name"] for r in results))
    show.grid(console, title, headings, table, right=range(1, len(headings)))
    last = results[-1]
    wrong = [
        (Path(case.source).name, case.expected, text)
        for case, text in zip(cases, last["outputs"], strict=True)
        if case.expected.strip() != text
    ]
    if wrong:
        title = f"{last['name']}: {min(len(wrong), SHOWN_WRONG)} of {len(wrong)} that differ"
        show.grid(console, title, ("line", "expected", "answer"), wrong[:SHOWN_WRONG])
