"""`minilora generate`: answers a prompt, token by token."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import typer

from minilora.backend import blas_threads, recommended_blas_threads
from minilora.cli.adapters import named_adapters
from minilora.cli.options import (
    BASE_DTYPE_HELP,
    BASE_OF_ADAPTER_HELP,
    DEVICE_HELP,
    RAW_HELP,
    WORKERS_HELP,
)
from minilora.cli.prompt import read_prompt
from minilora.hub.bases import open_base, public_name
from minilora.hub.several import BASE, base_dtype_of_all, base_of_all, in_turn, read_for_all
from minilora.lora import mark_base
from minilora.nn import generate as continue_prompts
from minilora.processes import recommended_workers
from minilora.runs.plan import require_workers
from minilora.serving.asked import answer_asked, bank_of, read_asked
from minilora.text import Tokenizer
from minilora.text.answers import prompt_ids, question, stop_ids
from minilora.text.streaming import TextStream

GROUP = "Serve"
MOST_TOKENS = 256
DATA_HELP = "JSON lines with a prompt each, in place of one prompt."
ROWS_BY_HELP = f"--data's field that names a row's adapter; without it {BASE}."
SEVERAL_HELP = f"Several answer in turn, each under its name; {BASE} is the base without one."


def generate(
    prompt: str = typer.Option(None, "--prompt", help="The prompt."),
    data: Path = typer.Option(None, "--data", help=DATA_HELP),
    rows_by: str = typer.Option("adapter", "--rows-by", metavar="FIELD", help=ROWS_BY_HELP),
    prompt_file: Path = typer.Option(
        None, "--prompt-file", help="UTF-8 file with the prompt (default: standard input)."
    ),
    base: str = typer.Option(None, "--base", help=BASE_OF_ADAPTER_HELP),
    base_dtype: str = typer.Option(None, "--base-dtype", help=BASE_DTYPE_HELP),
    device: str = typer.Option("cpu", "--device", help=DEVICE_HELP),
    adapter: list[str] = typer.Option(
        [], "--adapter", metavar="[NAME=]DIR", help=f"Adapter to answer with. {SEVERAL_HELP}"
    ),
    max_new_tokens: int = typer.Option(
        None, "--max-new-tokens", help=f"Default: {MOST_TOKENS}, or what the context has room for."
    ),
    temperature: float = typer.Option(0.0, "--temperature", help="0 takes the likeliest token."),
    top_p: float = typer.Option(1.0, "--top-p", help="Sample among this much probability."),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the sampling."),
    raw: bool = typer.Option(False, "--raw", help=RAW_HELP),
    workers: int = typer.Option(0, "--workers", help=f"Of --data. {WORKERS_HELP}"),
) -> None:
    """Answer a prompt on standard output, as the tokens come; nothing else is written there.

    With several adapters, each answers under a line with its name. With --data each row is answered
    by the adapter that it names, in batches that mix them, and written with its answer as JSON.

    Example: minilora generate --adapter tour/adapter --prompt-file note.txt
    """
    if data is not None and not (prompt is None and prompt_file is None and temperature == 0.0):
        raise ValueError("got --data beside a prompt or a temperature, expected it alone")
    require_workers(workers)
    chosen = named_adapters(adapter)
    if data is not None:
        asked = read_asked(data, rows_by, [one.name for one in chosen if one.folder is not None])
    else:
        text = read_prompt(prompt, prompt_file)
    dtype = base_dtype_of_all(base_dtype, chosen)
    name = base_of_all(base, chosen)
    model, tokenizer = open_base(name, dtype, device)
    if data is not None:
        bank = bank_of(model, chosen, mark_base(model, public_name(name), tokenizer, quick=True))
        count = MOST_TOKENS if max_new_tokens is None else max_new_tokens
        told = answer_asked(
            bank,
            tokenizer,
            asked,
            count,
            raw=raw,
            progress="rows",
            workers=workers or recommended_workers(),
        )
        for one, answer in zip(asked, told, strict=True):
            line = json.dumps({**one.row, "answer": answer}, ensure_ascii=False)
            typer.echo(line.encode("utf-8"))
        return
    ids = prompt_ids(tokenizer, question(tokenizer, text, raw))
    room = model.config.max_position_embeddings - len(ids)
    if room < 1:
        limit = model.config.max_position_embeddings
        raise ValueError(f"got a prompt of {len(ids)} tokens, expected fewer than {limit}")
    count = min(MOST_TOKENS, room) if max_new_tokens is None else max_new_tokens
    with blas_threads(recommended_blas_threads(model.config.hidden_size)):
        reading = read_for_all(model, chosen, [ids])
        for number, one in enumerate(in_turn(model, tokenizer, chosen, name)):
            output = Output(tokenizer, count, heading(one.name, number) if len(chosen) > 1 else "")
            continue_prompts(
                model,
                [ids],
                count,
                temperature=temperature,
                top_p=top_p,
                rng=np.random.default_rng(seed),
                stop_ids=stop_ids(model, tokenizer),
                on_token=lambda token, output=output: output.add(int(token[0])),
                reading=reading,
            )
            output.end()


def heading(name: str, number: int) -> str:
    """The line above an answer where there are several, with an empty one before it."""
    return ("\n" if number else "") + f"== {name} ==\n"


class Output:
    """Writes an answer to standard output as UTF-8, whatever the locale.

    The heading goes out with its first text, or at the end: not before an answer has begun.
    """

    def __init__(self, tokenizer: Tokenizer, most: int, heading: str = "") -> None:
        self.stream = TextStream(tokenizer, most)
        self.heading = heading

    def add(self, token: int) -> None:
        """Write the text that the token completes."""
        self._write(self.stream.add(token))

    def end(self) -> None:
        """Write what was held back, and a newline."""
        self._write(self.stream.end() + "\n")

    def _write(self, text: str) -> None:
        if text:
            typer.echo((self.heading + text).encode("utf-8"), nl=False)
            self.heading = ""
